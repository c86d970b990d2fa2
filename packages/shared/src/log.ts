import { type DestinationStream, type Logger, pino } from 'pino';
import pretty from 'pino-pretty';

export type Log = Logger;

const secrets = [
  'key',
  'api_key',
  'apiKey',
  'authorization',
  '*.key',
  '*.api_key',
  '*.authorization',
  'headers["x-api-key"]',
  '*.headers["x-api-key"]',
  '*.headers.authorization',
];

/** Credentials of a URL (`redis://user:password@host`) anywhere in a text become `***`. */
export function redactUrls(text: string): string {
  return text.replace(/(\b[a-z][a-z0-9+.-]*:\/\/)[^\s/@]+@/gi, '$1***@');
}

/**
 * A logger to standard output, with keys and URL credentials taken out.
 * @param name of the process, on every line
 */
export function createLog(
  name: string,
  { LOG_LEVEL, LOG_FORMAT }: { LOG_LEVEL: string; LOG_FORMAT: 'json' | 'pretty' },
): Log {
  const destination: DestinationStream =
    LOG_FORMAT === 'pretty'
      ? pretty({ sync: true, ignore: 'pid,hostname', translateTime: 'SYS:HH:MM:ss.l', singleLine: true })
      : pino.destination({ dest: 1, sync: true });
  return pino(
    {
      name,
      level: LOG_LEVEL,
      redact: { paths: secrets, censor: '***' },
      serializers: {
        err: (error: unknown) => {
          const { type, message, stack } = pino.stdSerializers.err(error as Error);
          return { type, message: redactUrls(message), stack: redactUrls(stack) };
        },
      },
    },
    destination,
  );
}
