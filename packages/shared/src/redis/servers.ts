import { clusterConnector, NODE_TIMEOUT_MS, pauseBefore, type ServerOptions } from './clusterConnector.js';
import { DEFAULT_PORT, namesSeveralServers, parseSeveralServers } from './url.js';

function severalServers(url: string): ServerOptions {
  const servers = parseSeveralServers(url);
  const { kind, addresses, username, password, tls, name, db, sentinelPassword } = servers;
  const login: ServerOptions = {
    ...(username === '' ? {} : { username }),
    ...(password === '' ? {} : { password }),
    ...(tls ? { tls: {} } : {}),
  };
  // A machine that is gone must not keep the next attempt from finding the new primary.
  const connectTimeout = 2 * NODE_TIMEOUT_MS;
  if (kind === 'cluster') return { ...login, connectTimeout, Connector: clusterConnector(servers, login) };
  return {
    ...login,
    connectTimeout,
    db,
    name,
    sentinels: addresses,
    sentinelRetryStrategy: pauseBefore,
    // A sentinel that hangs must not keep the next one from being asked.
    sentinelCommandTimeout: NODE_TIMEOUT_MS,
    ...(sentinelPassword === '' ? {} : { sentinelPassword }),
    ...(tls ? { enableTLSForSentinelMode: true, sentinelTLS: {} } : {}),
  };
}

/** The options of ioredis for a URL; it cannot parse those of sockets, sentinels and clusters itself. */
export function serverOptions(url: string): ServerOptions {
  if (namesSeveralServers(url)) return severalServers(url);
  const { protocol, hostname, port, pathname, username, password, searchParams } = new URL(url);
  const isSocket = protocol === 'unix:';
  const family = searchParams.get('family');
  return {
    ...(isSocket
      ? { path: decodeURIComponent(pathname) }
      : { host: hostname.replace(/^\[|\]$/g, ''), port: Number(port || DEFAULT_PORT) }),
    ...(username || password
      ? { username: decodeURIComponent(username), password: decodeURIComponent(password) }
      : {}),
    db: Number(isSocket ? searchParams.get('db') : pathname.slice(1)),
    ...(family === null ? {} : { family: Number(family) }),
    ...(protocol === 'rediss:' ? { tls: {} } : {}),
  };
}
