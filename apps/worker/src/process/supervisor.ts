import { type ChildProcess, spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { ModelError, type ModelErrorCode } from '@sluice/shared';
import {
  fromProcessSchema,
  type LoadMessage,
  type ModelFacts,
  type RowResult,
  type RunMessage,
  type RunRequest,
} from './protocol.js';

/**
 * The environment variables that a model process inherits: what Node and its native libraries read, and `DATA_DIR`, which
 * shows an operator whose process it is. A model process runs code of libraries on callers' texts, loads from disk, and
 * holds no secret.
 */
const INHERITED = [
  'PATH',
  'HOME',
  'TMPDIR',
  'LANG',
  'LC_ALL',
  'TZ',
  'LD_LIBRARY_PATH',
  'DYLD_LIBRARY_PATH',
  'NODE_OPTIONS',
  'DATA_DIR',
] as const;
const inherited = () => Object.fromEntries(INHERITED.map((name) => [name, process.env[name]]));
/** The tokenizer uses one thread: with several it takes 30 to 40 µs a text longer for eight texts at once. */
const ONE_THREAD = { TOKENIZERS_PARALLELISM: 'false' };

/** A timer that fires this much late means that this process was paused, not that the model hangs; in milliseconds. */
export const PAUSED_MS = 250;

/** Why a run gave no results. */
export class RunError extends Error {
  override name = 'RunError';
  /**
   * @param kind `hung`: the run exceeded its budget, and the process was killed. `crashed`: the process died. `refused`:
   *   the model threw an error; the process lives. `not_started`: the process ended before the run, or could
   *   not take it; another process can
   * @param reason what may be logged at any level: it contains nothing of an input
   * @param message the same, or the model's error, which may contain parts of an input
   */
  constructor(
    readonly kind: 'hung' | 'crashed' | 'refused' | 'not_started',
    readonly reason: string,
    message = reason,
  ) {
    super(message);
  }
}

/** How a process ended. A SIGKILL that the worker did not send is usually the kernel's, when memory is short. */
const endOf = (code: number | null, signal: NodeJS.Signals | null) =>
  signal === null
    ? `it exited (exit status ${code})`
    : `it was killed (signal ${signal}${signal === 'SIGKILL' ? '; out of memory?' : ''})`;

/** After its channel closes, a process gets this long to exit, because the exit status says why. Then it is killed. */
const EXIT_MS = 500;

/** Results of the rows of a run, in order. */
export interface RunResult {
  results: RowResult[];
  /** When the run started, on the monotonic clock of this process. */
  startedMs: number;
  /** How long the run took, in milliseconds. */
  ms: number;
  /** The same as the model process saw it, in milliseconds since the epoch. */
  inProcess: { startedMs: number; endedMs: number; pid: number | undefined };
}

interface Run {
  runId: number;
  budgetMs: number;
  onStart: () => void;
  resolve: (result: RunResult) => void;
  reject: (error: RunError) => void;
  /** On the monotonic clock; 0 until the run starts. */
  startedMs: number;
  timer: NodeJS.Timeout | undefined;
}

/**
 * One model process. Its modes:
 *
 * *starting*: spawned, loads its model. Leaves to *ready* when the model is loaded, and to *killed* when the load fails,
 *   the process dies or it is silent for too long.
 * *ready*: idle. Leaves to *busy* with `run`, and to *killed* when it dies or by `kill`.
 * *busy*: has a run, and perhaps the next one, which starts as soon as the first has ended. Leaves to *ready* with the
 *   results or the model's refusal of its last run, and to *killed* when a run exceeds its budget, when the process dies,
 *   or by `kill`.
 * *killed*: sent SIGKILL, or dead. Final.
 */
export class ModelProcess {
  #mode: 'starting' | 'ready' | 'busy' | 'killed' = 'starting';
  #child: ChildProcess | undefined;
  #endReason = '';
  #wasKilled = false;
  #run: Run | undefined;
  /** Sent to the process, which starts it after the present run. */
  #next: Run | undefined;
  #runs = 0;
  #silenceTimer: NodeJS.Timeout;
  #unloadable: { code: ModelErrorCode; reason: string } | undefined;
  #resolveReady: (facts: ModelFacts) => void = () => {};
  #rejectReady: (error: Error) => void = () => {};
  /** Resolves when the model is loaded. Rejects with a ModelError if it cannot be, and another Error if the process died. */
  readonly ready: Promise<ModelFacts>;
  /** Resolves when the process has ended. */
  readonly gone: Promise<void>;

  /**
   * @param command program and arguments: Node, and the entry file of a model process
   * @param load the first message
   * @param silenceMs a process that sends nothing for this long while it loads is killed
   * @param onOutput receives each line that the process prints, which may contain parts of inputs
   */
  constructor(
    command: readonly [string, ...string[]],
    load: LoadMessage,
    silenceMs: number,
    onOutput: (line: string, pid: number | undefined) => void = () => {},
  ) {
    this.ready = new Promise((resolve, reject) => {
      this.#resolveReady = resolve;
      this.#rejectReady = reject;
    });
    // Without a handler, a rejection that nobody awaits would end this process.
    this.ready.catch(() => {});
    this.#silenceTimer = setTimeout(() => this.kill('no progress while loading'), silenceMs);
    const [program, ...args] = command;
    let child: ChildProcess;
    try {
      child = spawn(program, args, {
        stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
        // Vectors travel as bytes, not as JSON.
        serialization: 'advanced',
        env: { ...inherited(), ...ONE_THREAD },
      });
    } catch (error) {
      this.gone = Promise.resolve();
      this.#end(`it could not be started: ${error instanceof Error ? error.message : String(error)}`);
      return;
    }
    this.#child = child;
    this.gone = new Promise((resolve) => {
      child.once('exit', (code, signal) => {
        this.#end(endOf(code, signal));
        resolve();
      });
      child.on('error', (error) => {
        this.#end(error.message);
        if (child.pid === undefined) resolve();
        else this.kill(error.message);
      });
    });
    // Libraries print inputs with their errors, so their output is only for those who ask for it.
    for (const stream of [child.stdout, child.stderr]) {
      if (stream) createInterface(stream).on('line', (line) => onOutput(line, child.pid));
    }
    child.on('message', (message) => this.#receive(message));
    // A process that has closed its channel can never answer.
    child.once('disconnect', () => {
      const timer = setTimeout(() => this.kill('it closed its channel'), EXIT_MS);
      void this.gone.then(() => clearTimeout(timer));
    });
    this.#send(load);
  }

  /** How the process ended; empty while it lives. */
  get endReason(): string {
    return this.#endReason;
  }

  /** Whether the worker killed the process. */
  get wasKilled(): boolean {
    return this.#wasKilled;
  }

  get mode() {
    return this.#mode;
  }

  get pid(): number | undefined {
    return this.#child?.pid;
  }

  /** Whether it has a run and could take the next one. */
  get takesNext(): boolean {
    return this.#mode === 'busy' && this.#next === undefined;
  }

  /** Start of the present run on the monotonic clock of this process; undefined while no run is in progress. */
  get runStartedMs(): number | undefined {
    return this.#run?.startedMs;
  }

  /**
   * Runs rows together. Needs a process that is *ready*, or that {@link takesNext}.
   * @param budgetMs from the start of the run; after this the process counts as hung and is killed
   * @param onStart called when the run starts: at once, or when the run before it has ended
   * @throws RunError
   */
  run(
    { rows, parameters }: RunRequest,
    budgetMs: number,
    onStart: () => void = () => {},
  ): Promise<RunResult> {
    if (this.#mode !== 'ready' && !this.takesNext)
      return Promise.reject(new RunError('not_started', `Model process is ${this.#mode}`));
    const runId = ++this.#runs;
    return new Promise((resolve, reject) => {
      const run = { runId, budgetMs, onStart, resolve, reject, startedMs: 0, timer: undefined };
      if (this.#run) this.#next = run;
      else this.#start(run);
      this.#send({ type: 'run', runId, rows, parameters });
    });
  }

  #start(run: Run): void {
    this.#mode = 'busy';
    this.#run = run;
    run.startedMs = performance.now();
    run.timer = this.#startTimer(run.runId, run.budgetMs);
    run.onStart();
  }

  /**
   * Gives up the next run, so that another process can run it. This process may still run it, and its results are ignored.
   * Resolves when the process is done with it.
   */
  async dropNext(): Promise<void> {
    const next = this.#next;
    if (next === undefined) return;
    await new Promise<void>((resolve) => {
      next.reject(new RunError('not_started', 'The run before it takes too long'));
      next.onStart = () => {};
      next.resolve = () => resolve();
      next.reject = () => resolve();
    });
  }

  /** Ends the process, even a stopped one. May be called twice. */
  kill(reason = 'it was ended'): void {
    if (this.#mode !== 'killed') this.#wasKilled = true;
    this.#child?.kill('SIGKILL');
    this.#end(reason);
  }

  /** Kills the process if the run is still there after its budget. */
  #startTimer(runId: number, budgetMs: number): NodeJS.Timeout {
    const dueMs = performance.now() + budgetMs;
    return setTimeout(() => {
      if (this.#run?.runId !== runId) return;
      if (performance.now() - dueMs > PAUSED_MS) {
        this.#run.timer = this.#startTimer(runId, budgetMs);
        return;
      }
      // The result may already be in the pipe. setImmediate runs after the next poll phase, which reads it.
      setImmediate(() => {
        const run = this.#run;
        if (run?.runId !== runId) return;
        this.#run = undefined;
        run.reject(new RunError('hung', `Run took longer than ${budgetMs} ms`));
        this.kill('it hung');
      });
    }, budgetMs);
  }

  #send(message: LoadMessage | RunMessage): void {
    // A process that has ended takes no message; its `exit` event ends the run.
    if (this.#child?.connected) this.#child.send(message, () => {});
  }

  #receive(received: unknown): void {
    const parsed = fromProcessSchema.safeParse(received);
    if (!parsed.success) {
      this.kill('it sent a malformed message');
      return;
    }
    const message = parsed.data;
    if (this.#mode === 'starting') this.#silenceTimer.refresh();
    switch (message.type) {
      case 'measuring':
        break;
      case 'ready':
        if (this.#mode !== 'starting') break;
        clearTimeout(this.#silenceTimer);
        this.#mode = 'ready';
        this.#resolveReady(message.facts);
        break;
      case 'unloadable':
        this.#unloadable = message;
        break;
      case 'result':
        if (this.#run?.runId === message.runId) {
          const { startedMs } = this.#run;
          this.#finishRun()?.resolve({
            results: message.results,
            startedMs,
            ms: performance.now() - startedMs,
            inProcess: { startedMs: message.startedMs, endedMs: message.endedMs, pid: this.pid },
          });
        }
        break;
      case 'refused':
        if (this.#run?.runId !== message.runId) break;
        this.#finishRun()?.reject(
          new RunError(
            'refused',
            'the model threw an error; its message is logged at debug level',
            message.reason,
          ),
        );
        break;
    }
  }

  #finishRun(): Run | undefined {
    const run = this.#run;
    if (run === undefined) return undefined;
    clearTimeout(run.timer);
    this.#run = undefined;
    if (this.#mode !== 'busy') return run;
    const next = this.#next;
    this.#next = undefined;
    if (next) this.#start(next);
    else this.#mode = 'ready';
    return run;
  }

  #end(reason: string): void {
    if (this.#mode === 'killed') return;
    this.#mode = 'killed';
    this.#endReason = reason;
    clearTimeout(this.#silenceTimer);
    this.#finishRun()?.reject(new RunError('crashed', `Model process ended during inference: ${reason}`));
    this.#next?.reject(new RunError('not_started', `Model process ended before the run: ${reason}`));
    this.#next = undefined;
    this.#rejectReady(
      this.#unloadable ? new ModelError(this.#unloadable.code, this.#unloadable.reason) : new Error(reason),
    );
  }
}
