import { setTimeout as delay } from 'node:timers/promises';
import type { Log } from '@sluice/shared';
import type { ModelFacts, TextResult } from './protocol.js';
import { type ModelProcess, PAUSED_MS } from './supervisor.js';

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
  /** Processes in quiet times. */
  size: number;
  /** Starts a process; `first` is true for the very first, which also checks the model. */
  launch: (first: boolean) => ModelProcess;
  log: Log;
  /** Called when replacements will not load any more. */
  onBroken: (error: Error) => void;
}

/**
 * The model processes of a worker. One that dies is replaced at once.
 *
 * In trouble (a run has used half its budget, or a text is on its second run) there is one more than in quiet times:
 * it loads while the suspect may still be waited for, so that a text need not wait for a hang *and* a load, and those
 * that shared a micro-batch with a text that hangs twice do not wait for its second hang.
 */
export class Pool {
  #options: PoolOptions;
  #processes = new Set<ModelProcess>();
  #idle: ModelProcess[] = [];
  /** Who waits for a process: second runs before first ones. */
  #ahead: ((lease: Lease) => void)[] = [];
  #behind: ((lease: Lease) => void)[] = [];
  /** Runs that have used half their budget, and second runs. */
  #troubles = 0;
  #failedStarts = 0;
  /** Starts that wait for their turn after a failed one. */
  #delayed = 0;
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
    const others = Array.from({ length: this.#options.size - 1 }, () => this.#launch(false));
    await Promise.all(others.map((other) => other.ready));
    for (const process of [first, ...others]) this.#adopt(process);
    return facts;
  }

  /** Processes that have their model loaded. */
  get ready(): number {
    return [...this.#processes].filter(({ mode }) => mode === 'ready' || mode === 'busy').length;
  }

  /**
   * A process for one run, as soon as one is free.
   * @param secondRun goes before those who wait for a first one
   */
  acquire({ secondRun }: { secondRun: boolean }): Promise<Lease> {
    if (secondRun) this.#trouble(+1);
    return new Promise((resolve) => {
      (secondRun ? this.#ahead : this.#behind).push((lease) =>
        resolve(secondRun ? this.#calmAfter(lease) : lease),
      );
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
    this.#failedStarts = 0;
    void process.gone.then(() => {
      this.#idle = this.#idle.filter((idle) => idle !== process);
      this.#adjust();
    });
    this.#idle.push(process);
    this.#serveNext();
    this.#adjust();
  }

  /** Starts what is missing, and ends what is idle and one too many: the youngest, which came for the trouble. */
  #adjust(): void {
    if (this.#closing.signal.aborted) return;
    const wanted = this.#options.size + (this.#troubles > 0 ? 1 : 0);
    const living = [...this.#processes].filter(({ mode }) => mode !== 'killed');
    for (let missing = wanted - living.length - this.#delayed; missing > 0; missing--) void this.#add();
    const youngest = living.at(-1);
    if (living.length <= wanted || youngest === undefined || !this.#idle.includes(youngest)) return;
    this.#idle = this.#idle.filter((idle) => idle !== youngest);
    youngest.kill('there is one too many');
  }

  async #add(): Promise<void> {
    const { log, onBroken } = this.#options;
    const process = this.#launch(false);
    try {
      await process.ready;
      log.info({ model_process: process.pid }, 'Another model process is ready');
      this.#adopt(process);
    } catch (error) {
      if (this.#closing.signal.aborted) return;
      this.#failedStarts++;
      log.error({ err: error, model_process: process.pid }, 'A model process could not start');
      if (this.#failedStarts >= MAX_FAILED_STARTS) {
        onBroken(error instanceof Error ? error : new Error(String(error)));
        return;
      }
      this.#delayed++;
      await process.gone;
      await delay(Math.min(FIRST_RETRY_MS * 2 ** this.#failedStarts, LAST_RETRY_MS));
      this.#delayed--;
      this.#adjust();
    }
  }

  #trouble(change: 1 | -1): void {
    this.#troubles += change;
    this.#adjust();
  }

  #serveNext(): void {
    while (this.#idle.length > 0 && this.#ahead.length + this.#behind.length > 0) {
      // The one that ran last: the model is in its core's cache.
      const process = this.#idle.pop();
      if (process?.mode !== 'ready') continue;
      (this.#ahead.shift() ?? this.#behind.shift())?.(this.#lease(process));
    }
  }

  #lease(process: ModelProcess): Lease {
    const release = () => {
      if (process.mode !== 'ready') return;
      this.#idle.push(process);
      this.#serveNext();
      this.#adjust();
    };
    return {
      run: async (texts, topK, budgetMs) => {
        let suspect = false;
        const dueMs = performance.now() + budgetMs / 2;
        const suspicion = setTimeout(() => {
          // Late: this process was paused, which says nothing of the other.
          if (performance.now() - dueMs > PAUSED_MS) return;
          suspect = true;
          this.#trouble(+1);
        }, budgetMs / 2);
        try {
          return await process.run(texts, topK, budgetMs);
        } catch (error) {
          if (process.mode === 'killed') {
            this.#options.log.warn({ model_process: process.pid }, 'A model process ended in a run');
          }
          throw error;
        } finally {
          clearTimeout(suspicion);
          if (suspect) this.#trouble(-1);
          release();
        }
      },
      release,
    };
  }

  /** A lease for a second run, which is trouble until it is over. */
  #calmAfter(lease: Lease): Lease {
    return {
      run: (...run) => lease.run(...run).finally(() => this.#trouble(-1)),
      release: () => {
        lease.release();
        this.#trouble(-1);
      },
    };
  }
}
