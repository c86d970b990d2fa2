import { once } from 'node:events';
import { type Duplex, PassThrough, type Readable } from 'node:stream';
import { setTimeout as delay } from 'node:timers/promises';
import { createGunzip } from 'node:zlib';
import type { BatchItem, batchLine } from '@sluice/contract';
import type { Request, Response } from 'express';
import type { z } from 'zod';
import {
  charsetIsUtf8,
  check,
  checkContentEncoding,
  type createReadBody,
  parseJson,
  pointer,
} from '../http/body.js';
import { ClientClosedRequest, Problem } from '../http/problem.js';

/** How long an upload may send no data, in milliseconds. There is no limit for the whole upload. */
const IDLE_MS = 30_000;
/** A client that is refused during its upload may continue for this long, so that it reads the response. */
const LINGER_MS = 2_000;
const NEWLINE = 0x0a;
const WHITE_SPACE: ReadonlySet<number> = new Set([0x20, 0x09, 0x0d, NEWLINE]);

/** An item as it arrives. */
export interface UploadedItem {
  item: BatchItem;
  /** The error for an item that the model's task does not accept, with its place in the body. */
  refuse(detail: string, path: readonly PropertyKey[]): Problem;
}

/** The items of a job as they arrive. */
export interface Upload {
  /** The model that the body names, if it names one. */
  model: string | undefined;
  /** The parameters that the body has, not parsed by the model's task yet. */
  parameters: Readonly<Record<string, unknown>> | undefined;
  /** Format of the body, which is part of its fingerprint. */
  type: 'json' | 'ndjson';
  /** Throws a Problem: 400, 408, 413, 422; ClientClosedRequest. */
  items: AsyncIterable<UploadedItem>;
  /** Ends the reading of an upload that is refused, so that its client reads the response. May be called twice. */
  close(): Promise<void>;
}

interface UploadOptions {
  /** Reads a whole JSON body. */
  readBody: ReturnType<typeof createReadBody>;
  /** Schema of a JSON body. */
  body: z.ZodType<{
    model?: string | undefined;
    parameters?: Record<string, unknown> | undefined;
    items: BatchItem[];
  }>;
  /** Schemas of a line of NDJSON. */
  lines: ReturnType<typeof batchLine>;
  /** Maximum size of an NDJSON body, after decompression. */
  maxBytes: number;
  /** Maximum size of one line, after decompression. */
  maxLineBytes: number;
}

/** Creates the reader of uploads. JSON is read as a whole; NDJSON is a stream of which only one line is in memory. */
export function createReadUpload({ readBody, body, lines, maxBytes, maxLineBytes }: UploadOptions) {
  /** The JSON values of the lines that are not blank, with their numbers. */
  async function* ndjson(source: Readable): AsyncGenerator<Line> {
    let number = 0;
    for await (const bytes of linesOf(source, maxBytes, maxLineBytes)) {
      number++;
      if (!isBlank(bytes)) yield { number, value: parseJson(bytes, `Line ${number}`) };
    }
  }

  /** The item of a line. @throws Problem */
  function itemOf({ number, value }: Line): UploadedItem {
    const schema =
      typeof value === 'string' ? lines.text : hasField(value, 'input') ? lines.input : lines.object;
    const item = parseLine(schema, number, value);
    const field = 'text' in item ? 'text' : 'input';
    const at = typeof value === 'string' ? [] : [field];
    return { item, refuse: (detail, path) => invalidLine(number, detail, [...at, ...path]) };
  }

  return async function readUpload(request: Request, response: Response): Promise<Upload> {
    const type = request.headers['content-type'] ?? '';
    if (!/^application\/(x-)?ndjson\s*(;|$)/i.test(type)) {
      const { items, model, parameters } = check(body, await readBody(request, response));
      return { model, parameters, type: 'json', items: iterate(items), close: async () => {} };
    }
    if (!charsetIsUtf8(type)) throw new Problem('unsupported_media_type');
    checkContentEncoding(request);
    const values = readStream(request, response, ndjson);
    // The first line may be about the whole batch.
    const first = await values.next();
    const isAbout = !first.done && hasField(first.value.value, 'batch');
    let about: z.infer<typeof lines.batch>['batch'] | undefined;
    try {
      if (isAbout) about = parseLine(lines.batch, first.value.number, first.value.value).batch;
    } catch (error) {
      await values.return(undefined);
      throw error;
    }
    return {
      model: about?.model,
      parameters: about?.parameters ?? undefined,
      type: 'ndjson',
      items: (async function* items() {
        try {
          if (!isAbout && !first.done) yield itemOf(first.value);
          for await (const line of values) yield itemOf(line);
        } finally {
          await values.return(undefined);
        }
      })(),
      close: async () => {
        await values.return(undefined);
      },
    };
  };
}

/** A line of NDJSON. */
interface Line {
  /** The number of the line, from 1. */
  number: number;
  value: unknown;
}

const hasField = (value: unknown, field: string) =>
  typeof value === 'object' && value !== null && Object.hasOwn(value, field);

/** @throws Problem that names the line */
function parseLine<T extends z.ZodType>(schema: T, number: number, value: unknown): z.infer<T> {
  const parsed = schema.safeParse(value);
  if (parsed.success) return parsed.data;
  const [issue] = parsed.error.issues;
  throw invalidLine(number, issue?.message ?? 'invalid', issue?.path);
}

async function* iterate(items: readonly BatchItem[]): AsyncGenerator<UploadedItem> {
  for (const [i, item] of items.entries())
    yield {
      item,
      refuse: (detail, path) =>
        new Problem('validation_failed', {
          errors: [{ pointer: pointer(['text' in item ? 'texts' : 'inputs', i, ...path]), detail }],
        }),
    };
}

/** Reads values from a stream, with a timeout for missing data. A refused client may finish, so that it reads the response. */
async function* readStream<T>(
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

/** The lines of a stream as bytes, without line ends. The last line may lack its end. */
async function* linesOf(source: Readable, maxBytes: number, maxLineBytes: number): AsyncGenerator<Buffer> {
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
    if (restBytes > maxLineBytes) throw invalidLine(number, 'too long');
    if (tail.length > 0) rest.push(tail);
  }
  if (restBytes > 0) yield Buffer.concat(rest);
}

/** Whether a line contains only white space as JSON defines it. */
const isBlank = (bytes: Buffer) => bytes.every((byte) => WHITE_SPACE.has(byte));

/** @param path of the invalid field in the JSON value of the line */
const invalidLine = (number: number, detail: string, path: readonly PropertyKey[] = []) =>
  new Problem('validation_failed', {
    detail: `Line ${number}: ${detail}`,
    errors: [{ pointer: pointer([number - 1, ...path]), detail }],
  });
