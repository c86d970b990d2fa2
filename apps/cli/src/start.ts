import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { packageFolder } from '@sluice/shared';
import type { Command } from 'commander';

/** Adds `start`, which does what `npm start` does. */
export function addStartCommand(program: Command): void {
  program
    .command('start')
    .description('start Redis, a gateway and a worker, or another gateway or worker')
    .argument('[app]', 'gateway or worker, beside a running sluice start or with REDIS_URL')
    .action(async () => {
      // The script is this process, which ends what it has started.
      process.argv.splice(2, 1);
      await import(pathToFileURL(join(packageFolder, 'scripts/start.mjs')).href);
    });
}
