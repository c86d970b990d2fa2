import type { Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { Log } from '../log.js';

/**
 * Makes a server listen.
 * @param ifInUse what to do when the port is in use; 'take a free one' is for ports that are logged
 * @returns the port that the server listens on
 * @throws the system's error, with its `code`
 */
export async function listen(
  server: Server,
  { host, port }: { host: string | undefined; port: number },
  ifInUse: 'fail' | 'take a free one' = 'fail',
): Promise<number> {
  const attempt = (wanted: number) =>
    new Promise<void>((resolve, reject) => {
      server.once('error', reject);
      server.listen({ host, port: wanted }, () => {
        server.off('error', reject);
        resolve();
      });
    });
  try {
    await attempt(port);
  } catch (error) {
    const inUse = (error as NodeJS.ErrnoException).code === 'EADDRINUSE';
    if (!inUse || ifInUse === 'fail') throw error;
    await attempt(0);
  }
  return (server.address() as AddressInfo).port;
}

/** An admin port that is open. */
export interface AdminPort {
  port: number;
  /** Closes the port and its connections. */
  close(): Promise<void>;
}

/**
 * Opens an admin port. A port in use does not stop the process: a free one is taken instead, and logged.
 * @param setting name of the setting that holds the port
 * @throws the system's error, with its `code`
 */
export async function openAdminPort(
  server: Server,
  { host, port, setting, log }: { host: string; port: number; setting: string; log: Log },
): Promise<AdminPort> {
  const taken = await listen(server, { host, port }, 'take a free one');
  if (port !== 0 && taken !== port) {
    log.warn({ setting, wanted: port, port: taken }, 'Admin port in use; listening on a free port instead');
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
