import type { Row, Task } from '@sluice/tasks';
import type { Response } from 'express';
import { type Answer, answerItems, laneOf } from '../dispatch/answerItems.js';
import { pointer } from '../http/body.js';
import { Problem } from '../http/problem.js';
import type { Slot } from '../limits/rateLimit.js';
import type { CatalogEntry } from './catalog.js';
import { parseInput, parseParameters } from './inputs.js';
import type { Tokenizers } from './tokenizers.js';

interface Limits {
  /** Maximum number of inputs, and of rows, of a request. */
  maxInputs: number;
  maxTextChars: number;
  /** Deadline of a request in the bulk lane, in milliseconds. */
  bulkTimeoutMs: number;
  /** To count what a request costs in windows of tokens. */
  tokenizers: Tokenizers;
}

interface Inputs {
  /** As they were sent. */
  inputs: readonly unknown[];
  /** Where the inputs are in the body. */
  at: readonly PropertyKey[];
  /** Whether the body has a list of inputs, so that an error names the index of one. */
  isList: boolean;
  /** As they were sent; the task parses them. */
  parameters: object;
  /** A shorter deadline that the request asks for, in seconds. */
  timeoutSeconds?: number | undefined;
  /** What the request has taken of the rate limit; here it takes what its inputs cost. */
  slot: Slot;
  /** Aborts when the client closes the connection. */
  signal: AbortSignal;
  response: Response;
}

/**
 * Has a model answer the inputs of a request: checks them, takes what they cost, chooses lane and deadline, and says in the
 * header field `X-Truncated-Inputs` how many were cut.
 * @param task of the model
 * @throws Problem `validation_failed`, `cost_over_limit`, `rate_limited`, and those of {@link answerItems}; ClientClosedRequest
 */
export type AnswerInputs = <Input, Parameters, Output, Facts, Raw>(
  model: CatalogEntry,
  task: Task<Input, Parameters, Output, Facts, Raw>,
  inputs: Inputs,
) => Promise<Answer<Output>[]>;

/** Numbers of a response with a vector for each token; as JSON they take up to 20 bytes each. */
const MAX_NUMBERS = 8_000_000;

const invalid = (path: readonly PropertyKey[], detail: string) =>
  new Problem('validation_failed', { errors: [{ pointer: pointer(path), detail }] });

/** Creates the function by which all families with many inputs in a request have them answered. */
export function createAnswerInputs({
  maxInputs,
  maxTextChars,
  bulkTimeoutMs,
  tokenizers,
}: Limits): AnswerInputs {
  return async (model, task, { inputs: given, at, isList, parameters: named, timeoutSeconds, ...work }) => {
    const { slot, signal, response } = work;
    if (given.length === 0) throw invalid(at, 'The list is empty');
    if (given.length > maxInputs)
      throw invalid(
        at,
        `The list has ${given.length} inputs; the maximum is ${maxInputs}. Send fewer inputs, or submit a job or a batch`,
      );
    const inputs = given.map((value, i) => {
      const parsed = parseInput(task, value, maxTextChars);
      if ('input' in parsed) return parsed.input;
      throw invalid([...at, ...(isList ? [i] : []), ...parsed.refusal.path], parsed.refusal.detail);
    });
    const check = () => {
      const facts = task.facts.safeParse(model.facts()).data;
      const parameters = parseParameters(task, named, facts, maxTextChars);
      const rows = inputs.reduce((sum, input) => sum + task.rows(input, parameters).length, 0);
      if (rows > maxInputs)
        throw invalid(
          at,
          `The request needs ${rows} rows of the model; the maximum is ${maxInputs}. Send fewer inputs, or submit a job or a batch`,
        );
      return { facts, parameters, rows };
    };
    let checked = check();
    if (model.reports().length === 0) {
      // What a request costs, and which parameters it may have, depends on the facts of the model, such as its prompts.
      await model.lanes.interactive.admission.requireWorker();
      checked = check();
    }
    const { facts, parameters, rows } = checked;
    const numbers = inputs.reduce(
      (sum, input) => sum + (task.outputNumbers?.(input, parameters, facts) ?? 0),
      0,
    );
    if (numbers > MAX_NUMBERS)
      throw invalid(at, 'The response would have too many numbers. Send fewer or shorter inputs');
    if (slot.counts('texts') || slot.counts('tokens')) {
      const tokens = slot.counts('tokens')
        ? await tokensOf(
            model,
            inputs.flatMap((input) => task.rows(input, parameters, facts)),
            tokenizers,
          )
        : 0;
      await slot.charge({ texts: rows, tokens });
    }
    const longestMs = laneOf(rows) === 'bulk' ? bulkTimeoutMs : model.spec.timeoutMs;
    const askedMs = timeoutSeconds === undefined ? longestMs : timeoutSeconds * 1000;
    const answers = await answerItems(model.lanes, task, {
      requestId: response.locals.requestId,
      inputs,
      parameters,
      timeoutMs: Math.min(askedMs, longestMs),
      signal,
    });
    response.locals.texts = rows;
    const truncated = answers.filter((answer) => answer.truncated).length;
    if (truncated > 0) response.set('X-Truncated-Inputs', String(truncated));
    return answers;
  };
}

/**
 * How many tokens the model reads of some rows.
 * @throws Problem `no_worker` while no live worker serves the model; `unavailable`
 */
async function tokensOf(model: CatalogEntry, rows: readonly Row[], tokenizers: Tokenizers): Promise<number> {
  const maxTokens = model.reports()[0]?.maxTokens;
  if (maxTokens === undefined) throw new Problem('no_worker');
  return (await tokenizers.of(model.spec)).count(rows, maxTokens);
}
