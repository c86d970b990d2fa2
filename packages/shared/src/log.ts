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
  return text.replace(/:\/\/[^\s/"\\]*@/g, '://***@');
}

/** A made key anywhere in a text keeps its id and loses its secret. */
function redactKeys(text: string): string {
  return text.replace(/\b(sk_[0-9a-f]{12}_)[A-Za-z0-9_-]{32}/g, '$1***');
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
      // Whatever came into a line: a caller may put its key into a path, say.
      hooks: { streamWrite: (line) => redactKeys(redactUrls(line)) },
      serializers: {
        // No other fields: ioredis notes the command that failed, with its arguments.
        err: (error: unknown) => {
          const { type, message, stack } = pino.stdSerializers.err(error as Error);
          return { type, message, stack };
        },
      },
    },
    destination,
  );
}
