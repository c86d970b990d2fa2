#!/usr/bin/env node
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { SluiceError } from '@sluice/client';
import { redactUrls, rootFolder, SettingsError, version } from '@sluice/shared';
import { Command, CommanderError } from 'commander';
import { addBatchCommand } from './batch.js';
import { systemReason, UsageError } from './cliError.js';
import { addJobsCommands } from './jobs.js';
import { addKeysCommands } from './keys.js';
import { addPredictCommand } from './predict.js';
import { addStartCommand } from './start.js';

/** Exit statuses: the command failed, or it was used wrongly. */
const FAILED = 1;
const WRONG_USE = 2;

const envFile = join(rootFolder, '.env');
if (existsSync(envFile)) process.loadEnvFile(envFile);

// The reader of the output has stopped, as `head` does after its lines.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code === 'EPIPE') process.exit();
  process.stderr.write(`sluice: cannot write the output: ${systemReason(error)}\n`);
  process.exit(FAILED);
});

const program = new Command('sluice')
  .description('Operate a Sluice model server')
  .version(version)
  .option('--json', 'print only JSON')
  .showHelpAfterError('(add --help for usage)')
  .exitOverride();
addStartCommand(program);
addKeysCommands(program);
addPredictCommand(program);
addBatchCommand(program);
addJobsCommands(program);

try {
  await program.parseAsync();
} catch (error) {
  if (error instanceof CommanderError) {
    process.exitCode = error.exitCode === 0 ? 0 : WRONG_USE;
  } else {
    process.stderr.write(`sluice: ${redactUrls(messageOf(error))}\n`);
    process.exitCode = error instanceof UsageError || error instanceof SettingsError ? WRONG_USE : FAILED;
  }
}

/** The message of an error, with everything that the server said about a refused request. */
function messageOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  if (!(error instanceof SluiceError)) return error.message;
  const values = (error.errors ?? []).map(({ pointer, detail }) => `${pointer}: ${detail}`);
  const retry = error.retryAfterSeconds === undefined ? '' : ` (retry after ${error.retryAfterSeconds} s)`;
  return [error.message + retry, ...values].join('\n  ');
}
