import { randomUUID } from 'node:crypto';
import type { OpenAiRoutes } from '@sluice/contract';
import { type LabelScore, textClassification } from '@sluice/tasks';
import * as z from 'zod';
import type { HandlersOf } from '../../http/family.js';
import { Problem } from '../../http/problem.js';
import type { AnswerInputs } from '../../models/answerInputs.js';
import type { Catalog, CatalogEntry } from '../../models/catalog.js';
import { refuseTokens } from './embeddings.js';

interface Services {
  catalog: Catalog;
  answerInputs: AnswerInputs;
}

const partSchema = z.object({ type: z.literal('text'), text: z.string() });

/** Whether the labels of a model are independent of each other; undefined while no live worker has reported it. */
function isMultiLabel(model: CatalogEntry): boolean | undefined {
  const facts = textClassification.facts.safeParse(model.facts()).data;
  return facts && facts.functionToApply === 'sigmoid' && facts.labels.length > 1;
}

/**
 * The named model, or the first one whose labels are independent of each other.
 * @throws Problem `model_not_found`, `wrong_task`, `no_worker`, `unavailable`
 */
export async function moderationModel(catalog: Catalog, name: string | undefined): Promise<CatalogEntry> {
  const candidates =
    name === undefined
      ? catalog.entries.filter(({ spec }) => spec.task === textClassification.name)
      : [catalog.forTask(name, textClassification.name)];
  const unknown = () => candidates.find((each) => isMultiLabel(each) === undefined);
  const fitting = () => candidates.find(isMultiLabel);
  if (!fitting() && unknown()) await catalog.refresh();
  const found = fitting();
  if (found) return found;
  // A model that no live worker serves may be the right one.
  await unknown()?.lanes.interactive.admission.requireWorker();
  if (unknown()) throw new Problem('no_worker');
  throw new Problem('wrong_task', {
    detail:
      name === undefined
        ? 'Moderations need a multi-label classifier, and none is configured'
        : `${candidates[0]?.spec.id} is not a multi-label classifier; moderations need one`,
  });
}

/** The texts of a request: one, a list, or the parts of one text. */
export function moderationInputs(given: unknown): { inputs: unknown[]; isList: boolean } {
  if (!Array.isArray(given)) return { inputs: [given], isList: false };
  refuseTokens(given);
  if (!given.some((part) => typeof part === 'object' && part !== null))
    return { inputs: given, isList: true };
  const texts = given.map((part, i) => {
    const parsed = partSchema.safeParse(part);
    if (parsed.success) return parsed.data.text;
    throw new Problem('validation_failed', {
      errors: [{ pointer: `/input/${i}`, detail: 'Only parts {"type": "text", "text": …} are accepted' }],
    });
  });
  return { inputs: [texts.join('\n')], isList: false };
}

/** The moderation result of a text in OpenAI's format. */
function moderationOf(scores: readonly LabelScore[], threshold: number) {
  const flags = scores.map(({ label, score }) => [label, score >= threshold] as const);
  return {
    flagged: flags.some(([, isOver]) => isOver),
    categories: Object.fromEntries(flags),
    category_scores: Object.fromEntries(scores.map(({ label, score }) => [label, score])),
    category_applied_input_types: Object.fromEntries(scores.map(({ label }) => [label, ['text' as const]])),
  };
}

/** The body of a response with moderations. */
export const moderationsAnswer = (
  id: string,
  model: string,
  outputs: readonly (readonly LabelScore[])[],
  threshold: number,
) => ({ id, model, results: outputs.map((scores) => moderationOf(scores, threshold)) });

/** Handler of the route about moderations. */
export function moderationsHandlers({
  catalog,
  answerInputs,
}: Services): Pick<HandlersOf<OpenAiRoutes>, 'moderations'> {
  return {
    async moderations({ body, slot, signal, response }) {
      const list = moderationInputs(body.input);
      const model = await moderationModel(catalog, body.model ?? undefined);
      const answers = await answerInputs(model, textClassification, {
        ...list,
        at: ['input'],
        parameters: {},
        slot,
        signal,
        response,
      });
      return moderationsAnswer(
        `modr-${randomUUID().replaceAll('-', '')}`,
        model.spec.id,
        answers.map(({ output }) => output),
        model.spec.threshold,
      );
    },
  };
}
