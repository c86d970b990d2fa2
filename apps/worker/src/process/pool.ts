import { setTimeout as delay } from 'node:timers/promises';
import { type Log, ModelError } from '@sluice/shared';
import type { RestartReason } from '../metrics.js';
import type { ModelFacts, RunRequest } from './protocol.js';
import { type ModelProcess, PAUSED_MS, RunError, type RunResult } from './supervisor.js';

const FIRST_RETRY_MS = 100;
const LAST_RETRY_MS = 5_000;
/** After this many failed replacements in a row the pool gives up. */
const MAX_FAILED_STARTS = 5;

/** A model process reserved for one run. */
export interface Lease {
  /** Runs rows together and returns the process to the pool, also after an error. @throws RunError */
  run(request: RunRequest, budgetMs: number): Promise<RunResult>;
  /** Returns the process to the pool unused. */
  release(): void;
}

interface PoolOptions {
  /** Number of processes without a spare. */
  size: number;
  /** Starts a process. `first` is true for the very first one, which also measures the model. */
  launch: (first: boolean) => ModelProcess;
  log: Log;
  /** Called when a process has to be replaced. */
  onRestart: (reason: RestartReason) => void;
  /** Called when the pool gives up, because replacements do not load. */
  onBroken: (error: Error) => void;
}

/** A micro-batch that waits for a process. */
interface FirstRun {
  /** Whether it accepts a process that is still in another run. */
  mayBeNext: () => boolean;
  resolve: (lease: Lease) => void;
}

/**
 * The model processes of one model. A process that dies is replaced at once.
 *
 * A spare process is kept while a run has used half of its budget, or while an item is on its second run. The spare
 * loads while the suspected process may still answer. So an item does not wait for a hang and then for a load, and the
 * items that shared a micro-batch with a hanging one do not wait for its second hang.
 */
export class Pool {
  #options: PoolOptions;
  #processes = new Set<ModelProcess>();
  #idle: ModelProcess[] = [];
  /** Those that wait for a process. Second runs are served first. */
  #secondRuns: ((lease: Lease) => void)[] = [];
  #firstRuns: FirstRun[] = [];
  /** Reasons to keep a spare: runs that have used half of their budget, and second runs. */
  #spareReasons = 0;
  /** Processes whose present run has used half of its budget. */
  #suspected = new Set<ModelProcess>();
  #failedStarts = 0;
  /** Starts that are delayed after a failed one. */
  #delayedStarts = 0;
  #closing = new AbortController();

  constructor(options: PoolOptions) {
    this.#options = options;
  }

