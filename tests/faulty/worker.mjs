import { fileURLToPath } from 'node:url';
// The bundle starts in less time than @sluice/worker.
import { run } from '../../apps/worker/bundle/worker.js';

await run(fileURLToPath(new URL('process.mjs', import.meta.url)));
