import { setMaxListeners } from 'node:events';
import type { Lane, Outcome } from '@sluice/shared';
import type { Task } from '@sluice/tasks';
import type * as z from 'zod';
import type { Admission } from '../admission/admission.js';
import { Problem } from '../http/problem.js';
import type { Dispatcher } from './dispatcher.js';

/** A request with more rows than this uses the bulk lane, so that it does not hold up smaller ones. */
export const MAX_INTERACTIVE_ROWS = 128;

/** Dispatcher and admission of each lane of a model. */
type Lanes = Readonly<Record<Lane, { dispatcher: Dispatcher; admission: Admission }>>;

/** The lane of a request, by its rows. */
export const laneOf = (rows: number): Lane => (rows > MAX_INTERACTIVE_ROWS ? 'bulk' : 'interactive');

interface Request<Input, Parameters> {
  /** For the log. */
  requestId: string;
  /** At least one. */
  inputs: readonly Input[];
  parameters: Parameters;
  /** From now to the deadline, in milliseconds. */
  timeoutMs: number;
  /** Aborts when the client closes the connection. */
  signal: AbortSignal;
}

/** The answer to an input. */
export interface Answer<Output> {
  output: Output;
  /** Tokens that the model read. */
  tokens: number;
  /** Whether the input was truncated to the model's maximum number of tokens. */
  truncated: boolean;
}

/**
 * Has a model answer the inputs of a request, on the path that all families share: admission, queue, worker, reply. All
 * of them are answered, or the request fails as a whole.
 * @param task of the model
 * @throws Problem `no_worker`, `overloaded`, `unavailable`, `analysis_timed_out`, `analysis_failed`, `input_too_long` or
 *   `validation_failed`; ClientClosedRequest
 */
export async function answerItems<Input, Parameters, Output>(
  lanes: Lanes,
  task: Task<Input, Parameters, Output>,
  { requestId, inputs, parameters, timeoutMs, signal }: Request<Input, Parameters>,
): Promise<Answer<Output>[]> {
  const items = inputs.map((input) => ({ input, rows: task.rows(input, parameters).length }));
  const rows = items.reduce((sum, item) => sum + item.rows, 0);
  const lane = laneOf(rows);
  const { admission, dispatcher } = lanes[lane];
  await admission.requireWorker();
  admission.admit(rows, timeoutMs);
  const submit = async (item: (typeof items)[number], ended: AbortSignal) =>
    answerOf(
      task.output,
      await dispatcher.submit({ requestId, ...item, parameters, timeoutMs, signal: ended }),
    );
  const [first, ...others] = items;
  if (first && others.length === 0) return [await submit(first, signal)];
  const failed = new AbortController();
  const ended = AbortSignal.any([signal, failed.signal]);
  // Each item listens to it.
  setMaxListeners(0, ended);
  try {
    return await Promise.all(items.map((item) => submit(item, ended)));
  } catch (error) {
    // Nobody waits for the other items.
    failed.abort();
    throw error;
  }
}

function answerOf<Output>(schema: z.ZodType<Output>, outcome: Outcome): Answer<Output> {
  switch (outcome.kind) {
    case 'timed_out':
      throw new Problem('analysis_timed_out');
    case 'failed':
      throw new Problem('analysis_failed');
    case 'too_long':
      throw new Problem('input_too_long', {
        detail: `An input is longer than the ${outcome.maxTokens} tokens that the model can read, and "truncate" is false`,
      });
    case 'wrong_parameter':
      throw new Problem('validation_failed', {
        errors: [{ pointer: `/parameters/${outcome.name}`, detail: outcome.detail }],
      });
    case 'answer': {
      const output = schema.safeParse(outcome.output);
      if (!output.success) throw new Problem('analysis_failed', { cause: output.error });
      return { output: output.data, tokens: outcome.tokens, truncated: outcome.truncated };
    }
  }
}
