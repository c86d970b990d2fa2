import type { HuggingFaceRoutes } from '@sluice/contract';
import { featureExtraction, vectorSchema } from '@sluice/tasks';
import * as z from 'zod';
import type { HandlersOf } from '../../http/family.js';
import type { AnswerInputs } from '../../models/answerInputs.js';
import type { Catalog, CatalogEntry } from '../../models/catalog.js';
import { jsonOutput, showEach } from '../../models/jsonOutput.js';
import { similarities } from '../../models/similarities.js';

interface Services {
  catalog: Catalog;
  answerInputs: AnswerInputs;
}

/** Inputs of an embedding model that ask how similar sentences are to another one. */
const similaritySchema = z.object({ source_sentence: z.string(), sentences: z.array(z.string()).min(1) });

/** Handler of the route that all models share. */
export function inferenceRoutes({ catalog, answerInputs }: Services): HandlersOf<HuggingFaceRoutes> {
  return {
    async infer({ params, body, slot, signal, response }) {
      const model = catalog.named(params.id);
      const similarity =
        model.spec.task === featureExtraction.name ? similaritySchema.safeParse(body.inputs).data : undefined;
      const given = similarity ? [similarity.source_sentence, ...similarity.sentences] : body.inputs;
      const isList = Array.isArray(given);
      const answers = await answerInputs(model, model.task, {
        inputs: isList ? given : [given],
        at: ['inputs'],
        isList,
        parameters: parametersOf(model, body),
        timeoutSeconds: body.timeout_seconds,
        slot,
        signal,
        response,
      });
      const outputs = answers.map(({ output }) => output);
      if (similarity) return similarities(outputs.map((output) => vectorSchema.parse(output)));
      const shown = await showEach(outputs, (output) => jsonOutput(output));
      // This API answers a single text with a list for classification.
      return isList || model.spec.task === 'text-classification' ? shown : shown[0];
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
