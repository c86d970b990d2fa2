import type { Server } from 'node:http';
import type { AddressInfo } from 'node:net';

/**
 * Has a server listen.
 * @param or what to do when the port is in use: another free one may do where people look for it in the log
 * @returns the port that it listens on
 * @throws what the system says, with its `code`
 */
export async function listen(
  server: Server,
  { host, port }: { host: string | undefined; port: number },
  or: 'fail' | 'take a free one' = 'fail',
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
    if (!inUse || or === 'fail') throw error;
    await attempt(0);
  }
  return (server.address() as AddressInfo).port;
}
