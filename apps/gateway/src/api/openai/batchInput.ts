import { setImmediate } from 'node:timers/promises';
import {
  type BatchEndpoint,
  batchRequestSchema,
  type embeddingsBody,
  FIRST_SERVER_STATUS,
  type moderationsBody,
} from '@sluice/contract';
import type { JobItem } from '@sluice/shared';
import { featureExtraction, textClassification } from '@sluice/tasks';
import { parseJson, pointer } from '../../http/body.js';
import { Problem } from '../../http/problem.js';
import { isBlank, linesOf } from '../../jobs/lines.js';
import type { UploadedItem } from '../../jobs/upload.js';
import type { Catalog, CatalogEntry } from '../../models/catalog.js';
import { parseInput, parseParameters } from '../../models/inputs.js';
import { refuseTokens } from './embeddings.js';
import { moderationInputs, moderationModel } from './moderations.js';

/** Why a line of a file is refused. */
export interface LineError {
  code: string;
  /** From 1; null for the file as a whole. */
  line: number | null;
  message: string;
  param: string | null;
}

/** A file with lines that are refused; nothing of it becomes a batch. */
export class InvalidFile extends Error {
  constructor(
    readonly errors: readonly LineError[],
    /** Lines with a request. */
    readonly lines: number,
  ) {
    super('The file has invalid lines');
  }
}

/** Errors that are collected before the rest of a file is skipped. */
const MAX_LINE_ERRORS = 100;
/** Lines that are checked before other requests go on. */
const LINES_AT_ONCE = 200;
/** Codes of the errors of a line; every other one is `invalid_request`. */
const CODES: Partial<Record<Problem['code'], string>> = {
  invalid_json: 'invalid_json_line',
  invalid_encoding: 'invalid_json_line',
  model_not_found: 'model_not_found',
  wrong_task: 'wrong_task',
};

interface Options {
  endpoint: BatchEndpoint;
  bodies: { embeddings: ReturnType<typeof embeddingsBody>; moderations: ReturnType<typeof moderationsBody> };
  catalog: Catalog;
  maxTextChars: number;
  /** Maximum number of inputs of a request. */
  maxInputs: number;
  maxRequests: number;
  /** Aborts when the client closes the connection. */
  signal: AbortSignal;
  maxFileBytes: number;
  maxLineBytes: number;
}

const invalid = (path: readonly PropertyKey[], detail: string) =>
  new Problem('validation_failed', { errors: [{ pointer: pointer(path), detail }] });

/** Models by the name that a request for moderations gives. The default one, without a name, is the same for the whole file. */
type ModerationModels = Map<string | undefined, CatalogEntry>;

/** A parsed request of the file. */
interface Request {
  model: CatalogEntry;
  item: JobItem;
}

/**
 * Reads the requests of a file.
 * @param content of the file
 * @returns the model of all requests, and the requests as items of a job. The items throw {@link InvalidFile} at the end if a
 *   line is refused
 * @throws InvalidFile if there is no line with a model; Problem `no_worker`, `unavailable`
 */
export async function readBatchInput(
  content: AsyncIterable<Buffer>,
  options: Options,
): Promise<{ model: CatalogEntry; items: AsyncGenerator<UploadedItem> }> {
  const errors: LineError[] = [];
  const state = { lines: 0 };
  const requests = requestsOf(content, options, errors, state);
  const first = await requests.next();
  if (first.done) {
    if (errors.length === 0)
      errors.push({ code: 'empty_file', line: null, message: 'The file has no requests', param: null });
    throw new InvalidFile(errors, state.lines);
  }
  async function* items(): AsyncGenerator<UploadedItem> {
    const refuse = (detail: string, path: readonly PropertyKey[]) => invalid(path, detail);
    try {
      if (first.value) yield { item: first.value.item, refuse };
      for await (const { item } of requests) yield { item, refuse };
    } finally {
      await requests.return(undefined);
    }
    if (errors.length > 0) throw new InvalidFile(errors, state.lines);
  }
  return { model: first.value.model, items: items() };
}

