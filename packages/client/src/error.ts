import type { Problem as ProblemBody } from './api.js';

/** An error response of Sluice (RFC 9457). */
export class SluiceError extends Error {
  override name = 'SluiceError';
  /** HTTP status. */
  readonly status: number;
  /** Code of the error for programs; `http_<status>` if the response did not come from Sluice. */
  readonly code: string;
  readonly requestId: string | undefined;
  readonly errors: ProblemBody['errors'];
  /** Seconds after which a retry makes sense, if the server says so. */
  readonly retryAfterSeconds: number | undefined;

  constructor(status: number, problem: Partial<ProblemBody>, retryAfterSeconds: number | undefined) {
    super(problem.detail ?? `The server answered ${status}`);
    this.status = status;
    this.code = problem.code ?? `http_${status}`;
    this.requestId = problem.request_id;
    this.errors = problem.errors;
    this.retryAfterSeconds = retryAfterSeconds;
  }
}

/** A request got no response: the server cannot be reached, or the connection broke. */
export class ConnectionError extends Error {
  override name = 'ConnectionError';

  /**
   * @param cause what `fetch` threw
   * @param what happened
   */
  constructor(url: string, cause: unknown, what = 'Cannot reach') {
    super(`${what} ${url}: ${reasonOf(cause)}`, { cause });
  }
}

/** The innermost reason of an error; `fetch` hides it in `cause`, and in Node in the errors of several addresses. */
function reasonOf(error: unknown): string {
  // No instanceof: `fetch` may belong to another realm.
  if (typeof error !== 'object' || error === null) return String(error);
  if ('cause' in error && error.cause) return reasonOf(error.cause);
  if ('errors' in error && Array.isArray(error.errors) && error.errors.length > 0)
    return reasonOf(error.errors[0]);
  if ('code' in error && error.code === 'ERR_SSL_WRONG_VERSION_NUMBER')
    return 'the server does not use TLS on this port; use http:// instead of https://';
  return 'message' in error ? String(error.message) : String(error);
}

/** Reads the error of a response. */
export async function errorOf(response: Response): Promise<SluiceError> {
  const retryAfter = Number(response.headers.get('retry-after') ?? Number.NaN);
  let problem: Partial<ProblemBody> = {};
  try {
    const { error, ...body }: Partial<ProblemBody> & { error?: string | { message: string; code: string } } =
      await response.json();
    // The routes in the shape of other APIs have an "error".
    if (typeof error === 'object') problem = { detail: error.message, code: error.code };
    else problem = error === undefined ? body : { detail: error, ...body };
  } catch {
    // Possibly an HTML page of a proxy; the status is enough.
  }
  // Routes in the shape of other APIs have it in the header field only.
  const requestId = response.headers.get('x-request-id');
  if (requestId !== null) problem.request_id ??= requestId;
  return new SluiceError(response.status, problem, Number.isFinite(retryAfter) ? retryAfter : undefined);
}
