import { ModelError } from '@sluice/shared';
import { logitsOf } from '../sequenceModel.js';
import { type LoadTaskModel, PROBE_TEXTS, resultOf } from '../taskModel.js';
import { labelsOf } from './labels.js';

const [WARM_UP] = PROBE_TEXTS;

/** Zero-shot classification with a model of natural language inference. */
export const loadZeroShotClassification: LoadTaskModel = async (model) => {
  const truncation = { direction: 'right', strategy: 'only_first' } as const;
  const [logits] = logitsOf(await model.run([{ text: WARM_UP, pair: WARM_UP }], truncation));
  const labels = labelsOf(model.folder, logits?.length ?? 0).map((label) => label.toLowerCase());
  if (labels.length < 2)
    throw new ModelError(
      'not_supported',
      'it has one output; zero-shot-classification needs entailment and contradiction',
    );
  // As transformers.pipelines.zero_shot_classification of Python: without a label for entailment it is the last one.
  const named = labels.findIndex((label) => label.startsWith('entail'));
  const entailment = named === -1 ? labels.length - 1 : named;
  return {
    facts: { entailment, contradiction: entailment === 0 ? labels.length - 1 : 0 },
    probes: { inputs: PROBE_TEXTS, parameters: { candidate_labels: ['films', 'food'] } },
    async run(rows, { truncation_direction: direction }) {
      const output = await model.run(rows, { direction, strategy: 'only_first' });
      const values = logitsOf(output);
      return output.rows.map((row, i) => resultOf(row, values[i]));
    },
  };
};
