import { featureExtraction, textClassification, textRanking } from '@sluice/tasks';
import { Problem } from '../../http/problem.js';
import type { CatalogEntry } from '../../models/catalog.js';

/** What a cross-encoder's only output is called. */
const RANK_LABEL = 'LABEL_0';

/**
 * What text-embeddings-inference tells of a model.
 * @param maxInputs of a request
 * @param version of Sluice
 * @throws Problem `no_worker` while no live worker serves the model, `wrong_task`
 */
export async function infoOf(model: CatalogEntry, maxInputs: number, version: string) {
  const { spec } = model;
  if (typeOf(model) === undefined)
    throw new Problem('wrong_task', {
      detail: `/info does not support the task ${spec.task} of ${spec.id}; use a model for feature-extraction, text-classification or text-ranking`,
    });
  await model.lanes.interactive.admission.requireWorker();
  const modelType = typeOf(model);
  const [report] = model.reports();
  if (!report || !modelType) throw new Problem('no_worker');
  return {
    model_id: 'repository' in spec.source ? spec.source.repository : spec.id,
    model_sha: 'repository' in spec.source ? report.revision : null,
    model_dtype: report.dtype,
    served_model_name: spec.id,
    model_type: modelType,
    max_input_length: report.maxTokens,
    max_batch_tokens: spec.microBatch.tokens,
    max_batch_requests: spec.microBatch.rows,
    max_client_batch_size: maxInputs,
    auto_truncate: false,
    version,
    sha: null,
    docker_label: null,
  };
}

/** Undefined for a task that text-embeddings-inference does not have; null while no live worker has reported. */
function typeOf({ spec, facts }: CatalogEntry) {
  switch (spec.task) {
    case 'feature-extraction': {
      const known = featureExtraction.facts.safeParse(facts());
      return known.success ? { embedding: { pooling: known.data.pooling } } : null;
    }
    case 'text-classification': {
      const known = textClassification.facts.safeParse(facts());
      return known.success ? { classifier: labelsOf(known.data.labels) } : null;
    }
    case textRanking.name:
      return { reranker: labelsOf([RANK_LABEL]) };
    default:
      return undefined;
  }
}

const labelsOf = (labels: readonly string[]) => ({
  id2label: Object.fromEntries(labels.map((label, i) => [String(i), label])),
  label2id: Object.fromEntries(labels.map((label, i) => [label, i])),
});
