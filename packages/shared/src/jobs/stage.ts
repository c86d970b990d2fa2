import type { Redis } from 'ioredis';
import { names } from '../redis/names.js';
import { CHUNK_ITEMS, CHUNK_ROWS, inputsOf, type JobItem } from './records.js';

/** What an upload has staged expires after this long without another piece, in milliseconds. */
const STAGE_TTL_MS = 60_000;
/** A piece is sent to Redis at this size or age, whichever comes first. Each piece renews the expiry of the others. */
const PIECE_BYTES = 128 * 1024;
const PIECE_MS = 10_000;
/** Bytes of an index in {@link names.starts}. */
const START_BYTES = 4;

/** An upload in progress. Its items are staged in Redis under keys that expire by themselves. */
export class Stage {
  #redis: Redis;
  #chunk: JobItem[] = [];
  /** Rows of the items in the chunk. */
  #chunkRows = 0;
  /** Index of the first item of each chunk of the piece. */
  #starts: number[] = [];
  #piece: string[] = [];
  #bytes = 0;
  #sentMs = performance.now();
  /** Items so far. */
  items = 0;
  /** Inputs of the items so far. */
  inputs = 0;
  /** Chunks that are staged, or will be with the next piece. */
  chunks = 0;
  /** Pieces sent to Redis. */
  pieces = 0;
  /** Rows of the items so far. */
  rows = 0;
  /** Bytes that the results of the items will take. */
  resultBytes = 0;

  constructor(
    redis: Redis,
    readonly jobId: string,
  ) {
    this.#redis = redis;
  }

  /**
   * Adds an item, and sends a piece to Redis when one is due.
   * @param size its rows, and the bytes that its result will take
   */
  async add(item: JobItem, { rows, resultBytes }: { rows: number; resultBytes: number }): Promise<void> {
    if (this.#chunk.length > 0 && this.#chunkRows + rows > CHUNK_ROWS) this.#closeChunk();
    this.#chunk.push(item);
    this.#chunkRows += rows;
    this.rows += rows;
    this.items++;
    this.inputs += inputsOf(item).length;
    this.resultBytes += resultBytes;
    if (this.#chunk.length === CHUNK_ITEMS) this.#closeChunk();
    if (this.#bytes >= PIECE_BYTES || performance.now() - this.#sentMs > PIECE_MS) await this.#send();
  }

  /** Sends what has not been sent yet. */
  async flush(): Promise<void> {
    if (this.#chunk.length > 0) this.#closeChunk();
    await this.#send();
  }

  /** Removes everything that the upload has staged. */
  async discard(): Promise<void> {
    await this.#redis.del(names.stage(this.jobId), names.stageStarts(this.jobId));
  }

  /** Sends the full chunks, if any, and renews the expiry of what is staged. */
  async #send(): Promise<void> {
    const piece = this.#piece;
    const starts = Buffer.alloc(START_BYTES * this.#starts.length);
    for (const [i, start] of this.#starts.entries()) starts.writeUInt32BE(start, START_BYTES * i);
    this.#piece = [];
    this.#starts = [];
    this.#bytes = 0;
    this.#sentMs = performance.now();
    const transaction = this.#redis.multi();
    if (piece.length > 0)
      transaction.hset(names.stage(this.jobId), ...piece).append(names.stageStarts(this.jobId), starts);
    transaction.pexpire(names.stage(this.jobId), STAGE_TTL_MS);
    transaction.pexpire(names.stageStarts(this.jobId), STAGE_TTL_MS);
    const replies = await transaction.exec();
    for (const [error] of replies ?? []) if (error) throw error;
    this.pieces++;
  }

  #closeChunk(): void {
    const json = JSON.stringify(this.#chunk);
    this.#starts.push(this.items - this.#chunk.length);
    this.#piece.push(String(this.chunks++), json);
    this.#bytes += json.length;
    this.#chunk = [];
    this.#chunkRows = 0;
  }
}

/** Reads what {@link Stage} wrote: the index of the first item of each chunk. */
export function startsOf(bytes: Buffer): number[] {
  return Array.from({ length: bytes.length / START_BYTES }, (_, i) => bytes.readUInt32BE(START_BYTES * i));
}
