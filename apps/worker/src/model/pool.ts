import { setTimeout as delay } from 'node:timers/promises';
import type { Log } from '@sluice/shared';
import type { ModelFacts, TextResult } from './protocol.js';
import type { ModelProcess } from './supervisor.js';

const FIRST_RETRY_MS = 100;
const LAST_RETRY_MS = 5_000;
/** So many replacements in a row that do not load say that none will. */
const MAX_FAILED_STARTS = 5;

/** A model process that is yours for one run. */
export interface Lease {
  /** Runs texts, all at once, and gives the process back, whatever comes of it. @throws RunError */
  run(texts: readonly string[], topK: number, budgetMs: number): Promise<TextResult[]>;
  /** Gives the process back unused. */
  release(): void;
}

interface PoolOptions {
  size: number;
  /** Starts a process; `first` is true for the very first, which also checks the model. */
  launch: (first: boolean) => ModelProcess;
  log: Log;
  /** Called when replacements will not load any more. */
  onBroken: (error: Error) => void;
}

/** The model processes of a worker. One that dies is replaced at once. */
export class Pool {
  #options: PoolOptions;
  #processes = new Set<ModelProcess>();
  #idle: ModelProcess[] = [];
  /** Who waits for a process: second runs before first ones. */
  #ahead: ((lease: Lease) => void)[] = [];
  #behind: ((lease: Lease) => void)[] = [];
  #failedStarts = 0;
  #closing = new AbortController();

  constructor(options: PoolOptions) {
    this.#options = options;
  }

  /**
   * Starts all processes: one first, which downloads and checks the model, then the others.
   * @throws Error that says in one line why the model cannot be loaded
   */
  async start(): Promise<ModelFacts> {
    const first = this.#launch(true);
    const facts = await first.ready;
    this.#adopt(first);
    const others = Array.from({ length: this.#options.size - 1 }, () => this.#launch(false));
    await Promise.all(others.map((other) => other.ready));
    for (const other of others) this.#adopt(other);
    return facts;
  }

  /** Processes that have their model loaded. */
  get ready(): number {
    return [...this.#processes].filter(({ mode }) => mode === 'ready' || mode === 'busy').length;
  }

  /**
   * A process for one run, as soon as one is free.
   * @param ahead whether to go before those who wait without it
   */
  acquire({ ahead }: { ahead: boolean }): Promise<Lease> {
    return new Promise((resolve) => {
      (ahead ? this.#ahead : this.#behind).push(resolve);
      this.#serveNext();
    });
  }

  /** Kills all processes and waits until they are gone. Whoever still waits for one waits for ever. */
  async close(): Promise<void> {
    this.#closing.abort();
    for (const process of this.#processes) process.kill();
    await Promise.all([...this.#processes].map((process) => process.gone));
  }

  #launch(first: boolean): ModelProcess {
    const process = this.#options.launch(first);
    this.#processes.add(process);
    void process.gone.then(() => this.#processes.delete(process));
    return process;
  }

  /** Takes a process that is ready into use, and sees to its replacement when it dies. */
  #adopt(process: ModelProcess): void {
    const { log } = this.#options;
    this.#failedStarts = 0;
    void process.gone.then(() => {
      this.#idle = this.#idle.filter((idle) => idle !== process);
      if (this.#closing.signal.aborted) return;
      log.warn({ model_process: process.pid }, 'A model process ended; starting another');
      void this.#replace();
    });
    this.#idle.push(process);
    this.#serveNext();
  }

  async #replace(): Promise<void> {
    while (!this.#closing.signal.aborted) {
      const process = this.#launch(false);
      try {
        await process.ready;
        this.#adopt(process);
        this.#options.log.info({ model_process: process.pid }, 'A model process is ready');
        return;
      } catch (error) {
        await process.gone;
        if (this.#closing.signal.aborted) return;
        this.#failedStarts++;
        this.#options.log.error({ err: error }, 'A model process could not start');
        if (this.#failedStarts >= MAX_FAILED_STARTS) {
          this.#options.onBroken(error instanceof Error ? error : new Error(String(error)));
          return;
        }
        await delay(Math.min(FIRST_RETRY_MS * 2 ** this.#failedStarts, LAST_RETRY_MS));
      }
    }
  }

  #serveNext(): void {
    while (this.#idle.length > 0 && this.#ahead.length + this.#behind.length > 0) {
      const process = this.#idle.shift();
      if (process?.mode !== 'ready') continue;
      (this.#ahead.shift() ?? this.#behind.shift())?.(this.#lease(process));
    }
  }

  #lease(process: ModelProcess): Lease {
    const release = () => {
      if (process.mode !== 'ready') return;
      this.#idle.push(process);
      this.#serveNext();
    };
    return {
      run: (texts, topK, budgetMs) => process.run(texts, topK, budgetMs).finally(release),
      release,
    };
  }
}
