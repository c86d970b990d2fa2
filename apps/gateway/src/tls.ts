import { readFileSync, unwatchFile, watchFile } from 'node:fs';
import type { Server } from 'node:http';
import { createSecureContext, Server as TlsServer } from 'node:tls';
import { EXIT_CONFIG, type Log, type Settings, StartError } from '@sluice/shared';
import type { TlsFiles } from './errors/respond.js';

/** A renewed certificate is taken up within this time, in milliseconds. */
const LOOK_EVERY_MS = 10_000;

/**
 * The certificate and key of the configuration; undefined when there are none.
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
 * Takes up a certificate that is renewed while the server runs; one that cannot be used is left, and logged.
 * @returns a function that ends the watch
 */
export function followTls(server: Server, settings: Settings, log: Log): () => void {
  const files = [settings.TLS_CERT, settings.TLS_KEY].filter((file) => file !== undefined);
  const renew = () => {
    try {
      const tls = readTls(settings);
      if (tls === undefined || !(server instanceof TlsServer)) return;
      server.setSecureContext(tls);
      log.info('The certificate was renewed');
    } catch (err) {
      // A renewal writes one file after the other: the next look finds both.
      log.warn({ err }, 'The new certificate cannot be used; the old one still serves');
    }
  };
  for (const file of files) watchFile(file, { persistent: false, interval: LOOK_EVERY_MS }, renew);
  return () => {
    for (const file of files) unwatchFile(file, renew);
  };
}
