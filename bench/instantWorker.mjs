// A worker whose model processes answer at once.
import { fileURLToPath } from 'node:url';
import { runApp } from '@sluice/shared';
import { startWorker } from '@sluice/worker';

const entry = fileURLToPath(new URL('instant.mjs', import.meta.url));
await runApp('worker', (settings, log, signal, drainMs) =>
  startWorker(settings, log, signal, drainMs, entry),
);
