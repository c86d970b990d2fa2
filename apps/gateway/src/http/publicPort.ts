import type { RequestListener, ServerResponse } from 'node:http';
import { Server as NetServer, type Socket } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { EXIT_CONFIG, type Log, listen, type Settings, StartError } from '@sluice/shared';
import type { ErrorFormat } from './problem.js';
import { createHttpServer, type TlsFiles } from './server.js';
import { watchTls } from './tls.js';

/**
 * During a drain, connections stay open for this long, in milliseconds, because a client may be sending a request on one. That request is
 * answered, with `Connection: close`. A connection that is closed while a request is on its way fails that request.
 */
const KEPT_MS = 1_000;
/** How often idle connections are closed after that, in milliseconds. */
const CLOSE_IDLE_EVERY_MS = 100;
/** At the end of a drain, the responses to requests that were given up have this long to be sent, in milliseconds. */
const LAST_RESPONSES_MS = 400;
/**
 * A connection without any traffic is closed this long after the longest request, in milliseconds. Uploads, streams of
 * events and pages of results have traffic more often.
 */
const IDLE_SLACK_MS = 120_000;

/** The gateway's public port. */
export interface PublicPort {
  port: number;
  /**
   * Accepts no more connections, and answers the requests of the open ones.
   * @param withinMs after this long the rest is given up
   * @param giveUp answers the requests in progress with 503
   */
  drain(withinMs: number, giveUp: () => void): Promise<void>;
}

/**
 * Opens the public port.
 * @throws StartError when the port cannot be opened
 */
export async function openPublicPort(
  app: RequestListener,
  {
    settings,
    longestRequestMs,
    errorFormat,
    tls,
    log,
  }: {
    settings: Settings;
    longestRequestMs: number;
    errorFormat: ErrorFormat;
    tls: TlsFiles | undefined;
    log: Log;
  },
): Promise<PublicPort> {
  const server = createHttpServer(app, { errorFormat, log, tls });
  server.timeout = longestRequestMs + IDLE_SLACK_MS;
  /** Connections without any request yet, by their remote address. Node does not close them as idle ones. */
  const unused = new Map<string, Socket>();
  server.on('connection', (socket: Socket) => {
    const remote = remoteOf(socket);
    unused.set(remote, socket);
    socket.once('close', () => unused.delete(remote));
  });
  /** Responses that are not finished. */
  const unfinished = new Set<ServerResponse>();
  server.on('request', ({ socket }, response) => {
    unused.delete(remoteOf(socket));
    unfinished.add(response);
    response.on('close', () => unfinished.delete(response));
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
    drain: async (withinMs, giveUp) => {
      // So that clients do not send another request on a connection that is about to be closed.
      for (const response of unfinished) if (!response.headersSent) response.setHeader('Connection', 'close');
      // `http.Server.close` would also close idle connections, so this calls the method of `net.Server`.
      const closed = new Promise((resolve) => NetServer.prototype.close.call(server, resolve));
      const closedWithin = (ms: number) => Promise.race([closed, delay(ms, undefined, { ref: false })]);
      const keptMs = Math.min(KEPT_MS, withinMs / 2);
      await closedWithin(keptMs);
      for (const socket of unused.values()) socket.destroy();
      // A connection becomes idle when its response has been sent.
      const closing = setInterval(() => server.closeIdleConnections(), CLOSE_IDLE_EVERY_MS);
      await closedWithin(withinMs - keptMs - LAST_RESPONSES_MS);
      if (unfinished.size > 0) {
        log.warn(
          { requests: unfinished.size },
          'Drain time is nearly over; answering the unfinished requests with 503. Raise DRAIN_SECONDS if this happens often',
        );
        giveUp();
        await closedWithin(LAST_RESPONSES_MS);
      }
      clearInterval(closing);
      server.closeAllConnections();
      stopWatching();
    },
  };
}

/** With TLS the socket of a request is another object than that of its connection, but it has the same address. */
const remoteOf = ({ remoteAddress, remotePort }: Socket) => `${remoteAddress} ${remotePort}`;
