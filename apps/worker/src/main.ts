import { runApp } from '@sluice/shared';
import { startWorker } from './worker.js';

await runApp('worker', startWorker);
