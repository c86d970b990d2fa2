import {
  type ErrorFacts,
  type FamilyErrors,
  type LimitUnit,
  type ProblemBody,
  type ProblemCode,
  problems,
} from '@sluice/contract';
import { isStorageFull } from '@sluice/shared';

interface ProblemOptions {
  /** Replaces the default detail of the code. */
  detail?: string;
  errors?: ProblemBody['errors'];
  /** Header fields of the response. */
  headers?: Readonly<Record<string, string>>;
  /** Further members of the body (RFC 9457, section 3.2). */
  extensions?: Readonly<Record<string, unknown>>;
  /** The underlying error, for the log; never sent. */
  cause?: unknown;
}

/** Seconds after which a client may retry, where the error does not say it itself. */
const RETRY_AFTER_SECONDS: Partial<Record<ProblemCode, number>> = {
  no_worker: 2,
  unavailable: 1,
  shutting_down: 2,
  nearly_full: 30,
  storage_full: 30,
};

/** An error that is sent to the client, named by its code in the catalogue of the contract. */
export class Problem extends Error implements ErrorFacts {
  override name = 'Problem';
  readonly detail: string;
  readonly status: number;
  readonly headers: Readonly<Record<string, string>>;
  readonly extensions: Readonly<Record<string, unknown>>;
  readonly errors: ProblemBody['errors'];
  /** Of `rate_limited`: what the key has used up. */
  readonly unit: LimitUnit | undefined = undefined;

  constructor(
    readonly code: ProblemCode,
    { detail, errors, headers, extensions, cause }: ProblemOptions = {},
  ) {
    super(detail ?? problems[code].detail, { cause });
    this.detail = this.message;
    this.status = problems[code].status;
    this.errors = errors;
    this.extensions = extensions ?? {};
    const retryAfter = RETRY_AFTER_SECONDS[code];
    this.headers = { ...(retryAfter ? { 'Retry-After': String(retryAfter) } : {}), ...headers };
  }
}

/** The client closed the connection before the response, so there is nobody to send an error to. */
export class ClientClosedRequest extends Error {
  override name = 'ClientClosedRequest';
}

/** How a family of routes writes its errors. */
export interface ErrorFormat {
  contentType: string;
  /** Statuses that differ from those of the problems. */
  errors?: Pick<FamilyErrors, 'statuses'>;
  /** Further header fields of the response. */
  headers?(problem: Problem): Readonly<Record<string, string>>;
  /** The body of the response. */
  body(problem: Problem, requestId: string): object;
}

/**
 * How a family writes its errors, as JSON.
 * @param headers further header fields of an error
 */
export const errorFormatOf = (errors: FamilyErrors, headers?: ErrorFormat['headers']): ErrorFormat => ({
  contentType: 'application/json',
  errors,
  ...(headers ? { headers } : {}),
  body: (problem) => errors.body(problem),
});

/**
 * Awaits a call to Redis for a request. The client gets no details.
 * @throws Problem `storage_full` or `unavailable`, with the error as its cause
 */
export async function fromRedis<T>(call: Promise<T>): Promise<T> {
  try {
    return await call;
  } catch (cause) {
    if (cause instanceof Problem) throw cause;
    throw new Problem(isStorageFull(cause) ? 'storage_full' : 'unavailable', { cause });
  }
}
