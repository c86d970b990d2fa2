/** Something did not work; said in one line, exit status 1. */
export class CliError extends Error {
  override name = 'CliError';
}
