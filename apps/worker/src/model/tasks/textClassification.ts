import type { textClassification } from '@sluice/tasks';
import { logitsOf } from '../sequenceModel.js';
import { type LoadTaskModel, PROBE_TEXTS, resultOf } from '../taskModel.js';
import { labelsOf } from './labels.js';

const [WARM_UP] = PROBE_TEXTS;

/** Text classification: one label of several, several labels, or one number. */
export const loadTextClassification: LoadTaskModel = async (model) => {
  const { problem_type: problemType } = model.config;
  const truncation = { direction: 'right', strategy: 'longest_first' } as const;
  const [logits] = logitsOf(await model.run([{ text: WARM_UP }], truncation));
  const labels = labelsOf(model.folder, logits?.length ?? 0);
  // As transformers.pipelines.text_classification of Python.
  const functionToApply =
    problemType === 'regression'
      ? 'none'
      : problemType === 'multi_label_classification' || labels.length === 1
        ? 'sigmoid'
        : 'softmax';
  return {
    facts: { labels, functionToApply } satisfies ReturnType<typeof textClassification.facts.parse>,
    probes: { inputs: PROBE_TEXTS, parameters: {} },
    async run(rows, { truncation_direction: direction }) {
      const output = await model.run(rows, { direction, strategy: 'longest_first' });
      const values = logitsOf(output);
      return output.rows.map((row, i) => resultOf(row, values[i]));
    },
  };
};
