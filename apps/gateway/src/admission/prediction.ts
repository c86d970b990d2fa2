/**
 * An item is admitted if its answer is expected within this fraction of its timeout. The rest is a reserve for what the
 * prediction does not see: micro-batches of the bulk lane take turns, and the rate is an average of the last seconds.
 */
const USABLE = 0.8;
/** Time to the worker and back under load, in milliseconds; at most a quarter of the timeout. */
const TRANSIT_MS = 100;
/** Items of a gateway below its fair share are admitted up to this fraction, while other gateways use the rest. */
const USABLE_FOR_FAIR_SHARE = 0.95;

/** What a gateway knows about the work ahead of a request. */
export interface WorkAhead {
  /** Rows that all live workers together answer in a second; 0 if it is not known. */
  rowsPerSecond: number;
  /** Unanswered rows of this gateway. */
  ownRows: number;
  /** Unanswered rows of the other gateways. */
  otherRows: number;
  otherGateways: number;
  /** Rows that run before the request and are not counted in `ownRows` or `otherRows`, such as rows of jobs. */
  rowsBefore: number;
}

/** Time until a request that arrives now would be answered, in milliseconds; undefined while no rate is known. */
export function predictedWaitMs({ rowsPerSecond, ...ahead }: WorkAhead, rows: number): number | undefined {
  if (rowsPerSecond === 0) return undefined;
  return (1000 * (ahead.rowsBefore + ahead.ownRows + ahead.otherRows + rows)) / rowsPerSecond;
}

/** Why a request is refused; times in milliseconds. */
export type Refusal =
  /** It would be too late even if it were the only one. */
  | { kind: 'too_much_work'; workMs: number }
  /** Too many rows are ahead; the client may retry after `retryAfterMs`. */
  | { kind: 'overloaded'; retryAfterMs: number };

/**
 * Returns why the request is refused; undefined if it is admitted.
 * @param rows of the request
 * @param timeoutMs from now to its deadline
 */
export function refusalOf(ahead: WorkAhead, rows: number, timeoutMs: number): Refusal | undefined {
  const totalMs = predictedWaitMs(ahead, rows);
  if (totalMs === undefined) return undefined;
  const { rowsPerSecond, ownRows, otherGateways } = ahead;
  const waitMs = (count: number) => (1000 * count) / rowsPerSecond;
  const transitMs = Math.min(TRANSIT_MS, timeoutMs / 4);
  const usableMs = USABLE * timeoutMs - transitMs;
  if (totalMs <= usableMs) return undefined;
  if (rows > 1 && waitMs(rows) > usableMs) return { kind: 'too_much_work', workMs: waitMs(rows) };
  const exceedsFairShare = waitMs(ownRows + rows) > usableMs / (1 + otherGateways);
  if (!exceedsFairShare && totalMs <= USABLE_FOR_FAIR_SHARE * timeoutMs - transitMs) return undefined;
  return { kind: 'overloaded', retryAfterMs: totalMs - usableMs };
}
