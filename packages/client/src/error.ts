import type { ProblemBody } from '@sluice/contract';

/** An answer that is an error, as Sluice tells it (RFC 9457). */
export class SluiceError extends Error {
  override name = 'SluiceError';
  /** HTTP status. */
  readonly status: number;
  /** What went wrong, for a program; `http_<status>` where the answer was not Sluice's own. */
  readonly code: string;
  readonly requestId: string | undefined;
  readonly errors: ProblemBody['errors'];
  /** Seconds after which another try is worth it, where the server says so. */
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

/** Reads the error out of an answer. */
export async function errorOf(response: Response): Promise<SluiceError> {
  const retryAfter = Number(response.headers.get('retry-after') ?? Number.NaN);
  let problem: Partial<ProblemBody> = {};
  try {
    problem = await response.json();
  } catch {
    // A proxy's page, perhaps: the status says enough.
  }
  return new SluiceError(response.status, problem, Number.isFinite(retryAfter) ? retryAfter : undefined);
}
