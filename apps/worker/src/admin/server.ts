import { createServer } from 'node:http';
import { type AdminPort, type Log, openAdminPort } from '@sluice/shared';
import type { Metrics } from '../metrics.js';

/**
 * Serves `/health` (200 while the process is alive), `/ready` (200 when each model has a loaded process, Redis answers and the
 * worker is not draining, else 503 with the reason) and `/metrics`.
 * @param notReadyReason undefined when the worker is ready
 * @throws the system's error, with its `code`
 */
export async function startAdminServer(
  { host, port, metrics, log }: { host: string; port: number; metrics: Metrics; log: Log },
  notReadyReason: () => string | undefined,
): Promise<AdminPort> {
  const server = createServer(async (request, response) => {
    const [path] = (request.url ?? '/').split('?', 1);
    const sendJson = (status: number, body: object) =>
      response.writeHead(status, { 'Content-Type': 'application/json' }).end(JSON.stringify(body));
    switch (path) {
      case '/health':
        return sendJson(200, { status: 'ok' });
      case '/ready': {
        const reason = notReadyReason();
        return sendJson(reason === undefined ? 200 : 503, { status: reason ?? 'ok' });
      }
      case '/metrics':
        return response.writeHead(200, { 'Content-Type': metrics.contentType }).end(await metrics.text());
      default:
        return sendJson(404, { status: 'not found' });
    }
  });
  return openAdminPort(server, { host, port, setting: 'WORKER_ADMIN_PORT', log });
}
