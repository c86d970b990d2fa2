import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { packageFolder } from '@sluice/shared';
import type { Command } from 'commander';

/** Adds `start`, which does what `npm start` does. */
export function addStartCommand(program: Command): void {
  program
    .command('start')
    .description('start Redis, a gateway and a worker, or another gateway or worker')
    .argument(
      '[app]',
      'gateway or worker: start only this one; needs a running "sluice start" in this folder, or REDIS_URL',
    )
    .action(async (app?: string) => {
      const script = join(packageFolder, 'scripts/start.mjs');
      // The script runs in this process, which ends what it has started.
      process.argv = [process.execPath, script, ...(app === undefined ? [] : [app])];
      await import(pathToFileURL(script).href);
    });
}
