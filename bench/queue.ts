import { fork } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { connectRedis, type Job, PREFIX, queueName, RedisClock, whenReady } from '@sluice/shared';
import { Queue, QueueEvents } from 'bullmq';
import { Dispatcher } from '../apps/gateway/src/dispatch/dispatcher.js';
import { Inbox } from '../apps/gateway/src/dispatch/inbox.js';
import { Rig, silentLog, until } from '../tests/harness.js';

const path = (file: string) => fileURLToPath(new URL(file, import.meta.url));

/** Calls something over and over, so many at once; resolves to calls a second. */
async function callsPerSecond(
  call: () => Promise<unknown>,
  inFlight: number,
  seconds: number,
): Promise<number> {
  const startMs = performance.now();
  let calls = 0;
  const one = async () => {
    while (performance.now() < startMs + seconds * 1000) {
      await call();
      calls++;
    }
  };
  await Promise.all(Array.from({ length: inFlight }, one));
  return (1000 * calls) / (performance.now() - startMs);
}

/**
 * Round trips a second through the queue alone, this process being the gateway: Sluice's dispatcher, worker and inbox
 * with a model that answers at once, and a bare BullMQ queue whose worker does nothing, awaited as its documentation
 * says (`waitUntilFinished`). Both workers are processes of their own.
 */
export async function queuePath(
  inFlight: number,
  seconds: number,
): Promise<{ sluice: number; bullmq: number }> {
  const rig = await Rig.start({ quiet: true });
  const redis = connectRedis(rig.redisUrl, 'request', silentLog);
  const inboxRedis = connectRedis(rig.redisUrl, 'blocking', silentLog);
  await Promise.all([rig.worker({}, path('instantWorker.mjs')), whenReady(redis)]);
  const clock = new RedisClock(redis);
  const inbox = new Inbox(inboxRedis, 'bench', silentLog);
  const options = { connection: redis, prefix: PREFIX, skipWaitingForReady: true, skipVersionCheck: true };
  const queue = new Queue<Job>(queueName('minilm-l6-sst2', 'interactive'), options);
  const dispatcher = new Dispatcher({
    queue,
    inbox,
    clock,
    gatewayId: 'bench',
    mayShare: () => true,
    log: silentLog,
  });
  await until('Redis has told its time', () => !clock.away);
  const submit = () =>
    dispatcher.submit({ text: 'fine', topK: 1, timeoutMs: 5_000, signal: new AbortController().signal });
  await callsPerSecond(submit, inFlight, 1);
  const sluice = await callsPerSecond(submit, inFlight, seconds);
  clock.close();
  await inbox.close();
  await queue.close();

  const worker = fork(path('bullmqWorker.mjs'), [rig.redisUrl], { execArgv: [] });
  await once(worker, 'message');
  const bare = new Queue('bare', { connection: redis });
  const events = new QueueEvents('bare', { connection: { url: rig.redisUrl } });
  await events.waitUntilReady();
  // One listener for each job that is awaited.
  for (const emitter of [bare, events]) emitter.setMaxListeners(0);
  const call = async () => {
    const job = await bare.add('nothing', { text: 'fine' }, { removeOnComplete: 1_000, removeOnFail: true });
    await job.waitUntilFinished(events);
  };
  await callsPerSecond(call, inFlight, 1);
  const bullmq = await callsPerSecond(call, inFlight, seconds);
  await Promise.all([bare.close(), events.close()]);
  const gone = once(worker, 'exit');
  worker.disconnect();
  await gone;
  redis.disconnect();
  await rig.close();
  return { sluice, bullmq };
}