  /**
   * Starts all processes: first one, which measures the model, then the others.
   * @throws ModelError when the model cannot be loaded; Error with a one-line reason when its processes die
   */
  async start(): Promise<ModelFacts> {
    const first = await this.#startOne(true);
    const others = await Promise.all(
      Array.from({ length: this.#options.size - 1 }, () => this.#startOne(false)),
    );
    for (const process of [first, ...others]) this.#adopt(process);
    return first.ready;
  }

  /**
   * Starts one of the first processes, again if it dies while it loads: it may have been killed because memory was short.
   * @throws ModelError, or Error with a one-line reason
   */
  async #startOne(first: boolean): Promise<ModelProcess> {
    for (let failedStarts = 1; ; failedStarts++) {
      const process = this.#launch(first);
      try {
        await process.ready;
        return process;
      } catch (error) {
        // Another process would not load the model either.
        const isFinal = error instanceof ModelError;
        if (!this.#closing.signal.aborted) this.#options.onRestart('load_failed');
        if (this.#closing.signal.aborted || isFinal || failedStarts >= MAX_FAILED_STARTS) throw error;
        this.#options.log.warn(
          { reason: process.endReason, model_process_pid: process.pid },
          'Model process ended while it loaded; starting another one',
        );
        await process.gone;
        await delay(Math.min(FIRST_RETRY_MS * 2 ** failedStarts, LAST_RETRY_MS), undefined, {
          signal: this.#closing.signal,
        });
      }
    }
  }

  /** Number of processes with a loaded model. */
  get ready(): number {
    return [...this.#processes].filter(({ mode }) => mode === 'ready' || mode === 'busy').length;
  }

  /**
   * Waits for a free process and reserves it for a first run.
   * @param mayBeNext whether a busy process may be reserved for its next run if none is free. It is called now, and whenever a
   *   process may have become available
   */
  acquire(mayBeNext: () => boolean): Promise<Lease> {
    return new Promise((resolve) => {
      this.#firstRuns.push({ mayBeNext, resolve });
      this.#serveNext();
    });
  }

  /**
   * Waits for a free process before all first runs, and reserves it for a second run.
   */
  acquireAgain(): Promise<Lease> {
    this.#changeSpareReasons(+1);
    return new Promise((resolve) => {
      this.#secondRuns.push((lease) => resolve(this.#withSpare(lease)));
      this.#serveNext();
    });
  }

  /** Kills all processes and waits until they have ended. Pending `acquire` calls never resolve. */
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

  /** Takes a ready process into use, and replaces it when it dies. */
  #adopt(process: ModelProcess): void {
    this.#failedStarts = 0;
    void process.gone.then(() => {
      const { endReason, wasKilled, pid } = process;
      if (!wasKilled && this.#idle.includes(process)) {
        this.#options.log.warn({ reason: endReason, model_process_pid: pid }, 'Idle model process ended');
        this.#options.onRestart('crashed');
      }
      this.#idle = this.#idle.filter((idle) => idle !== process);
      this.#adjust();
    });
    this.#idle.push(process);
    this.#serveNext();
    this.#adjust();
  }

  /** Starts missing processes, and ends a surplus one that is idle: the youngest, which was the spare. */
  #adjust(): void {
    if (this.#closing.signal.aborted) return;
    const wanted = this.#options.size + (this.#spareReasons > 0 ? 1 : 0);
    const living = [...this.#processes].filter(({ mode }) => mode !== 'killed');
    for (let missing = wanted - living.length - this.#delayedStarts; missing > 0; missing--) void this.#add();
    const youngest = living.at(-1);
    if (living.length <= wanted || youngest === undefined || !this.#idle.includes(youngest)) return;
    this.#idle = this.#idle.filter((idle) => idle !== youngest);
    youngest.kill('the spare process is not needed any more');
  }

  async #add(): Promise<void> {
    const { log, onRestart, onBroken } = this.#options;
    const process = this.#launch(false);
    try {
      await process.ready;
      log.info({ model_process_pid: process.pid }, 'Model process added');
      this.#adopt(process);
    } catch (error) {
      if (this.#closing.signal.aborted) return;
      this.#failedStarts++;
      onRestart('load_failed');
      log.error({ err: error, model_process_pid: process.pid }, 'Model process failed to start');
      if (this.#failedStarts >= MAX_FAILED_STARTS) {
        onBroken(error instanceof Error ? error : new Error(String(error)));
        return;
      }
      this.#delayedStarts++;
      await process.gone;
      await delay(Math.min(FIRST_RETRY_MS * 2 ** this.#failedStarts, LAST_RETRY_MS));
      this.#delayedStarts--;
      this.#adjust();
    }
  }

  #changeSpareReasons(change: 1 | -1): void {
    this.#spareReasons += change;
    this.#adjust();
  }

  #serveNext(): void {
    while (this.#idle.length > 0 && this.#secondRuns.length + this.#firstRuns.length > 0) {
      // The process that ran last: its model is still in the cache of its core.
      const process = this.#idle.pop();
      if (process?.mode !== 'ready') continue;
      (this.#secondRuns.shift() ?? this.#firstRuns.shift()?.resolve)?.(this.#lease(process));
    }
    // A process that already has its next run does not wait for the worker between two runs.
    while (this.#secondRuns.length === 0 && this.#firstRuns[0]?.mayBeNext()) {
      const process = this.#nextToEnd();
      if (process === undefined) return;
      this.#firstRuns.shift()?.resolve(this.#lease(process));
    }
  }

  /** The process whose run started first, of those that can take another one. */
  #nextToEnd(): ModelProcess | undefined {
    return [...this.#processes]
      .filter((process) => process.takesNext && !this.#suspected.has(process))
      .sort((one, other) => (one.runStartedMs ?? 0) - (other.runStartedMs ?? 0))[0];
  }

  #lease(process: ModelProcess): Lease {
    const release = () => {
      if (process.mode === 'ready' && !this.#idle.includes(process)) this.#idle.push(process);
      this.#serveNext();
      this.#adjust();
    };
    return {
      run: async (request, budgetMs) => {
        let timer: NodeJS.Timeout | undefined;
        let suspected = false;
        const onStart = () => {
          const dueMs = performance.now() + budgetMs / 2;
          timer = setTimeout(() => {
            // A late timer means that this process was paused, which says nothing about the model process.
            if (performance.now() - dueMs > PAUSED_MS) return;
            suspected = true;
            this.#suspected.add(process);
            this.#changeSpareReasons(+1);
            // Its next run need not wait for it.
            void process.dropNext().then(release);
          }, budgetMs / 2);
        };
        try {
          return await process.run(request, budgetMs, onStart);
        } catch (error) {
          // The pool has killed it: no item is to blame.
          if (this.#closing.signal.aborted) throw new RunError('not_started', 'The pool is closing');
          if (process.mode === 'killed' && timer) {
            this.#options.log.warn(
              { reason: process.endReason, model_process_pid: process.pid },
              'Model process ended during inference',
            );
            this.#options.onRestart(error instanceof RunError && error.kind === 'hung' ? 'hung' : 'crashed');
          }
          throw error;
        } finally {
          clearTimeout(timer);
          if (suspected) {
            this.#suspected.delete(process);
            this.#changeSpareReasons(-1);
          }
          release();
        }
      },
      release,
    };
  }

  /** A lease for a second run, during which a spare is kept. */
  #withSpare(lease: Lease): Lease {
    return {
      run: (...run) => lease.run(...run).finally(() => this.#changeSpareReasons(-1)),
      release: () => {
        lease.release();
        this.#changeSpareReasons(-1);
      },
    };
  }
}
