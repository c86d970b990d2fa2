import { once } from 'node:events';
import type { Readable } from 'node:stream';
import { setTimeout as delay } from 'node:timers/promises';
import { createGunzip } from 'node:zlib';
import type { batchBody, batchLine } from '@sluice/contract';
import type { Item } from '@sluice/shared';
import type { Request, Response } from 'express';
import { CallerGone, Problem } from '../errors/problem.js';
import { charsetIsUtf8, type createReadBody } from './body.js';

/** An upload that sends nothing for so long is given up, in milliseconds; there is no limit to all of it. */
const IDLE_MS = 30_000;
/** A client that was refused in the middle may finish for so long, so that it reads the answer. */
const LINGER_MS = 2_000;
const NEWLINE = 0x0a;

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

  async function* ndjson(request: Request): AsyncGenerator<Item> {
    let number = 0;
    for await (const bytes of lines(decompressed(request), maxBytes, maxLineBytes)) {
      number++;
      const text = utf8(bytes, number);
      if (text.trim() === '') continue;
      let value: unknown;
      try {
        value = JSON.parse(text);
      } catch (cause) {
        throw new Problem('invalid_json', { detail: `Line ${number} is not valid JSON`, cause });
      }
      const parsed = line.safeParse(value);
      if (!parsed.success) throw wrongLine(number, lineDetail(parsed.error.issues));
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
    return { model: undefined, type: 'ndjson', items: watched(request, response, ndjson(request)) };
  };
}

async function* toItems(texts: readonly string[]): AsyncGenerator<Item> {
  for (const text of texts) yield { text };
}

/** Gives up on silence; lets a client that is refused finish, so that it reads why. */
async function* watched(
  request: Request,
  response: Response,
  items: AsyncIterable<Item>,
): AsyncGenerator<Item> {
  const { socket } = request;
  let silent = false;
  const onSilence = () => {
    silent = true;
    request.destroy(new Error('The upload fell silent'));
  };
  socket.setTimeout(IDLE_MS, onSilence);
  try {
    yield* items;
  } catch (error) {
    if (silent) throw new Problem('request_timed_out');
    if (!(error instanceof Problem)) {
      throw request.destroyed && !request.complete ? new CallerGone() : uploadProblem(error);
    }
    response.set('Connection', 'close');
    request.unpipe().resume();
    if (!request.complete) await Promise.race([once(request, 'end').catch(() => {}), delay(LINGER_MS)]);
    throw error;
  } finally {
    socket.setTimeout(0);
    socket.off('timeout', onSilence);
  }
}

function uploadProblem(error: unknown): Error {
  const code = error instanceof Error && 'code' in error ? String(error.code) : '';
  if (code === 'ECONNRESET') return new CallerGone();
  if (/^Z_|^ERR_/.test(code)) {
    return new Problem('invalid_encoding', { detail: 'The body does not decompress', cause: error });
  }
  return error instanceof Error ? error : new Error(String(error));
}

function decompressed(request: Request): Readable {
  const encoding = (request.headers['content-encoding'] ?? 'identity').toLowerCase();
  if (encoding === 'identity') return request;
  if (encoding !== 'gzip') throw new Problem('unsupported_media_type');
  const gunzip = createGunzip();
  request.on('error', (error) => gunzip.destroy(error));
  request.on('aborted', () => gunzip.destroy(new CallerGone()));
  return request.pipe(gunzip);
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

function utf8(bytes: Buffer, number: number): string {
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch (cause) {
    throw new Problem('invalid_encoding', { detail: `Line ${number} is not valid UTF-8`, cause });
  }
}

const wrongLine = (number: number, detail: string) =>
  new Problem('validation_failed', {
    detail: `Line ${number}: ${detail}`,
    errors: [{ pointer: `/${number - 1}`, detail }],
  });

/** What is wrong with a line, of what zod says of each form that it could have had. */
function lineDetail(issues: readonly { code: string; message: string; errors?: unknown }[]): string {
  const [issue] = issues;
  const forms = Array.isArray(issue?.errors)
    ? (issue.errors as { message: string; path: PropertyKey[] }[][])
    : [];
  const closest = forms.find(
    ([first]) => first && !/^Invalid input: expected (string|object)/.test(first.message),
  );
  return closest?.[0]?.message ?? 'neither a JSON string nor an object with "text"';
}
