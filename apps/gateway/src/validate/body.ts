import type { ProblemCode } from '@sluice/contract';
import express, { type Request, type Response } from 'express';
import { z } from 'zod';
import { CallerGone, Problem } from '../errors/problem.js';

/** Types of the errors that body-parser gives. */
const readerProblems: Readonly<Record<string, ProblemCode>> = {
  'entity.too.large': 'body_too_large',
  'encoding.unsupported': 'unsupported_media_type',
};
const readerErrorSchema = z.object({ type: z.string().optional(), code: z.string().optional() });
const MAX_ERRORS = 20;
const [QUOTE, BACKSLASH] = [0x22, 0x5c];
const [OPEN_BRACKET, CLOSE_BRACKET, OPEN_BRACE, CLOSE_BRACE] = [0x5b, 0x5d, 0x7b, 0x7d];
/** A body that is silent for so long, or takes so long in all, is given up, in milliseconds. */
const TIMEOUTS_MS = { silence: 10_000, total: 60_000 };
/** Deepest nesting of JSON that is read; the API's own bodies have 2. */
const MAX_DEPTH = 32;

/** A path in a body as a JSON Pointer (RFC 6901). */
function pointer(path: readonly PropertyKey[]): string {
  return path.map((part) => `/${String(part).replaceAll('~', '~0').replaceAll('/', '~1')}`).join('');
}

/** Whether a request says that its body is JSON in UTF-8. */
function saysJson(request: Request): boolean {
  const type = request.headers['content-type'] ?? '';
  return /^application\/json\s*(;|$)/i.test(type) && charsetIsUtf8(type);
}

/** Whether a content type names UTF-8, or no charset. */
export function charsetIsUtf8(type: string): boolean {
  const charset = /;\s*charset\s*=\s*"?([^";\s]*)/i.exec(type)?.[1];
  return /^(utf-?8)?$/i.test(charset ?? '');
}

/**
 * Makes the reader of JSON bodies.
 * @param maxBytes of a body, after decompression
 * @returns a function that resolves to the body as its schema gives it, and throws a Problem: 400, 408, 413, 415 or 422
 */
export function createReadBody(maxBytes: number) {
  const readBytes = express.raw({ type: () => true, limit: maxBytes });

  return async function readBody<T extends z.ZodType>(
    request: Request,
    response: Response,
    schema: T,
  ): Promise<z.infer<T>> {
    if (!saysJson(request)) throw new Problem('unsupported_media_type');
    ensureKnownEncoding(request);
    await new Promise<void>((resolve, reject) => {
      // The connection closes behind the answer: what still comes of the body is no request.
      const giveUp = () => reject(new Problem('request_timed_out', { headers: { Connection: 'close' } }));
      const timers = [
        setTimeout(giveUp, TIMEOUTS_MS.silence),
        setTimeout(giveUp, TIMEOUTS_MS.total),
      ] as const;
      const heard = () => timers[0].refresh();
      request.on('data', heard);
      readBytes(request, response, (error: unknown) => {
        for (const timer of timers) clearTimeout(timer);
        request.off('data', heard);
        if (error) reject(readerProblem(error));
        else resolve();
      });
    });
    return check(schema, parseJson(request.body instanceof Buffer ? request.body : Buffer.alloc(0)));
  };
}

/**
 * Checks what a request brought against its schema.
 * @throws Problem `validation_failed` that names each thing that is wrong
 */
export function check<T extends z.ZodType>(schema: T, value: unknown): z.infer<T>;
export function check(schema: z.ZodType | undefined, value: unknown): unknown;
export function check(schema: z.ZodType | undefined, value: unknown): unknown {
  if (schema === undefined) return undefined;
  const parsed = schema.safeParse(value);
  if (parsed.success) return parsed.data;
  throw new Problem('validation_failed', {
    errors: parsed.error.issues
      .slice(0, MAX_ERRORS)
      .map(({ path, message }) => ({ pointer: pointer(path), detail: message })),
  });
}

/**
 * Passes when a body is plain or gzip.
 * @throws Problem `unsupported_media_type`
 */
export function ensureKnownEncoding(request: Request): void {
  if (/^(identity|gzip)$/i.test(request.headers['content-encoding'] ?? 'identity')) return;
  throw new Problem('unsupported_media_type', { headers: { 'Accept-Encoding': 'gzip' } });
}

/**
 * The value of JSON text in UTF-8.
 * @param where names the text at the beginning of what is told, as in "Line 3"
 * @throws Problem `invalid_encoding` or `invalid_json`
 */
export function parseJson(bytes: Buffer, where = 'The body'): unknown {
  let text: string;
  try {
    text = new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch (cause) {
    throw new Problem('invalid_encoding', { detail: `${where} is not valid UTF-8`, cause });
  }
  if (isDeep(bytes)) throw new Problem('invalid_json', { detail: `${where} is nested too deeply` });
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new Problem('invalid_json', { detail: `${where} is not valid JSON`, cause });
  }
}

/** Whether JSON text goes deeper than is read: looked at before it is parsed, for a megabyte of brackets costs memory. */
function isDeep(bytes: Buffer): boolean {
  let depth = 0;
  let inString = false;
  for (let i = 0; i < bytes.length; i++) {
    const byte = bytes[i];
    if (inString) {
      if (byte === BACKSLASH) i++;
      else if (byte === QUOTE) inString = false;
    } else if (byte === QUOTE) inString = true;
    else if (byte === OPEN_BRACKET || byte === OPEN_BRACE) {
      if (++depth > MAX_DEPTH) return true;
    } else if (byte === CLOSE_BRACKET || byte === CLOSE_BRACE) depth--;
  }
  return false;
}

function readerProblem(error: unknown): Error {
  const { type, code } = readerErrorSchema.parse(error);
  if (type === 'request.aborted') return new CallerGone();
  const known = readerProblems[type ?? ''];
  if (known) return new Problem(known, { cause: error });
  // zlib's own errors, as for a corrupt or cut gzip stream.
  if (/^Z_|^ERR_/.test(code ?? '')) {
    return new Problem('invalid_encoding', { detail: 'The body does not decompress', cause: error });
  }
  return new Problem('bad_request', { cause: error });
}
