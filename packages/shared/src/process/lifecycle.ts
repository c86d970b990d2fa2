import { setFlagsFromString } from 'node:v8';
import { EXIT_CONFIG, readSettings, type Settings, SettingsError } from '../config/settings.js';
import { createLog, type Log } from '../log.js';
import { startTracing } from '../telemetry/tracing.js';

/**
 * How much the heap may grow before the next garbage collection, in percent. With V8's default a gateway under load grows
 * to 156 MB; with this value it stays at 124 MB, at no measurable cost. It is not a hard limit.
 */
const HEAP_GROWING_PERCENT = 20;

/** The part of DRAIN_SECONDS in which an app releases its resources, after its work has ended. */
const RELEASE_SHARE = 0.4;
const MAX_RELEASE_MS = 2_000;

/** A running app. */
export interface App {
  /**
   * Finishes the work in flight and releases all resources. May be called twice.
   * @param withinMs work that is unfinished after this long is ended: a gateway answers 503, a worker returns it to the queue
   */
  close(withinMs: number): Promise<void>;
  /** Sent to the parent process in the `ready` message. */
  facts: Readonly<Record<string, string | number>>;
}

/** A failure to start that is logged as one line, without a stack. */
export class StartError extends Error {
  override name = 'StartError';
  /** @param exitCode of the process: {@link EXIT_CONFIG} when a restart cannot help */
  constructor(
    message: string,
    readonly exitCode: number = 1,
  ) {
    super(message);
  }
}

/**
 * Runs an app as this process. It reads the settings from the environment, drains at SIGTERM, SIGINT, SIGHUP or when its parent
 * process is gone, and exits with status 0 after a drain, within DRAIN_SECONDS. It adds its listeners for signals before it returns
 * the promise.
 * @param name part of every log line
 * @param start starts the app; `signal` aborts when the app is stopped before it is ready. It must
 *   then finish its work within `drainMs` milliseconds and reject
 * @param env the environment to read the settings from
 */
export async function runApp(
  name: string,
  start: (settings: Settings, log: Log, signal: AbortSignal, drainMs: number) => Promise<App>,
  env: Readonly<Record<string, string | undefined>> = process.env,
): Promise<void> {
  setFlagsFromString(`--heap-growing-percent=${HEAP_GROWING_PERCENT}`);
  // The reader of our output may be gone, which must not interrupt a drain.
  process.stdout.on('error', () => {});
  process.stderr.on('error', () => {});
  let log = createLog(name, {
    LOG_LEVEL: 'info',
    LOG_FORMAT: env.LOG_FORMAT === 'pretty' ? 'pretty' : 'json',
  });
  const stopping = new AbortController();
  let app: App | undefined;
  let endTracing = async () => {};
  let limitMs = 0;
  /** How long the work in flight may take during a drain. */
  const workMs = () => limitMs - Math.min(RELEASE_SHARE * limitMs, MAX_RELEASE_MS);

  const stop = async (reason: string) => {
    if (stopping.signal.aborted) return;
    log.info({ reason }, 'Draining');
    stopping.abort(new StartError(`Stopped by ${reason}`, 0));
    if (app === undefined) {
      // `start` sees the aborted signal, but it may be waiting for something that never happens.
      setTimeout(() => process.exit(0), limitMs);
      return;
    }
    const late = setTimeout(
      () =>
        fail(
          new StartError(
            'Drain did not end within DRAIN_SECONDS; exiting with unfinished work. Raise DRAIN_SECONDS, and check that Redis is reachable',
          ),
        ),
      limitMs,
    );
    await app.close(workMs());
    await endTracing();
    clearTimeout(late);
    log.info('Drained');
    process.exit(0);
  };
  const fail = (error: unknown, what = 'Drain failed'): never => {
    if (error instanceof StartError || error instanceof SettingsError) {
      const exitCode = error instanceof StartError ? error.exitCode : EXIT_CONFIG;
      if (exitCode !== 0) log.fatal(error.message);
      process.exit(exitCode);
    }
    log.fatal({ err: error }, what);
    process.exit(1);
  };

  for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP'] as const)
    process.on(signal, () => void stop(signal).catch((error: unknown) => fail(error)));
  process.on('disconnect', () => {
    void stop('parent process ended').catch((error: unknown) => fail(error));
  });
  process.on('uncaughtException', (error) => fail(error, 'Unexpected error'));
  process.on('unhandledRejection', (error) => fail(error, 'Unexpected rejection'));

  try {
    const settings = readSettings(env);
    limitMs = settings.DRAIN_SECONDS * 1000;
    log = createLog(name, settings);
    endTracing = await startTracing(name, env, log);
    const started = await start(settings, log, stopping.signal, workMs());
    if (stopping.signal.aborted) {
      await started.close(workMs());
      process.exit(0);
    }
    app = started;
    process.send?.({ type: 'ready', ...app.facts });
  } catch (error) {
    fail(error, 'Could not start');
  }
}
