/**
 * The messages of an error of Redis; a transaction that was discarded has its causes in `previousErrors`. When a connection
 * breaks, ioredis puts its error among the causes of the same error.
 */
function messagesOf(error: unknown, seen = new Set<unknown>()): string[] {
  if (typeof error !== 'object' || error === null || seen.has(error)) return [];
  seen.add(error);
  const causes = 'previousErrors' in error && Array.isArray(error.previousErrors) ? error.previousErrors : [];
  return [
    'message' in error ? String(error.message) : '',
    ...causes.flatMap((cause) => messagesOf(cause, seen)),
  ];
}

/** Whether a message has one of these codes, at its beginning or inside the error of a script. */
const hasCode = (codes: string) => {
  const pattern = new RegExp(`(^|[\\s-])(${codes}) `);
  return (error: unknown) => messagesOf(error).some((message) => pattern.test(message));
};

/** Whether Redis refused a write because it has no memory (`maxmemory`) or cannot write to its disk. */
export const isStorageFull = hasCode('OOM|MISCONF');

/** First line of a script that may write while Redis is over its `maxmemory`. Servers before Redis 7 do not know it. */
export const ALLOW_WHEN_FULL = '#!lua flags=allow-oom';

/** Whether this server can no longer serve the command: after a failover, or because another node of the cluster has the key. */
export const isFailover = hasCode('READONLY|LOADING|MASTERDOWN|CLUSTERDOWN|MOVED|ASK|TRYAGAIN');

const isRefusedLogin = hasCode(
  'WRONGPASS|NOAUTH|NOPERM|ERR AUTH|ERR Client sent AUTH|ERR invalid password|ERR DB index|ERR invalid DB index',
);
const TLS_ERROR = /CERT|SELF_SIGNED|UNABLE_TO_|^ERR_TLS|^ERR_SSL|^EPROTO$/;

/** Whether a connection failed because of its settings: password, user, database or certificate. A retry cannot help. */
export function isWrongSetting(error: unknown): boolean {
  const code = error instanceof Error && 'code' in error ? String(error.code) : '';
  return isRefusedLogin(error) || TLS_ERROR.test(code);
}
