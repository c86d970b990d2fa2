import type { Readable } from 'node:stream';
import type { BatchItem, batchLine } from '@sluice/contract';
import type { JobItem } from '@sluice/shared';
import type { Request, Response } from 'express';
import type * as z from 'zod';
import {
  charsetIsUtf8,
  check,
  checkContentEncoding,
  type createReadBody,
  parseJson,
  pointer,
} from '../http/body.js';
import { Problem } from '../http/problem.js';
import { readStream } from '../http/stream.js';
import { invalidLine, isBlank, linesOf } from './lines.js';

/** An item as it arrives. */
export interface UploadedItem {
  item: JobItem;
  /** The error for an item that the model's task does not accept, with its place in the body. */
  refuse(detail: string, path: readonly PropertyKey[]): Problem;
}

/** The items of a job as they arrive. */
export interface Upload {
  /** The model that the body names, if it names one. */
  model: string | undefined;
  /** The parameters that the body has, not parsed by the model's task yet. */
  parameters: Readonly<Record<string, unknown>> | undefined;
  /** URL that is notified when the job ends. */
  webhook: { url: string } | undefined;
  /** Format of the body, which is part of its fingerprint. */
  type: 'json' | 'ndjson' | 'openai';
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
    webhook?: { url: string } | undefined;
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
      const { items, model, parameters, webhook } = check(body, await readBody(request, response));
      return { model, parameters, webhook, type: 'json', items: iterate(items), close: async () => {} };
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
      webhook: about?.webhook ?? undefined,
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
