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
/** A body that takes longer to arrive is given up: its connection is closed. */
const READ_TIMEOUT_MS = 60_000;

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
 * @returns a function that resolves to the body as its schema gives it, and throws a Problem: 400, 413, 415 or 422
 */
export function createReadBody(maxBytes: number) {
  const readBytes = express.raw({ type: () => true, limit: maxBytes });

  return async function readBody<T extends z.ZodType>(
    request: Request,
    response: Response,
    schema: T,
  ): Promise<z.infer<T>> {
    if (!saysJson(request)) throw new Problem('unsupported_media_type');
    const late = setTimeout(() => request.destroy(), READ_TIMEOUT_MS);
    await new Promise<void>((resolve, reject) => {
      readBytes(request, response, (error: unknown) => (error ? reject(readerProblem(error)) : resolve()));
    }).finally(() => clearTimeout(late));
    return check(schema, parse(request.body));
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

function parse(bytes: unknown): unknown {
  let text: string;
  try {
    text = new TextDecoder('utf-8', { fatal: true }).decode(
      bytes instanceof Buffer ? bytes : Buffer.alloc(0),
    );
  } catch (cause) {
    throw new Problem('invalid_encoding', { cause });
  }
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new Problem('invalid_json', { cause });
  }
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
