import { setFlagsFromString } from 'node:v8';
import { EXIT_CONFIG, readSettings, type Settings, SettingsError } from '../config/settings.js';
import { createLog, type Log } from '../log.js';

/**
 * The heap may grow by so much before garbage is collected again, in percent. V8's own choice lets a gateway under load
 * grow to 156 MB; with this it stays at 124 MB and costs no measurable time. No hard limit: what is needed is taken.
 */
const HEAP_GROWING_PERCENT = 20;

/** A drain may outlast the deadline of the last request by so much. */
const DRAIN_SLACK_MS = 3_000;
/** An app that is told to end before it is ready has so long to let go of what it has. */
const START_SLACK_MS = 2_000;

/** A running app. */
export interface App {
  /** Finishes what was begun and lets go of everything; may be called twice. */
  close(): Promise<void>;
  /** Told to whoever started the process, as the `ready` message. */
  facts: Readonly<Record<string, string | number>>;
}

/** A failure to start that is worth one line and no stack. */
export class StartError extends Error {
  override name = 'StartError';
  /** @param exitCode of the process: {@link EXIT_CONFIG} when starting it again is no use */
  constructor(
    message: string,
    readonly exitCode: number = 1,
  ) {
    super(message);
  }
}

/**
 * Runs an app as this process: settings from the environment, a drain at SIGTERM, SIGINT or when the process that
 * started it over IPC is gone, exit status 0 after a drain.
 * @param name on every log line
 * @param start starts the app; `signal` aborts when it is to end before it is ready
 * @param env the environment to read the settings from
 */
export async function runApp(
  name: string,
  start: (settings: Settings, log: Log, signal: AbortSignal) => Promise<App>,
  env: Readonly<Record<string, string | undefined>> = process.env,
): Promise<void> {
  setFlagsFromString(`--heap-growing-percent=${HEAP_GROWING_PERCENT}`);
  // Whoever read our output may be gone, and that must not end a drain.
  process.stdout.on('error', () => {});
  process.stderr.on('error', () => {});
  let log = createLog(name, {
    LOG_LEVEL: 'info',
    LOG_FORMAT: env.LOG_FORMAT === 'pretty' ? 'pretty' : 'json',
  });
  const stopping = new AbortController();
  let app: App | undefined;
  let drainLimitMs = 0;

  const stop = async (why: string) => {
    if (stopping.signal.aborted) return;
    log.info({ why }, 'Draining');
    stopping.abort(new StartError(`Stopped by ${why}`, 0));
    if (app === undefined) {
      // Its start hears of it by the signal, and may be waiting for what never comes.
      setTimeout(() => process.exit(0), START_SLACK_MS);
      return;
    }
    const late = setTimeout(
      () => fail(new StartError('The drain took too long and was cut short')),
      drainLimitMs,
    );
    await app.close();
    clearTimeout(late);
    log.info('Drained');
    process.exit(0);
  };
  const fail = (error: unknown, what = 'The drain failed'): never => {
    if (error instanceof StartError || error instanceof SettingsError) {
      const exitCode = error instanceof StartError ? error.exitCode : EXIT_CONFIG;
      if (exitCode !== 0) log.fatal(error.message);
      process.exit(exitCode);
    }
    log.fatal({ err: error }, what);
    process.exit(1);
  };

  process.on('SIGTERM', () => void stop('SIGTERM').catch((error: unknown) => fail(error)));
  process.on('SIGINT', () => void stop('SIGINT').catch((error: unknown) => fail(error)));
  process.on('disconnect', () => {
    void stop('the end of its parent').catch((error: unknown) => fail(error));
  });
  process.on('uncaughtException', (error) => fail(error, 'Unexpected error'));
  process.on('unhandledRejection', (error) => fail(error, 'Unexpected rejection'));

  try {
    const settings = readSettings(env);
    log = createLog(name, settings);
    drainLimitMs = settings.REQUEST_TIMEOUT_SECONDS * 1000 + DRAIN_SLACK_MS;
    const started = await start(settings, log, stopping.signal);
    if (stopping.signal.aborted) {
      await started.close();
      process.exit(0);
    }
    app = started;
    process.send?.({ type: 'ready', ...app.facts });
  } catch (error) {
    fail(error, 'Could not start');
  }
}
