import {
  type InteractiveMessage,
  interactiveMessageSchema,
  malformed,
  type RedisClock,
} from '@sluice/shared';
import type { PendingRows } from '../microbatch/pending.js';
import type { RunItem } from './item.js';
import type { HoldRows } from './reader.js';
import type { Replies } from './replies.js';
import type { Withdrawals } from './withdrawals.js';

/** How interactive messages are read: see {@link QueueReader}. */
export const INTERACTIVE_QUEUE = {
  /** Short, so that another worker takes a dead worker's messages before their deadline. A second run is harmless. */
  lockMs: 1_500,
  /** Usually a message ends at its deadline before this many workers have died with it. */
  maxStalled: 10,
};

interface Options {
  /** Called with each valid message, before its items run. */
  onMessage: (message: InteractiveMessage) => void;
  clock: RedisClock;
  runItem: RunItem;
  add: (rows: PendingRows) => void;
  replies: Replies;
  withdrawals: Withdrawals;
}

/** Creates the function that runs the items of an interactive message and sends a reply for each. */
export function createInteractiveWork({ onMessage, clock, runItem, add, replies, withdrawals }: Options) {
  return async function work(data: unknown, hold: HoldRows): Promise<void> {
    const parsed = interactiveMessageSchema.safeParse(data);
    if (!parsed.success) throw malformed(parsed.error);
    onMessage(parsed.data);
    const { gatewayId, items } = parsed.data;
    await Promise.all(
      items.map(async ({ deadlineMs, ...item }) => {
        const expired = () =>
          (clock.now() ?? Number.NEGATIVE_INFINITY) > deadlineMs ||
          withdrawals.isWithdrawn(gatewayId, item.id);
        let release = () => {};
        withdrawals.hold(gatewayId, item.id);
        try {
          const outcome = await runItem({ ...item, expired }, add, (rows) => {
            release = hold(rows);
          });
          release();
          if (outcome.kind !== 'expired') await replies.send(gatewayId, { id: item.id, outcome });
        } finally {
          release();
          withdrawals.release(gatewayId, item.id);
        }
      }),
    );
  };
}
