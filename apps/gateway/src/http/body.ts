import type { ProblemCode } from '@sluice/contract';
import express, { type Request, type Response } from 'express';
import * as z from 'zod';
import { ClientClosedRequest, Problem } from './problem.js';

/** Error types of body-parser. */
const readerProblems: Readonly<Record<string, ProblemCode>> = {
  'entity.too.large': 'body_too_large',
  'encoding.unsupported': 'unsupported_media_type',
};
const readerErrorSchema = z.object({ type: z.string().optional(), code: z.string().optional() });
const MAX_ERRORS = 20;
const [QUOTE, BACKSLASH] = [0x22, 0x5c];
const [OPEN_BRACKET, CLOSE_BRACKET, OPEN_BRACE, CLOSE_BRACE] = [0x5b, 0x5d, 0x7b, 0x7d];
/** How long a body may send no data, and how long it may take in total, in milliseconds. */
const TIMEOUTS_MS = { idle: 10_000, total: 60_000 };
/** A body with many inputs may be this many times as large as another one. */
export const LARGE_BODIES = 8;
/** Maximum nesting depth of JSON; the bodies of the API need 2. */
const MAX_DEPTH = 32;
const utf8 = new TextDecoder('utf-8', { fatal: true });

/** A path in a body as a JSON Pointer (RFC 6901). */
export function pointer(path: readonly PropertyKey[]): string {
  return path.map((part) => `/${String(part).replaceAll('~', '~0').replaceAll('/', '~1')}`).join('');
}

/** Whether the content type of a request is JSON in UTF-8. */
function declaresJson(request: Request): boolean {
  const type = request.headers['content-type'] ?? '';
  return /^application\/json\s*(;|$)/i.test(type) && charsetIsUtf8(type);
}

/** Whether a request has no body (RFC 9112, section 6). */
export function hasNoBody({ headers }: Request): boolean {
  return headers['transfer-encoding'] === undefined && Number(headers['content-length'] ?? 0) === 0;
}

/** Whether the charset of a content type is UTF-8 or absent. */
export function charsetIsUtf8(type: string): boolean {
  const charset = /;\s*charset\s*=\s*"?([^";\s]*)/i.exec(type)?.[1];
  return /^(utf-?8)?$/i.test(charset ?? '');
}

/**
 * Creates the reader of JSON bodies.
 * @param maxBytes of a body, after decompression
 * @returns a function that resolves to the value of the JSON, and throws a Problem: 400, 408, 413 or 415
 */
export function createReadBody(maxBytes: number) {
  const readBytes = express.raw({ type: () => true, limit: maxBytes });

  return async function readBody(request: Request, response: Response): Promise<unknown> {
    if (!declaresJson(request)) throw new Problem('unsupported_media_type');
    checkContentEncoding(request);
    await new Promise<void>((resolve, reject) => {
      // The connection is closed after the response, so that the rest of the body is not read as a request.
      const giveUp = () => reject(new Problem('request_timed_out', { headers: { Connection: 'close' } }));
      const timers = [setTimeout(giveUp, TIMEOUTS_MS.idle), setTimeout(giveUp, TIMEOUTS_MS.total)] as const;
      const onData = () => timers[0].refresh();
      request.on('data', onData);
      readBytes(request, response, (error: unknown) => {
        for (const timer of timers) clearTimeout(timer);
        request.off('data', onData);
        if (error) reject(readerProblem(error));
        else resolve();
      });
    });
    return parseJson(bytesOf(request));
  };
}

/** The body that was read, after decompression. */
export const bytesOf = ({ body }: Request): Buffer => (body instanceof Buffer ? body : Buffer.alloc(0));

/**
 * Parses a part of a request with its schema.
 * @throws Problem `validation_failed` that names each invalid value
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
 * Checks that a body is uncompressed or gzip.
 * @throws Problem `unsupported_media_type`
 */
export function checkContentEncoding(request: Request): void {
  if (/^(identity|gzip)$/i.test(request.headers['content-encoding'] ?? 'identity')) return;
  throw new Problem('unsupported_media_type', { headers: { 'Accept-Encoding': 'gzip' } });
}

/**
 * Parses JSON text in UTF-8.
 * @param where names the text in error details, as in "Line 3"
 * @throws Problem `invalid_encoding` or `invalid_json`
 */
export function parseJson(bytes: Buffer, where = 'The body'): unknown {
  let text: string;
  try {
    text = utf8.decode(bytes);
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

/** Whether JSON text is nested too deeply. This runs before parsing, because a megabyte of brackets costs much memory. */
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
  if (type === 'request.aborted') return new ClientClosedRequest();
  const known = readerProblems[type ?? ''];
  if (known) return new Problem(known, { cause: error });
  // Errors of zlib, such as for a corrupt or incomplete gzip stream.
  if (/^Z_|^ERR_/.test(code ?? '')) {
    return new Problem('invalid_encoding', { detail: 'The body cannot be decompressed', cause: error });
  }
  return new Problem('bad_request', { cause: error });
}
