/** A failure that is printed as one line; exit status 1. */
export class CliError extends Error {
  override name = 'CliError';
}

/** The command was used wrongly; exit status 2. */
export class UsageError extends CliError {
  override name = 'UsageError';
}

/** Why a call to the system failed, without its code: `no such file or directory`. */
export function systemReason(error: unknown): string {
  const message = error instanceof Error ? error.message : String(error);
  return /^E[A-Z]+: ([^,]+)/.exec(message)?.[1] ?? message;
}
