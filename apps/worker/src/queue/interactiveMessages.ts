import {
  failSpan,
  type InteractiveMessage,
  interactiveMessageSchema,
  malformed,
  type RedisClock,
  SpanKind,
  startSpan,
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

/** Of a span that a message begins (https://opentelemetry.io/docs/specs/semconv/messaging/). */
const ATTRIBUTES = { 'messaging.system': 'bullmq', 'messaging.operation.type': 'process' };

interface Options {
  modelId: string;
  /** Called with each valid message, before its items run. */
  onMessage: (message: InteractiveMessage) => void;
  /** Called when the run of an item has started, with how long the item has waited in milliseconds. */
  onWaited: (ms: number) => void;
  clock: RedisClock;
  runItem: RunItem;
  add: (rows: PendingRows) => void;
  replies: Replies;
  withdrawals: Withdrawals;
}

/** Creates the function that runs the items of an interactive message and sends a reply for each. */
export function createInteractiveWork({
  modelId,
  onMessage,
  onWaited,
  clock,
  runItem,
  add,
  replies,
  withdrawals,
}: Options) {
  return async function work(data: unknown, hold: HoldRows): Promise<void> {
    const parsed = interactiveMessageSchema.safeParse(data);
    if (!parsed.success) throw malformed(parsed.error);
    onMessage(parsed.data);
    const { gatewayId, items } = parsed.data;
    await Promise.all(
      items.map(async ({ deadlineMs, submittedAtMs, trace, ...item }) => {
        const span =
          trace &&
          startSpan(`process ${modelId}`, { kind: SpanKind.CONSUMER, attributes: ATTRIBUTES, parent: trace });
        const onRun = (startedMs: number) => {
          const nowMs = clock.now();
          if (nowMs === undefined || submittedAtMs === undefined) return;
          onWaited(nowMs - (performance.now() - startedMs) - submittedAtMs);
        };
        const expired = () =>
          (clock.now() ?? Number.NEGATIVE_INFINITY) > deadlineMs ||
          withdrawals.isWithdrawn(gatewayId, item.id);
        let release = () => {};
        withdrawals.hold(gatewayId, item.id);
        try {
          const outcome = await runItem({ ...item, expired, onRun, span }, add, (rows) => {
            release = hold(rows);
          });
          release();
          if (span && outcome.kind !== 'answer') failSpan(span, outcome.kind);
          if (outcome.kind !== 'expired') await replies.send(gatewayId, { id: item.id, outcome });
        } finally {
          release();
          withdrawals.release(gatewayId, item.id);
          span?.end();
        }
      }),
    );
  };
}
