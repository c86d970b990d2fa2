import { createServer } from 'node:http';
import { type Log, listen } from '@sluice/shared';

/** Where a worker tells whoever watches it how it is. */
export interface AdminServer {
  port: number;
  close(): Promise<void>;
}

/**
 * Serves `/health` (200 while the process lives) and `/ready` (200 when a model process is loaded, Redis answers
 * and the worker is not draining, else 503 with the reason).
 * @param notReady says why the worker is not ready; undefined when it is
 * @param port a port in use is no reason not to work: another is taken then, and logged
 */
export async function startAdminServer(
  { host, port, log }: { host: string; port: number; log: Log },
  notReady: () => string | undefined,
): Promise<AdminServer> {
  const server = createServer((request, response) => {
    const path = new URL(request.url ?? '/', 'http://worker').pathname;
    const reason = path === '/ready' ? notReady() : undefined;
    const known = path === '/health' || path === '/ready';
    const status = known ? (reason === undefined ? 200 : 503) : 404;
    response.writeHead(status, { 'Content-Type': 'application/json' });
    response.end(JSON.stringify(known ? { status: reason ?? 'ok' } : { status: 'not found' }));
  });
  const taken = await listen(server, { host, port }, 'take a free one');
  if (port !== 0 && taken !== port) {
    log.warn({ wanted: port, port: taken }, 'WORKER_ADMIN_PORT is in use; the admin port is another');
  }
  return {
    port: taken,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}
