import { readFileSync, unwatchFile, watchFile } from 'node:fs';
import type { Server } from 'node:http';
import { createSecureContext, Server as TlsServer } from 'node:tls';
import { EXIT_CONFIG, type Log, type Settings, StartError } from '@sluice/shared';
import type { TlsFiles } from './server.js';

/** A renewed certificate is used within this time, in milliseconds. */
const CHECK_EVERY_MS = 10_000;

/**
 * Reads the configured certificate and key. Returns undefined if no certificate is configured.
 * @throws StartError when they cannot be used
 */
export function readTls({ TLS_CERT, TLS_KEY }: Settings): TlsFiles | undefined {
  if (TLS_CERT === undefined || TLS_KEY === undefined) return undefined;
  try {
    const files = { cert: readFileSync(TLS_CERT), key: readFileSync(TLS_KEY) };
    createSecureContext(files);
    return files;
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new StartError(`TLS_CERT, TLS_KEY: ${reason}`, EXIT_CONFIG);
  }
}

/**
 * Uses a certificate that is renewed while the server runs. An invalid one is logged, and the old one stays in use.
 * @returns a function that stops watching the files
 */
export function watchTls(server: Server, settings: Settings, log: Log): () => void {
  const files = [settings.TLS_CERT, settings.TLS_KEY].filter((file) => file !== undefined);
  const renew = () => {
    try {
      const tls = readTls(settings);
      if (tls === undefined || !(server instanceof TlsServer)) return;
      server.setSecureContext(tls);
      log.info('Certificate renewed');
    } catch (err) {
      // A renewal writes one file after the other, so the next check may find a valid pair.
      log.warn({ err }, 'Invalid new certificate; the old one stays in use');
    }
  };
  for (const file of files) watchFile(file, { persistent: false, interval: CHECK_EVERY_MS }, renew);
  return () => {
    for (const file of files) unwatchFile(file, renew);
  };
}
