import { type ChildProcess, spawn } from 'node:child_process';
import {
  fromProcessSchema,
  type LoadMessage,
  type ModelFacts,
  type RunMessage,
  type TextResult,
} from './protocol.js';

/** A timer that fires this much late says that this process was paused, not that the model hangs; in milliseconds. */
export const PAUSED_MS = 250;

/** Why a run gave no results. */
export class RunError extends Error {
  override name = 'RunError';
  /** `hung`: past its budget, and killed. `crashed`: the process died. `refused`: the model threw; it lives. */
  constructor(
    readonly kind: 'hung' | 'crashed' | 'refused',
    message: string,
  ) {
    super(message);
  }
}

export interface LoadProgress {
  file: string;
  loadedBytes: number;
  totalBytes: number;
}

interface Run {
  runId: number;
  resolve: (results: TextResult[]) => void;
  reject: (error: RunError) => void;
  timer: NodeJS.Timeout;
}

/**
 * One model process and its life:
 *
 * *starting*: spawned, loads its model; leaves to *ready* when it says so, to *killed* when it cannot, dies or is
 *   silent for too long.
 * *ready*: idle; leaves to *busy* with `run`, to *killed* when it dies or by `kill`.
 * *busy*: has one run; leaves to *ready* with its results or the model's refusal, to *killed* when the run is past
 *   its budget, when it dies, or by `kill`.
 * *killed*: sent SIGKILL, or dead; for good.
 */
export class ModelProcess {
  #mode: 'starting' | 'ready' | 'busy' | 'killed' = 'starting';
  #child: ChildProcess;
  #run: Run | undefined;
  #runs = 0;
  #silence: NodeJS.Timeout;
  #reason: string | undefined;
  #becomeReady: (facts: ModelFacts) => void = () => {};
  #becomeUnloadable: (error: Error) => void = () => {};
  /** Resolves when the model is loaded; rejects with one line that says why it is not. */
  readonly ready: Promise<ModelFacts>;
  /** Resolves when the process is no more. */
  readonly gone: Promise<void>;

  /**
   * @param command program and arguments: a Node, and the entry of a model process
   * @param load the first message
   * @param silenceMs a process that says nothing for so long while it loads is killed
   * @param onProgress hears how far the load is
   */
  constructor(
    command: readonly [string, ...string[]],
    load: LoadMessage,
    silenceMs: number,
    onProgress: (progress: LoadProgress) => void = () => {},
  ) {
    this.ready = new Promise((resolve, reject) => {
      this.#becomeReady = resolve;
      this.#becomeUnloadable = reject;
    });
    // Whoever never asks is not to crash; whoever asks hears of it.
    this.ready.catch(() => {});
    const [program, ...args] = command;
    // What libraries print goes to standard error: standard output is the log's.
    this.#child = spawn(program, args, { stdio: ['ignore', 2, 2, 'ipc'] });
    this.#silence = setTimeout(() => this.kill('it was silent for too long'), silenceMs);
    this.gone = new Promise((resolve) => {
      this.#child.once('exit', (code, signal) => {
        this.#end(`it died (${signal ?? `exit status ${code}`})`);
        resolve();
      });
      this.#child.once('error', (error) => {
        this.#end(error.message);
        if (this.#child.pid === undefined) resolve();
      });
    });
    this.#child.on('message', (json) => this.#hear(json, onProgress));
    // A process that has closed its channel can never answer.
    this.#child.once('disconnect', () => this.kill('it closed its channel'));
    this.#send(load);
  }

  get mode() {
    return this.#mode;
  }

  get pid(): number | undefined {
    return this.#child.pid;
  }

  /**
   * Runs texts, all at once. One run at a time, on a process that is *ready*.
   * @param budgetMs past which the process counts as hung and is killed
   * @throws RunError
   */
  run(texts: readonly string[], topK: number, budgetMs: number): Promise<TextResult[]> {
    if (this.#mode !== 'ready') {
      return Promise.reject(new RunError('crashed', `The model process is ${this.#mode}`));
    }
    this.#mode = 'busy';
    const runId = ++this.#runs;
    return new Promise((resolve, reject) => {
      this.#run = { runId, resolve, reject, timer: this.#watch(runId, budgetMs) };
      this.#send({ type: 'run', runId, texts: [...texts], topK });
    });
  }

  /** Ends the process, stopped or not. May be called twice. */
  kill(why = 'it was told to end'): void {
    this.#child.kill('SIGKILL');
    this.#end(why);
  }

  /** Kills the process when the run is still there after its budget. */
  #watch(runId: number, budgetMs: number): NodeJS.Timeout {
    const dueMs = performance.now() + budgetMs;
    return setTimeout(() => {
      if (this.#run?.runId !== runId) return;
      if (performance.now() - dueMs > PAUSED_MS) {
        this.#run.timer = this.#watch(runId, budgetMs);
        return;
      }
      // The answer may lie in the pipe already: one poll phase comes before this callback.
      setImmediate(() => {
        if (this.#run?.runId !== runId) return;
        this.#finishRun()?.reject(new RunError('hung', `A run took longer than ${budgetMs} ms`));
        this.kill('it hung');
      });
    }, budgetMs);
  }

  #send(message: LoadMessage | RunMessage): void {
    // A process that is gone takes no message; its `exit` ends the run.
    if (this.#child.connected) this.#child.send(message, () => {});
  }

  #hear(json: unknown, onProgress: (progress: LoadProgress) => void): void {
    const parsed = fromProcessSchema.safeParse(json);
    if (!parsed.success) {
      this.kill('it sent what is no message');
      return;
    }
    const message = parsed.data;
    if (this.#mode === 'starting') this.#silence.refresh();
    switch (message.type) {
      case 'progress':
        onProgress(message);
        break;
      case 'ready':
        if (this.#mode !== 'starting') break;
        clearTimeout(this.#silence);
        this.#mode = 'ready';
        this.#becomeReady(message.facts);
        break;
      case 'unloadable':
        this.#reason = message.reason;
        break;
      case 'result':
        if (this.#run?.runId === message.runId) this.#finishRun()?.resolve(message.results);
        break;
      case 'refused':
        if (this.#run?.runId !== message.runId) break;
        this.#finishRun()?.reject(new RunError('refused', message.reason));
        break;
    }
  }

  #finishRun(): Run | undefined {
    const run = this.#run;
    if (run === undefined) return undefined;
    clearTimeout(run.timer);
    this.#run = undefined;
    if (this.#mode === 'busy') this.#mode = 'ready';
    return run;
  }

  #end(why: string): void {
    if (this.#mode === 'killed') return;
    this.#mode = 'killed';
    clearTimeout(this.#silence);
    this.#finishRun()?.reject(new RunError('crashed', `The model process ended: ${why}`));
    this.#becomeUnloadable(new Error(this.#reason ?? why));
  }
}
