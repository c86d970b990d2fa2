import { once } from 'node:events';
import { type Duplex, PassThrough, type Readable } from 'node:stream';
import { setTimeout as delay } from 'node:timers/promises';
import { createGunzip } from 'node:zlib';
import type { Request, Response } from 'express';
import { ClientClosedRequest, Problem } from './problem.js';

/** How long an upload may send no data, in milliseconds. There is no limit for the whole upload. */
const IDLE_MS = 30_000;
/** A client that is refused during its upload may continue for this long, so that it reads the response. */
const LINGER_MS = 2_000;
/** A client that reads nothing of a response for this long, in milliseconds, is disconnected. */
const READ_TIMEOUT_MS = 60_000;

/**
 * Writes a part of a response, and waits while the client does not read. A client that does not continue is disconnected.
 * @param signal aborts when the client closes the connection
 */
export async function writePart(
  response: Response,
  part: string | Buffer,
  signal: AbortSignal,
): Promise<void> {
  if (response.write(part)) return;
  const timeout = AbortSignal.any([signal, AbortSignal.timeout(READ_TIMEOUT_MS)]);
  await once(response, 'drain', { signal: timeout }).catch(() => response.destroy());
}

/** Reads values from a stream, with a timeout for missing data. A refused client may finish, so that it reads the response. */
export async function* readStream<T>(
  request: Request,
  response: Response,
  read: (source: Readable) => AsyncGenerator<T>,
): AsyncGenerator<T> {
  // The stream is created only now, because nobody would handle its errors if the upload were refused before.
  const source = sourceOf(request);
  const onSilence = () => source.destroy(new Problem('request_timed_out'));
  const silence = setTimeout(onSilence, IDLE_MS);
  const onData = () => silence.refresh();
  request.on('data', onData);
  try {
    yield* read(source);
  } catch (error) {
    const problem = uploadProblem(error);
    if (problem instanceof Problem) {
      response.set('Connection', 'close');
      request.unpipe().resume();
      if (!request.complete) await Promise.race([once(request, 'end').catch(() => {}), delay(LINGER_MS)]);
    }
    throw problem;
  } finally {
    clearTimeout(silence);
    request.off('data', onData);
    // The consumer of the items has stopped: the client may finish sending, and reads the response.
    if (!request.complete) request.unpipe().resume();
  }
}

function uploadProblem(error: unknown): Error {
  if (error instanceof Problem || error instanceof ClientClosedRequest) return error;
  const code = error instanceof Error && 'code' in error ? String(error.code) : '';
  if (code === 'ECONNRESET') return new ClientClosedRequest();
  if (/^Z_|^ERR_/.test(code)) {
    return new Problem('invalid_encoding', { detail: 'The body cannot be decompressed', cause: error });
  }
  return error instanceof Error ? error : new Error(String(error));
}

/** The body as a separate stream, which can be destroyed without closing the connection. */
function sourceOf(request: Request): Duplex {
  if (request.destroyed && !request.complete) throw new ClientClosedRequest();
  const isGzip = /^gzip$/i.test(request.headers['content-encoding'] ?? '');
  const source = isGzip ? createGunzip() : new PassThrough();
  request.on('error', (error) => source.destroy(error));
  request.on('aborted', () => source.destroy(new ClientClosedRequest()));
  return request.pipe(source);
}
