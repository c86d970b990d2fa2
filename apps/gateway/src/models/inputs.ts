import { textProblem } from '@sluice/contract';
import type { Task } from '@sluice/tasks';
import { pointer } from '../http/body.js';
import { Problem } from '../http/problem.js';

/** Why a value is not accepted, and where in it. */
interface Refusal {
  path: readonly PropertyKey[];
  detail: string;
}

/** An input as the model's task reads it, or why it is not accepted. */
export function parseInput<Input>(
  task: Pick<Task<Input>, 'input' | 'texts'>,
  value: unknown,
  maxTextChars: number,
): { input: Input } | { refusal: Refusal } {
  const parsed = task.input.safeParse(value);
  if (!parsed.success) {
    const [issue] = parsed.error.issues;
    return { refusal: { path: issue?.path ?? [], detail: issue?.message ?? 'invalid' } };
  }
  for (const { path, text } of task.texts(parsed.data)) {
    const detail = textProblem(text, maxTextChars);
    if (detail) return { refusal: { path, detail } };
  }
  return { input: parsed.data };
}

/**
 * The parameters of a request as the model's task reads them.
 * @param task of the model
 * @param value as sent; a request without parameters has the defaults
 * @param facts of the model; what depends on them is checked by the worker while no live worker has reported them
 * @throws Problem `validation_failed` that names each wrong parameter
 */
export function parseParameters<Parameters, Facts>(
  task: Pick<Task<never, Parameters, never, Facts>, 'parameters' | 'wrongParameter'>,
  value: unknown,
  facts: Facts | undefined,
  maxTextChars: number,
): Parameters {
  const given = value ?? {};
  // JSON may have this field, which zod does not see.
  if (Object.hasOwn(given, '__proto__'))
    throw new Problem('validation_failed', {
      errors: [wrong(['__proto__'], 'Unknown parameter of this task')],
    });
  const parsed = task.parameters.safeParse(given);
  if (!parsed.success) {
    throw new Problem('validation_failed', {
      errors: parsed.error.issues.flatMap((issue) =>
        issue.code === 'unrecognized_keys'
          ? issue.keys.map((name) => wrong([name], 'Unknown parameter of this task'))
          : [wrong(issue.path, issue.message)],
      ),
    });
  }
  const texts = textsIn(parsed.data);
  const unusable = texts.find((text) => !text.isWellFormed());
  if (unusable !== undefined)
    throw new Problem('validation_failed', {
      errors: [wrong([], 'A text contains half a surrogate pair, which is not valid Unicode')],
    });
  if (texts.reduce((sum, text) => sum + Array.from(text).length, 0) > maxTextChars)
    throw new Problem('validation_failed', {
      errors: [wrong([], `The texts together have more than ${maxTextChars} characters`)],
    });
  const mismatch = facts === undefined ? undefined : task.wrongParameter(parsed.data, facts);
  if (mismatch) throw new Problem('validation_failed', { errors: [wrong([mismatch.name], mismatch.detail)] });
  return parsed.data;
}

const wrong = (path: readonly PropertyKey[], detail: string) => ({
  pointer: pointer(['parameters', ...path]),
  detail,
});

/** All texts in a value. */
function textsIn(value: unknown): string[] {
  if (typeof value === 'string') return [value];
  return typeof value === 'object' && value !== null ? Object.values(value).flatMap(textsIn) : [];
}
