import { fork } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import {
  connectRedis,
  type InteractiveMessage,
  PREFIX,
  queueName,
  RedisClock,
  whenReady,
} from '@sluice/shared';
import { Queue, QueueEvents } from 'bullmq';
import { Dispatcher } from '../apps/gateway/src/dispatch/dispatcher.js';
import { ReplyReader } from '../apps/gateway/src/dispatch/replyReader.js';
import { bundledSpec, Rig, silentLog, until } from '../tests/harness.js';

const path = (file: string) => fileURLToPath(new URL(file, import.meta.url));

/** Repeats a call, `inFlight` of them at a time; resolves to calls per second. */
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
 * Round trips per second through the queue alone, with this process as the gateway: first with Sluice's dispatcher, worker
 * and reply reader and a model that answers at once, then with a bare BullMQ queue whose worker does nothing, awaited as
 * BullMQ's documentation says (`waitUntilFinished`). Both workers are separate processes.
 */
export async function queuePath(
  inFlight: number,
  seconds: number,
): Promise<{ sluice: number; bullmq: number }> {
  const rig = await Rig.start({ quiet: true });
  const redis = connectRedis(rig.redisUrl, 'request', silentLog);
  const repliesRedis = connectRedis(rig.redisUrl, 'blocking', silentLog);
  await Promise.all([rig.worker({ MODEL_PROCESSES: '' }, path('instantWorker.mjs')), whenReady(redis)]);
  const clock = new RedisClock(redis, silentLog);
  const replies = new ReplyReader(repliesRedis, 'bench', silentLog);
  const options = { connection: redis, prefix: PREFIX, skipWaitingForReady: true, skipVersionCheck: true };
  const queue = new Queue<InteractiveMessage>(queueName(bundledSpec, 'interactive'), options);
  const dispatcher: Dispatcher = new Dispatcher({
    redis,
    modelId: bundledSpec.id,
    lane: 'interactive',
    queue,
    replies,
    clock,
    gatewayId: 'bench',
    // With this rate 256 unanswered rows give the longest pause.
    capacity: () => ({ processes: 1, rowsPerSecond: 5_000, batching: true }),
    unansweredRows: () => dispatcher.unansweredRows,
    log: silentLog,
  });
  await until('Redis answers', () => !clock.away);
  let submitted = 0;
  const submit = () =>
    dispatcher.submit({
      requestId: 'bench',
      // Equal inputs would run once.
      input: `fine ${++submitted}`,
      parameters: {},
      rows: 1,
      timeoutMs: 5_000,
      signal: new AbortController().signal,
    });
  await callsPerSecond(submit, inFlight, 1);
  const sluice = await callsPerSecond(submit, inFlight, seconds);
  clock.close();
  await replies.close();
  await queue.close();

  const worker = fork(path('bullmqWorker.mjs'), [rig.redisUrl], { execArgv: [] });
  await once(worker, 'message');
  const bare = new Queue('bare', { connection: redis });
  const events = new QueueEvents('bare', { connection: { url: rig.redisUrl } });
  await events.waitUntilReady();
  // One listener for each awaited message.
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
