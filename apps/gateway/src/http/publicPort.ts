import type { RequestListener, ServerResponse } from 'node:http';
import { setTimeout as delay } from 'node:timers/promises';
import { EXIT_CONFIG, type Log, listen, type Settings, StartError } from '@sluice/shared';
import type { ErrorFormat } from './problem.js';
import { createHttpServer, type TlsFiles } from './server.js';
import { watchTls } from './tls.js';

/** A drain may take this much longer than the longest request, in milliseconds. */
const DRAIN_SLACK_MS = 1_000;
/**
 * A connection without any traffic is closed this long after the longest request, in milliseconds. Uploads, streams of
 * events and pages of results have traffic more often.
 */
const IDLE_SLACK_MS = 120_000;

/** The gateway's public port. */
export interface PublicPort {
  port: number;
  /** Answers the requests in flight, takes no new ones, and closes the port. */
  drain(): Promise<void>;
}

/**
 * Opens the public port.
 * @param draining whether the gateway drains
 * @throws StartError when the port cannot be opened
 */
export async function openPublicPort(
  app: RequestListener,
  {
    settings,
    longestRequestMs,
    longestInFlightMs,
    errorFormat,
    tls,
    draining,
    log,
  }: {
    settings: Settings;
    longestRequestMs: number;
    /** How long the requests in flight now may take at most. */
    longestInFlightMs: () => number;
    errorFormat: ErrorFormat;
    tls: TlsFiles | undefined;
    draining: () => boolean;
    log: Log;
  },
): Promise<PublicPort> {
  const server = createHttpServer(app, { errorFormat, log, tls });
  server.timeout = longestRequestMs + IDLE_SLACK_MS;
  /** Responses that are not finished. */
  const unfinished = new Set<ServerResponse>();
  server.on('request', (_request, response) => {
    unfinished.add(response);
    response.on('close', () => unfinished.delete(response));
    // A drain does not wait for idle keep-alive connections.
    response.on('finish', () => draining() && setImmediate(() => server.closeIdleConnections()));
  });
  const port = await listen(server, { host: settings.HOST, port: settings.PORT }).catch(
    (error: NodeJS.ErrnoException) => {
      throw new StartError(
        error.code === 'EADDRINUSE'
          ? `PORT: ${settings.PORT} is in use; set PORT to another one`
          : `PORT or HOST: cannot listen (${error.code ?? error.message})`,
        EXIT_CONFIG,
      );
    },
  );
  const stopWatching = watchTls(server, settings, log);
  return {
    port,
    drain: async () => {
      // So that clients do not send another request on a connection that is about to be closed.
      for (const response of unfinished) if (!response.headersSent) response.setHeader('Connection', 'close');
      const closed = new Promise((resolve) => server.close(resolve));
      server.closeIdleConnections();
      await Promise.race([closed, delay(longestInFlightMs() + DRAIN_SLACK_MS, undefined, { ref: false })]);
      server.closeAllConnections();
      stopWatching();
    },
  };
}
