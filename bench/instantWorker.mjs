// A worker whose model processes answer at once.
import { fileURLToPath } from 'node:url';
import { run } from '../apps/worker/bundle/worker.js';

await run(fileURLToPath(new URL('instant.mjs', import.meta.url)));
