import type { Queue } from 'bullmq';
import { type Heartbeat, reportsOf } from '../fleet/heartbeat.js';
import { type ChunkMessage, MESSAGE_VERSION } from '../messages/messages.js';
import type { Ending } from './ledger.js';
import type { ChunkRef } from './records.js';

/** A caller has this many chunks in flight for each live model process, and at least {@link MIN_IN_FLIGHT}. */
const IN_FLIGHT_PER_PROCESS = 4;
const MIN_IN_FLIGHT = 8;

/**
 * How many chunks of one caller may be in flight for a model. With this bound a plain queue serves the callers in turn.
 */
export function maxChunksInFlight(workers: readonly Heartbeat[], modelId: string): number {
  const processes = reportsOf(workers, modelId).reduce((sum, report) => sum + report.processes, 0);
  return Math.max(MIN_IN_FLIGHT, IN_FLIGHT_PER_PROCESS * processes);
}

/** Id of a chunk's message in the queue. */
export const messageId = ({ jobId, chunk }: ChunkRef): string => `${jobId}.${chunk}`;

/**
 * Puts chunks that were handed out into the bulk queue. A chunk that is already there stays as it is.
 * @throws what the Redis connection throws; the sweep then puts them in
 */
export async function enqueueChunks(
  queue: Queue<ChunkMessage>,
  handedOut: readonly ChunkRef[],
): Promise<void> {
  if (handedOut.length === 0) return;
  await queue.addBulk(
    handedOut.map((ref) => ({
      name: 'chunk',
      data: { v: MESSAGE_VERSION, jobId: ref.jobId, chunk: ref.chunk },
      opts: { jobId: messageId(ref), removeOnComplete: true, removeOnFail: true },
    })),
  );
}

/** After a job has ended: removes its chunks that no worker has taken from the queue, and adds those handed out. */
export async function applyEnding(
  queue: Queue<ChunkMessage>,
  { withdrawn, handedOut }: Ending,
): Promise<void> {
  await Promise.all(withdrawn.map((ref) => queue.remove(messageId(ref))));
  await enqueueChunks(queue, handedOut);
}
