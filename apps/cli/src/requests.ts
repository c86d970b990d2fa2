import { createHash, randomUUID } from 'node:crypto';
import { open, readFile } from 'node:fs/promises';
import { ConnectionError, type JobBody, type Sluice, SluiceError } from '@sluice/client';
import { batchEndpointSchema, batchRequestSchema } from '@sluice/contract';
import { json } from '@sluice/shared';
import { CliError } from './cliError.js';
import { decode } from './encoding.js';
import { watch } from './jobs.js';

/** A first line that is longer is not recognized. */
const MAX_FIRST_LINE_BYTES = 1024 * 1024;
/** Errors of lines that are shown. */
const SHOWN_ERRORS = 10;

/** A file in OpenAI's format of batches. */
export interface RequestsFile {
  content: Buffer;
  endpoint: string;
}

/**
 * Reads a file in OpenAI's format of batches: a request on each line.
 * @returns undefined if the first line is no such request, or the file cannot be read, which reading it as texts reports
 */
export async function readRequests(path: string): Promise<RequestsFile | undefined> {
  if (path === '-') return undefined;
  const file = await open(path).catch(() => undefined);
  if (file === undefined) return undefined;
  try {
    const { bytesRead, buffer } = await file.read(Buffer.alloc(MAX_FIRST_LINE_BYTES));
    // A part of a larger file ends with a whole line, so that no character is cut.
    const end = bytesRead < buffer.length ? bytesRead : buffer.lastIndexOf('\n') + 1;
    const { text } = decode(path, buffer.subarray(0, end), undefined);
    const [first = ''] = text.trimStart().split('\n', 1);
    const request = json(batchRequestSchema).safeParse(first.trimEnd()).data;
    if (request === undefined) return undefined;
    const content = Buffer.from(decode(path, await readFile(path), undefined).text);
    return { content, endpoint: request.url };
  } catch {
    return undefined;
  } finally {
    await file.close();
  }
}

/**
 * Submits the requests of a file. The same file gives the same job.
 * @param isNew submits a new job, even if this file has one already
 * @returns the id of the job
 * @throws CliError that names the lines which are refused
 */
export async function submitRequests(
  sluice: Sluice,
  path: string,
  { content, endpoint }: RequestsFile,
  { isNew, signal }: { isNew: boolean; signal: AbortSignal },
): Promise<string> {
  if (!batchEndpointSchema.safeParse(endpoint).success)
    throw new CliError(
      `${path}, line 1: unsupported url "${endpoint}"; use ${batchEndpointSchema.options.join(' or ')}`,
    );
  const hash = createHash('sha256').update(content).digest('hex');
  const { jobId, errors } = await sluice.batchOfRequests(new Blob([new Uint8Array(content)]), {
    endpoint,
    idempotencyKey: `cli-${isNew ? randomUUID() : hash}`,
    signal,
  });
  if (errors.length === 0) return jobId;
  const lines = errors
    .slice(0, SHOWN_ERRORS)
    .map(({ line, message }) => (line === null ? message : `line ${line}: ${message}`));
  const more = errors.length > SHOWN_ERRORS ? `\nand ${errors.length - SHOWN_ERRORS} more` : '';
  throw new CliError(`${path}: nothing was submitted.\n${lines.join('\n')}${more}`);
}

/** Follows the job of a file with requests, and returns it with the lines of its output, in the order of the input. */
export async function outputsOf(
  sluice: Sluice,
  jobId: string,
  quiet: boolean,
  signal: AbortSignal,
): Promise<{ job: JobBody; lines: AsyncGenerator<string> }> {
  const job = await watch(sluice, jobId, quiet, signal);
  return { job, lines: sluice.requestOutputs(jobId, { signal }) };
}

/** Whether an error came from the server or the way to it. */
export const isRemote = (error: unknown): error is ConnectionError | SluiceError =>
  error instanceof ConnectionError || error instanceof SluiceError;
