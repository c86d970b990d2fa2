import { type Log, ModelError, type ModelSpec } from '@sluice/shared';

/**
 * Memory of a model process: Node and the libraries, and the weights with what the runtime makes of them. Measured after
 * work on long rows: 207 MB with weights of 2 MB, 239 with 24, 332 with 91, 792 with 438.
 */
const PROCESS_BYTES = 230e6;
const PER_WEIGHT_BYTE = 1.4;
/** The part of the available memory that model processes may take. */
const USABLE = 0.9;

const megabytes = (bytes: number) => Math.round(bytes / 1e6);

/** Memory that a process of a model takes. */
export const processBytes = (weightsBytes: number): number => PROCESS_BYTES + PER_WEIGHT_BYTE * weightsBytes;

/**
 * How many processes of a model fit into memory. If fewer fit than are configured, a warning is logged.
 * @param reservedBytes for a process of each model that is still to be loaded; one process of this model goes first
 * @param availableBytes memory that this machine or container has left after the models that are already loaded
 * @returns at least 1
 * @throws ModelError `not_enough_memory` if none fits
 */
export function processesThatFit(
  { processes }: Pick<ModelSpec, 'processes'>,
  weightsBytes: number,
  { availableBytes, reservedBytes }: { availableBytes: number; reservedBytes: number },
  log: Log,
): number {
  const eachBytes = processBytes(weightsBytes);
  const usableBytes = USABLE * availableBytes;
  const shared = Math.floor((usableBytes - reservedBytes) / eachBytes);
  const fitting = usableBytes < eachBytes ? 0 : Math.max(1, shared);
  if (fitting >= processes) return processes;
  const need = `a process needs about ${megabytes(eachBytes)} MB, and ${megabytes(availableBytes)} MB are available for all models`;
  if (fitting === 0)
    throw new ModelError('not_enough_memory', `${need}; serve fewer models (WORKER_MODELS) or smaller ones`);
  log.warn(
    { configured: processes, processes: fitting },
    `Starting fewer processes than configured: ${need}. Set "processes" in models.json, or MODEL_PROCESSES, to this number`,
  );
  return fitting;
}
