import { ModelError } from '@sluice/shared';
import { logitsOf } from '../sequenceModel.js';
import { type LoadTaskModel, PROBE_TEXTS, resultOf } from '../taskModel.js';

const [WARM_UP] = PROBE_TEXTS;

/** Text ranking with a cross-encoder, which has one output for a query and a text. */
export const loadTextRanking: LoadTaskModel = async (model) => {
  const truncation = { direction: 'right', strategy: 'longest_first' } as const;
  const [logits] = logitsOf(await model.run([{ text: WARM_UP, pair: WARM_UP }], truncation));
  if (logits?.length !== 1)
    throw new ModelError(
      'not_supported',
      `it has ${logits?.length ?? 0} outputs; text-ranking needs a model with one`,
    );
  return {
    facts: {},
    probes: { inputs: PROBE_TEXTS.map((text) => ({ query: 'a good film', texts: [text] })), parameters: {} },
    async run(rows, { truncation_direction: direction }) {
      const output = await model.run(rows, { direction, strategy: 'longest_first' });
      const values = logitsOf(output);
      return output.rows.map((row, i) => resultOf(row, values[i]));
    },
  };
};
