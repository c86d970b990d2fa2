import { once } from 'node:events';
import { type Duplex, PassThrough, type Readable } from 'node:stream';
import { setTimeout as delay } from 'node:timers/promises';
import { createGunzip } from 'node:zlib';
import type { batchBody, batchLine } from '@sluice/contract';
import type { Item } from '@sluice/shared';
import type { Request, Response } from 'express';
import { CallerGone, Problem } from '../errors/problem.js';
import { charsetIsUtf8, type createReadBody, ensureKnownEncoding, parseJson } from './body.js';

/** An upload that sends nothing for so long is given up, in milliseconds; there is no limit to all of it. */
const IDLE_MS = 30_000;
/** A client that was refused in the middle may finish for so long, so that it reads the answer. */
const LINGER_MS = 2_000;
const NEWLINE = 0x0a;
const WHITE_SPACE: ReadonlySet<number> = new Set([0x20, 0x09, 0x0d, NEWLINE]);

/** A batch on its way in. */
export interface Upload {
  /** As the body names it; undefined when it does not. */
  model: string | undefined;
  /** What the same body would have to be sent as. */
  type: 'json' | 'ndjson';
  /** The texts, as they arrive. Throws a Problem: 400, 408, 413, 422; CallerGone. */
  items: AsyncIterable<Item>;
}

interface UploadOptions {
  /** Reads a JSON body whole. */
  readBody: ReturnType<typeof createReadBody>;
  body: ReturnType<typeof batchBody>;
  line: ReturnType<typeof batchLine>;
  /** Of an NDJSON body, after decompression. */
  maxBytes: number;
  maxTextChars: number;
}

/** Makes the reader of batches: JSON whole, NDJSON as a stream that is never held whole. */
export function createReadUpload({ readBody, body, line, maxBytes, maxTextChars }: UploadOptions) {
  // A character takes up to 12 bytes as JSON (a pair of \u escapes); the rest is the caller's id and the syntax.
  const maxLineBytes = 12 * maxTextChars + 8_192;

  async function* ndjson(source: Readable): AsyncGenerator<Item> {
    let number = 0;
    for await (const bytes of lines(source, maxBytes, maxLineBytes)) {
      number++;
      if (isBlank(bytes)) continue;
      const value = parseJson(bytes, `Line ${number}`);
      const parsed = (typeof value === 'string' ? line.text : line.object).safeParse(value);
      if (!parsed.success) throw wrongLine(number, parsed.error.issues[0]?.message ?? 'wrong');
      yield parsed.data;
    }
  }

  return async function readUpload(request: Request, response: Response): Promise<Upload> {
    const type = request.headers['content-type'] ?? '';
    if (!/^application\/(x-)?ndjson\s*(;|$)/i.test(type)) {
      const { texts, model } = await readBody(request, response, body);
      return { model, type: 'json', items: toItems(texts) };
    }
    if (!charsetIsUtf8(type)) throw new Problem('unsupported_media_type');
    ensureKnownEncoding(request);
    return { model: undefined, type: 'ndjson', items: patiently(request, response, ndjson) };
  };
}

async function* toItems(texts: readonly string[]): AsyncGenerator<Item> {
  for (const text of texts) yield { text };
}

/** Gives up on silence; lets a client that is refused in the middle finish, so that it reads why. */
async function* patiently(
  request: Request,
  response: Response,
  read: (source: Readable) => AsyncGenerator<Item>,
): AsyncGenerator<Item> {
  // Only now: an upload that is refused before it is read has no stream whose errors nobody hears.
  const source = sourceOf(request);
  const onSilence = () => source.destroy(new Problem('request_timed_out'));
  const silence = setTimeout(onSilence, IDLE_MS);
  const heard = () => silence.refresh();
  request.on('data', heard);
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
    request.off('data', heard);
    // Refused by whoever takes the texts: the client may finish sending, and reads why.
    if (!request.complete) request.unpipe().resume();
  }
}

function uploadProblem(error: unknown): Error {
  if (error instanceof Problem || error instanceof CallerGone) return error;
  const code = error instanceof Error && 'code' in error ? String(error.code) : '';
  if (code === 'ECONNRESET') return new CallerGone();
  if (/^Z_|^ERR_/.test(code)) {
    return new Problem('invalid_encoding', { detail: 'The body does not decompress', cause: error });
  }
  return error instanceof Error ? error : new Error(String(error));
}

/** A body as it is read: a stream behind the request, which can end without ending the request's connection. */
function sourceOf(request: Request): Duplex {
  if (request.destroyed && !request.complete) throw new CallerGone();
  const isGzip = /^gzip$/i.test(request.headers['content-encoding'] ?? '');
  const source = isGzip ? createGunzip() : new PassThrough();
  request.on('error', (error) => source.destroy(error));
  request.on('aborted', () => source.destroy(new CallerGone()));
  return request.pipe(source);
}

/** The lines of a stream, as bytes without their end; the last one need not have one. */
async function* lines(source: Readable, maxBytes: number, maxLineBytes: number): AsyncGenerator<Buffer> {
  let rest: Buffer[] = [];
  let restBytes = 0;
  let total = 0;
  let number = 1;
  for await (const part of source as AsyncIterable<Buffer>) {
    total += part.length;
    if (total > maxBytes) throw new Problem('body_too_large');
    let from = 0;
    for (let at = part.indexOf(NEWLINE); at !== -1; at = part.indexOf(NEWLINE, from)) {
      yield Buffer.concat([...rest, part.subarray(from, at)]);
      rest = [];
      restBytes = 0;
      number++;
      from = at + 1;
    }
    const tail = part.subarray(from);
    restBytes += tail.length;
    if (restBytes > maxLineBytes) throw wrongLine(number, 'too long');
    if (tail.length > 0) rest.push(tail);
  }
  if (restBytes > 0) yield Buffer.concat(rest);
}

/** Whether a line holds nothing but white space, as JSON knows it. */
const isBlank = (bytes: Buffer) => bytes.every((byte) => WHITE_SPACE.has(byte));

const wrongLine = (number: number, detail: string) =>
  new Problem('validation_failed', {
    detail: `Line ${number}: ${detail}`,
    errors: [{ pointer: `/${number - 1}`, detail }],
  });
