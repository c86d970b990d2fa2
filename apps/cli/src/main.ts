#!/usr/bin/env node
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { redactUrls, rootFolder, SettingsError } from '@sluice/shared';
import { Command, CommanderError } from 'commander';
import { addBatchCommand } from './batch.js';
import { CliError } from './cliError.js';
import { addJobsCommands } from './jobs.js';
import { addKeysCommands } from './keys.js';
import { addPredictCommand } from './predict.js';

/** Exit statuses: what was asked failed, or was not asked in a way that can be understood. */
const FAILED = 1;
const WRONG_USE = 2;

const envFile = join(rootFolder, '.env');
if (existsSync(envFile)) process.loadEnvFile(envFile);

const program = new Command('sluice')
  .description('Operate a Sluice model server')
  .option('--json', 'print JSON alone')
  .showHelpAfterError('(add --help for what there is)')
  .exitOverride();
addKeysCommands(program);
addPredictCommand(program);
addBatchCommand(program);
addJobsCommands(program);

try {
  await program.parseAsync();
} catch (error) {
  if (error instanceof CommanderError) {
    process.exitCode = error.exitCode === 0 ? 0 : WRONG_USE;
  } else if (error instanceof CliError || error instanceof SettingsError) {
    process.stderr.write(`sluice: ${error.message}\n`);
    process.exitCode = error instanceof CliError ? FAILED : WRONG_USE;
  } else {
    process.stderr.write(`sluice: ${redactUrls(error instanceof Error ? error.message : String(error))}\n`);
    process.exitCode = FAILED;
  }
}
