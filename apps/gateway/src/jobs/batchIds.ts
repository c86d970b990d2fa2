/** A job's id without its dashes, as it is part of the ids of a batch and its files. */
const plain = (jobId: string) => jobId.replaceAll('-', '');
const dashed = (hex: string) => hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5');

/** Which requests of a batch a file has: those with an answer, or the others. */
export type OutputKind = 'output' | 'errors';

/** The batch id of a job. */
export const batchIdOf = (jobId: string): string => `batch_${plain(jobId)}`;

/** The job of a batch. */
export const jobIdOf = (batchId: string): string => dashed(batchId.slice('batch_'.length));

export const outputIdOf = (jobId: string, kind: OutputKind): string => `file-${plain(jobId)}-${kind}`;

/** The job and the kind of an output file; undefined for an uploaded file. */
export function outputOf(fileId: string): { jobId: string; kind: OutputKind } | undefined {
  const [, hex, kind] = /^file-([0-9a-f]{32})-(output|errors)$/.exec(fileId) ?? [];
  return hex !== undefined && (kind === 'output' || kind === 'errors')
    ? { jobId: dashed(hex), kind }
    : undefined;
}
