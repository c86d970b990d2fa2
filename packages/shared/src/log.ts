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

/**
 * Replaces the credentials of URLs (`redis://user:password@host`) anywhere in a text with `***`. They end at the last
 * `@`, because a password that is not percent-encoded may contain `/` or `@`. A `sentinel_password` is replaced, too.
 */
export function redactUrls(text: string): string {
  return text.replace(/:\/\/[^\s"\\]*@/g, '://***@').replace(/([?&]sentinel_password=)[^\s"\\&]*/g, '$1***');
}

/** Removes the secret of generated keys anywhere in a text; their ids stay. */
function redactKeys(text: string): string {
  return text.replace(/\b(sk_[0-9a-f]{12}_)[A-Za-z0-9_-]{32}/g, '$1***');
}

/**
 * A logger to standard output that removes keys and URL credentials.
 * @param name of the process, part of every line
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
      // Applies to the whole line: a caller may put its key into a path, for example.
      hooks: { streamWrite: (line) => redactKeys(redactUrls(line)) },
      serializers: {
        // No other fields: ioredis adds the failed command with its arguments.
        err: (error: unknown) => {
          const { type, message, stack } = pino.stdSerializers.err(error as Error);
          return { type, message, stack };
        },
      },
    },
    destination,
  );
}
