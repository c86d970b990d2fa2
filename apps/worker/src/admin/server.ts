import { createServer } from 'node:http';
import { type AdminPort, type Log, openAdminPort } from '@sluice/shared';

/**
 * Serves `/health` (200 while the process is alive) and `/ready` (200 when each model has a loaded process, Redis
 * answers and the worker is not draining, else 503 with the reason).
 * @param notReadyReason undefined when the worker is ready
 * @throws the system's error, with its `code`
 */
export async function startAdminServer(
  { host, port, log }: { host: string; port: number; log: Log },
  notReadyReason: () => string | undefined,
): Promise<AdminPort> {
  const server = createServer((request, response) => {
    const path = new URL(request.url ?? '/', 'http://worker').pathname;
    const reason = path === '/ready' ? notReadyReason() : undefined;
    const known = path === '/health' || path === '/ready';
    const status = known ? (reason === undefined ? 200 : 503) : 404;
    response.writeHead(status, { 'Content-Type': 'application/json' });
    response.end(JSON.stringify(known ? { status: reason ?? 'ok' } : { status: 'not found' }));
  });
  return openAdminPort(server, { host, port, setting: 'WORKER_ADMIN_PORT', log });
}
