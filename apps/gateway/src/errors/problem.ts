import { type ProblemBody, type ProblemCode, problems } from '@sluice/contract';

interface ProblemOptions {
  /** Instead of the table's default. */
  detail?: string;
  errors?: ProblemBody['errors'];
  /** Header fields that belong to this answer. */
  headers?: Readonly<Record<string, string>>;
  /** Further members of the body (RFC 9457, section 3.2). */
  extensions?: Readonly<Record<string, unknown>>;
  /** What lies behind it, for the log; never sent. */
  cause?: unknown;
}

/** Seconds after which a client may try again, where nothing better is known. */
const RETRY_AFTER_SECONDS: Partial<Record<ProblemCode, number>> = {
  no_worker: 2,
  unavailable: 1,
  shutting_down: 2,
  nearly_full: 30,
};

/** An error that the client is told, by its code in the catalogue. */
export class Problem extends Error {
  override name = 'Problem';
  readonly status: number;
  readonly headers: Readonly<Record<string, string>>;
  readonly extensions: Readonly<Record<string, unknown>>;
  readonly errors: ProblemBody['errors'];

  constructor(
    readonly code: ProblemCode,
    { detail, errors, headers, extensions, cause }: ProblemOptions = {},
  ) {
    super(detail ?? problems[code].detail, { cause });
    this.status = problems[code].status;
    this.errors = errors;
    this.extensions = extensions ?? {};
    const retryAfter = RETRY_AFTER_SECONDS[code];
    this.headers = { ...(retryAfter ? { 'Retry-After': String(retryAfter) } : {}), ...headers };
  }

  /** The body of the answer (RFC 9457). */
  body(requestId: string): ProblemBody {
    return {
      type: `/errors/${this.code}`,
      title: problems[this.code].title,
      status: this.status,
      detail: this.message,
      code: this.code,
      request_id: requestId,
      ...(this.errors ? { errors: this.errors } : {}),
      ...this.extensions,
    };
  }
}

/** The caller went away before the answer: there is nobody to tell. */
export class CallerGone extends Error {
  override name = 'CallerGone';
}

/**
 * Awaits a call to Redis for a request. Whatever goes wrong there is not the caller's affair.
 * @throws Problem `unavailable`, with the error as its cause
 */
export async function fromRedis<T>(call: Promise<T>): Promise<T> {
  try {
    return await call;
  } catch (cause) {
    throw new Problem('unavailable', { cause });
  }
}
