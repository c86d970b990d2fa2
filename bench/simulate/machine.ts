import type { Clock } from './clock.js';

/** A process with one thread: its tasks run one after the other. */
export interface Process {
  /** Runs a task that takes `ms` milliseconds of processor time. Does nothing once the process is dead. */
  run(ms: number, onDone: () => void): void;
  /** Processor time used so far, in milliseconds. */
  readonly usedMs: number;
  /** Processor time of the tasks that wait. */
  readonly waitingMs: number;
  kill(): void;
}

interface Task {
  leftMs: number;
  onDone: () => void;
}

/** A machine whose processes share its cores equally. */
export class Machine {
  #clock: Clock;
  #cores: number;
  /** The present task of each busy process. */
  #running = new Map<object, Task>();
  #updatedMs = 0;
  #generation = 0;

  constructor(clock: Clock, cores: number) {
    this.#clock = clock;
    this.#cores = cores;
  }

  start(): Process {
    const waiting: Task[] = [];
    let usedMs = 0;
    let waitingMs = 0;
    let dead = false;
    const handle = {};
    const next = () => {
      const task = waiting.shift();
      if (task === undefined) this.#running.delete(handle);
      else this.#running.set(handle, task);
    };
    return {
      run: (ms, onDone) => {
        if (dead) return;
        const task = {
          leftMs: ms,
          onDone: () => {
            usedMs += ms;
            waitingMs -= ms;
            next();
            onDone();
          },
        };
        waiting.push(task);
        waitingMs += ms;
        if (this.#running.has(handle)) return;
        this.#progress();
        next();
        this.#schedule();
      },
      get usedMs() {
        return usedMs;
      },
      get waitingMs() {
        return waitingMs;
      },
      kill: () => {
        dead = true;
        waiting.length = 0;
        this.#progress();
        this.#running.delete(handle);
        this.#schedule();
      },
    };
  }

  /** Share of a core that each running task has. */
  get #speed(): number {
    return Math.min(1, this.#cores / Math.max(1, this.#running.size));
  }

  /** Takes the time that has passed off the running tasks. */
  #progress(): void {
    const doneMs = (this.#clock.nowMs - this.#updatedMs) * this.#speed;
    this.#updatedMs = this.#clock.nowMs;
    for (const task of this.#running.values()) task.leftMs -= doneMs;
  }

  /** Schedules the end of the task that ends first. */
  #schedule(): void {
    const generation = ++this.#generation;
    if (this.#running.size === 0) return;
    const leftMs = Math.min(...[...this.#running.values()].map((task) => task.leftMs));
    this.#clock.after(leftMs / this.#speed, () => {
      // The tasks have changed since.
      if (generation !== this.#generation) return;
      this.#progress();
      const ended = [...this.#running.values()].filter((task) => task.leftMs < 1e-6);
      for (const { onDone } of ended) onDone();
      this.#schedule();
    });
  }
}
