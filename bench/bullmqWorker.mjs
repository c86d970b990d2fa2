// A bare BullMQ worker that does nothing. Argument: URL of Redis.
import { Worker } from 'bullmq';
import { Redis } from 'ioredis';

const connection = new Redis(process.argv[2], { maxRetriesPerRequest: null });
const worker = new Worker('bare', async () => {}, { connection, concurrency: 256 });
await worker.waitUntilReady();
process.send('ready');
process.on('disconnect', () => process.exit(0));
