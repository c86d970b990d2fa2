import { ModelError } from '@sluice/shared';
import * as z from 'zod';
import type { ModelFolder } from '../folder.js';

const labelsSchema = z.object({
  id2label: z.record(z.string(), z.union([z.string(), z.number()])).nullish(),
});

/**
 * The labels of a model in the order of its outputs. An output that `config.json` does not name is `LABEL_n`.
 * @param outputs how many outputs the model has
 * @throws ModelError `file_corrupt` if the file names more labels than there are outputs
 */
export function labelsOf(folder: ModelFolder, outputs: number): string[] {
  const { id2label } = folder.require('config.json', labelsSchema);
  const beyond = Object.keys(id2label ?? {}).find((index) => !(Number(index) < outputs));
  if (beyond !== undefined)
    throw new ModelError(
      'file_corrupt',
      `config.json names label ${beyond}, but the model has ${outputs} outputs`,
    );
  return Array.from({ length: outputs }, (_, i) => String(id2label?.[i] ?? `LABEL_${i}`));
}