/** The valid requests of a file; the others become errors. */
async function* requestsOf(
  content: AsyncIterable<Buffer>,
  options: Options,
  errors: LineError[],
  state: { lines: number },
): AsyncGenerator<Request, undefined> {
  const ids = new Map<string, number>();
  const models: ModerationModels = new Map();
  let number = 0;
  let model: CatalogEntry | undefined;
  const refuse = (code: string, message: string, param: string | null = null) =>
    errors.push({ code, line: number, message, param });
  try {
    for await (const bytes of linesOf(content, options.maxFileBytes, options.maxLineBytes)) {
      number++;
      if (isBlank(bytes)) continue;
      if (++state.lines > options.maxRequests) {
        errors.push({
          code: 'too_many_requests',
          line: null,
          message: `The file has more than ${options.maxRequests} requests`,
          param: null,
        });
        return undefined;
      }
      options.signal.throwIfAborted();
      if (number % LINES_AT_ONCE === 0) await setImmediate();
      try {
        const line = lineOf(bytes, options.endpoint);
        const known = ids.get(line.custom_id);
        if (known !== undefined)
          refuse(
            'duplicate_custom_id',
            `custom_id "${line.custom_id}" is used in line ${known} too`,
            'custom_id',
          );
        ids.set(line.custom_id, known ?? number);
        const request = await requestOf(line, options, models);
        if (model && request.model !== model)
          refuse(
            'mismatched_model',
            `The model ${request.model.spec.id} differs from ${model.spec.id} in the lines before. All requests of a batch must use the same model`,
            'body.model',
          );
        model ??= request.model;
        if (errors.length === 0) yield request;
      } catch (error) {
        // A server error is not an error of the line.
        if (!(error instanceof Problem) || error.status >= FIRST_SERVER_STATUS) throw error;
        const [wrong] = error.errors ?? [];
        const isModel = error.code === 'model_not_found' || error.code === 'wrong_task';
        const field = wrong?.pointer.slice(1).replace(/^parameters(?=\/)/, 'body');
        const param = isModel ? 'body.model' : field?.replaceAll('/', '.') || null;
        refuse(CODES[error.code] ?? 'invalid_request', wrong?.detail ?? error.message, param);
      }
      if (errors.length >= MAX_LINE_ERRORS) return undefined;
    }
  } catch (error) {
    // A line that is too long; what follows it cannot be read.
    if (!(error instanceof Problem && error.code === 'validation_failed')) throw error;
    number++;
    refuse('invalid_json_line', error.message);
  }
  return undefined;
}

/** @throws Problem */
function lineOf(bytes: Buffer, endpoint: BatchEndpoint) {
  const parsed = batchRequestSchema.safeParse(parseJson(bytes, 'The line'));
  if (!parsed.success) {
    const [issue] = parsed.error.issues;
    throw invalid(issue?.path ?? [], issue?.message ?? 'invalid');
  }
  if (parsed.data.url !== endpoint)
    throw invalid(['url'], `The endpoint of the batch is ${endpoint}, not ${parsed.data.url}`);
  return parsed.data;
}

/** @throws Problem */
async function requestOf(
  { custom_id, body }: ReturnType<typeof lineOf>,
  options: Options,
  models: ModerationModels,
): Promise<Request> {
  return options.endpoint === '/v1/embeddings'
    ? embeddingRequest(custom_id, body, options)
    : moderationRequest(custom_id, body, options, models);
}

function embeddingRequest(id: string, given: object, { bodies, catalog, ...limits }: Options): Request {
  const body = parsed(bodies.embeddings, given);
  const model = catalog.forTask(body.model, featureExtraction.name);
  const isList = Array.isArray(body.input);
  const inputs: unknown[] = Array.isArray(body.input) ? body.input : [body.input];
  refuseTokens(inputs, ['body', 'input']);
  checkInputs(featureExtraction, inputs, isList, limits);
  const facts = featureExtraction.facts.safeParse(model.facts()).data;
  const parameters = { truncate: false, ...(body.dimensions == null ? {} : { dimensions: body.dimensions }) };
  parseParameters(featureExtraction, parameters, facts, limits.maxTextChars);
  return { model, item: { inputs, parameters, format: body.encoding_format ?? 'float', id } };
}

async function moderationRequest(
  id: string,
  given: object,
  { bodies, catalog, ...limits }: Options,
  models: ModerationModels,
): Promise<Request> {
  const body = parsed(bodies.moderations, given);
  const { inputs, isList } = moderationInputs(body.input);
  checkInputs(textClassification, inputs, isList, limits);
  const name = body.model ?? undefined;
  const model = models.get(name) ?? (await moderationModel(catalog, name));
  models.set(name, model);
  return { model, item: { inputs, parameters: {}, id } };
}

function parsed<T>(
  schema: {
    safeParse(
      value: unknown,
    ):
      | { success: true; data: T }
      | { success: false; error: { issues: { path: PropertyKey[]; message: string }[] } };
  },
  value: unknown,
): T {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const [issue] = result.error.issues;
  throw invalid(['body', ...(issue?.path ?? [])], issue?.message ?? 'invalid');
}

function checkInputs(
  task: typeof featureExtraction | typeof textClassification,
  inputs: readonly unknown[],
  isList: boolean,
  { maxInputs, maxTextChars }: Pick<Options, 'maxInputs' | 'maxTextChars'>,
): void {
  const at = ['body', 'input'];
  if (inputs.length === 0) throw invalid(at, 'The list is empty');
  if (inputs.length > maxInputs)
    throw invalid(at, `The list has ${inputs.length} inputs; the maximum is ${maxInputs}`);
  for (const [i, input] of inputs.entries()) {
    const result = parseInput<unknown>(task, input, maxTextChars);
    if ('refusal' in result) throw invalid([...at, ...(isList ? [i] : [])], result.refusal.detail);
  }
}
