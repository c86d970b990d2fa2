import { existsSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { type Dtype, type Log, ModelError, type ModelSpec, type Settings } from '@sluice/shared';
import { ModelFolder, requireWeights, weightsAmong } from '../model/folder.js';
import type { FetchedModel } from './fetchedModel.js';
import { processBytes } from './memory.js';

/**
 * Finds the files of a model, and downloads those of a model from the Hub that are not there yet.
 * @throws ModelError
 */
export async function fetchModel(
  spec: ModelSpec,
  settings: Settings,
  signal: AbortSignal,
  log: Log,
): Promise<FetchedModel> {
  const { source, dtype, revision } = spec;
  if ('repository' in source) {
    // Its libraries take a tenth of the start of a worker, and models in folders do not need them.
    const { fetchFromHub } = await import('./hub.js');
    return fetchFromHub(source, dtype, settings, signal, log);
  }
  const { folder } = source;
  if (!existsSync(folder) || !statSync(folder).isDirectory())
    throw new ModelError('source_not_found', `there is no folder ${folder}`);
  requireWeights(dtype, new ModelFolder(folder).files());
  const weightsBytes = weightsIn(folder, dtype);
  return { folder, weightsBytes, revision, verify: async () => {} };
}

/** Size of the weights of a dtype in a folder. */
function weightsIn(folder: string, dtype: Dtype): number {
  const weights = weightsAmong(new ModelFolder(folder).files(), dtype);
  return weights.reduce((sum, file) => sum + statSync(join(folder, file)).size, 0);
}

/** Memory that a process of a model will take at least; the weights count if they are in a folder of this machine. */
export function leastBytes({ source, dtype }: ModelSpec): number {
  return processBytes('folder' in source ? weightsIn(source.folder, dtype) : 0);
}
