import { setImmediate } from 'node:timers/promises';
import type { InferenceRoutes } from '@sluice/contract';
import { featureExtraction } from '@sluice/tasks';
import { z } from 'zod';
import { answerItems, laneOf } from '../../dispatch/answerItems.js';
import { pointer } from '../../http/body.js';
import type { HandlersOf } from '../../http/family.js';
import { Problem } from '../../http/problem.js';
import type { Catalog, CatalogEntry } from '../../models/catalog.js';
import { parseInput, parseParameters } from '../../models/inputs.js';
import { jsonOutput } from '../../models/jsonOutput.js';

interface Services {
  catalog: Catalog;
  /** Maximum number of inputs, and of rows, of a request. */
  maxInputs: number;
  maxTextChars: number;
  /** Deadline of a request in the bulk lane, in milliseconds. */
  bulkTimeoutMs: number;
}

/** Outputs that are written as JSON before other requests go on. */
const OUTPUTS_AT_ONCE = 32;

/** Inputs of an embedding model that ask how similar sentences are to another one. */
const similaritySchema = z.object({ source_sentence: z.string(), sentences: z.array(z.string()).min(1) });

const invalid = (path: readonly PropertyKey[], detail: string) =>
  new Problem('validation_failed', { errors: [{ pointer: pointer(path), detail }] });

/** Handler of the route that all models share. */
export function inferenceRoutes({
  catalog,
  maxInputs,
  maxTextChars,
  bulkTimeoutMs,
}: Services): HandlersOf<InferenceRoutes> {
  /** The inputs of a request, and whether it was a list. */
  function readInputs({ task }: CatalogEntry, given: unknown): { inputs: unknown[]; isList: boolean } {
    const isList = Array.isArray(given);
    const values: unknown[] = isList ? given : [given];
    if (values.length === 0) throw invalid(['inputs'], 'The list is empty');
    if (values.length > maxInputs)
      throw invalid(
        ['inputs'],
        `The list has ${values.length} inputs; the maximum is ${maxInputs}. Submit a job instead`,
      );
    const inputs = values.map((value, i) => {
      const parsed = parseInput(task, value, maxTextChars);
      if ('input' in parsed) return parsed.input;
      throw invalid(['inputs', ...(isList ? [i] : []), ...parsed.refusal.path], parsed.refusal.detail);
    });
    return { inputs, isList };
  }

  return {
    async infer({ params, body, signal, response }) {
      const model = catalog.find(params.id);
      if (model === undefined)
        throw new Problem('not_found', {
          detail: `Not Found: no model is configured under the id "${params.id}"`,
        });
      const { task, spec } = model;
      const similarity =
        spec.task === featureExtraction.name ? similaritySchema.safeParse(body.inputs).data : undefined;
      const { inputs, isList } = readInputs(
        model,
        similarity ? [similarity.source_sentence, ...similarity.sentences] : body.inputs,
      );
      const parameters = parseParameters(task, parametersOf(model, body), model.facts(), maxTextChars);
      const rows = inputs.reduce<number>((sum, input) => sum + task.rows(input, parameters).length, 0);
      if (rows > maxInputs)
        throw invalid(
          ['inputs'],
          `The request needs ${rows} rows of the model; the maximum is ${maxInputs}. Submit a job instead`,
        );
      const longestMs = laneOf(rows) === 'bulk' ? bulkTimeoutMs : spec.timeoutMs;
      const askedMs = body.timeout_seconds === undefined ? longestMs : body.timeout_seconds * 1000;
      const answers = await answerItems(model.lanes, task, {
        requestId: response.locals.requestId,
        inputs,
        parameters,
        timeoutMs: Math.min(askedMs, longestMs),
        signal,
      });
      response.locals.texts = rows;
      const truncated = answers.filter((answer) => answer.truncated).length;
      if (truncated > 0) response.set('X-Truncated-Inputs', String(truncated));
      if (similarity) return similarities(answers.map(({ output }) => output));
      const outputs: unknown[] = [];
      for (const [i, { output }] of answers.entries()) {
        outputs.push(jsonOutput(output));
        // Vectors take long to write as decimals.
        if (i % OUTPUTS_AT_ONCE === OUTPUTS_AT_ONCE - 1) await setImmediate();
      }
      // This API answers a single text with a list for classification.
      return isList || spec.task === 'text-classification' ? outputs : outputs[0];
    },
  };
}

/** The parameters of a request. For embeddings this API has them also beside the inputs. */
function parametersOf({ spec }: CatalogEntry, body: Readonly<Record<string, unknown>>): object {
  const given = typeof body.parameters === 'object' ? body.parameters : undefined;
  if (spec.task !== featureExtraction.name) return given ?? {};
  const names = Object.keys(featureExtraction.parameters.shape);
  return { ...Object.fromEntries(Object.entries(body).filter(([name]) => names.includes(name))), ...given };
}

/** The cosine of the first vector with each of the others. */
function similarities(outputs: readonly unknown[]): number[] {
  const [first = new Float32Array(), ...others] = outputs.map((output) =>
    featureExtraction.output.parse(output),
  );
  const dot = (one: Float32Array, other: Float32Array) =>
    one.reduce((sum, value, i) => sum + value * (other[i] ?? Number.NaN), 0);
  return others.map((other) => dot(first, other) / Math.sqrt(dot(first, first) * dot(other, other)));
}
