/** Port of a server or node without one in its address. */
export const DEFAULT_PORT = 6379;
const SENTINEL_PORT = 26_379;

/** Where a server listens. */
export interface Address {
  host: string;
  port: number;
}

/** A parsed URL with several addresses. */
export interface SeveralServers {
  kind: 'sentinel' | 'cluster';
  addresses: Address[];
  username: string;
  password: string;
  tls: boolean;
  /** Name of the primary in the configuration of the sentinels. */
  name: string;
  db: number;
  sentinelPassword: string;
}

/** `redis+sentinel://` and `redis+cluster://`, with `rediss` for TLS. */
const SEVERAL = /^(rediss?)\+(sentinel|cluster):\/\/(?:([^\s/?#@]*)@)?([^/?#@]*)([^?#@]*)(?:\?([^#@]*))?$/;

/** Whether a Redis URL names sentinels or the nodes of a cluster. */
export const namesSeveralServers = (url: string) => /^rediss?\+/.test(url);

/** A part of a URL without its percent-encoding. @throws Error with what is wrong */
function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    throw new Error('an invalid % in the user name, a password or the name of the primary; write %25 for %');
  }
}

/**
 * Parses the URL of a group of servers:
 * `redis+sentinel://[user:password@]host[:26379][,host…]/name[/database][?sentinel_password=…]` or
 * `redis+cluster://[user:password@]host[:6379][,host…]`.
 * @throws Error with what is wrong
 */
export function parseSeveralServers(url: string): SeveralServers {
  const [, scheme, kind, login = '', hosts = '', path = '', query = ''] = SEVERAL.exec(url) ?? [];
  if (kind !== 'sentinel' && kind !== 'cluster')
    throw new Error(
      'not a URL of sentinels or of a cluster, such as redis+sentinel://user:password@host-1:26379,host-2:26379/mymaster; ' +
        'write special characters percent-encoded, such as %40 for @',
    );
  const isSentinel = kind === 'sentinel';
  const addresses = hosts.split(',').map((host) => {
    if (!URL.canParse(`redis://${host}`) || host === '')
      throw new Error(
        `the hosts are not valid; write ${isSentinel ? 'host-1:26379,host-2:26379' : 'host-1:6379,host-2:6379'}`,
      );
    const { hostname, port } = new URL(`redis://${host}`);
    return {
      host: hostname.replace(/^\[|\]$/g, ''),
      port: Number(port || (isSentinel ? SENTINEL_PORT : DEFAULT_PORT)),
    };
  });
  const [, name = '', database = '', ...rest] = path.split('/');
  if (isSentinel && (name === '' || rest.length > 0 || !/^\d*$/.test(database)))
    throw new Error(
      'the path must be the name of the primary in the configuration of the sentinels, and optionally a database, such as /mymaster or /mymaster/0',
    );
  if (!isSentinel && !['', '/', '/0'].includes(path))
    throw new Error('a cluster has only database 0; remove the path');
  const [, sentinelPassword = ''] = /^sentinel_password=([^&]*)$/.exec(query) ?? [];
  if (query !== '' && !(isSentinel && sentinelPassword !== ''))
    throw new Error(
      isSentinel
        ? 'the only option after "?" is sentinel_password=<password>'
        : 'options after "?" are not supported for a cluster; remove them',
    );
  const [user = '', ...password] = login.split(':');
  return {
    kind,
    addresses,
    username: decoded(user),
    password: decoded(password.join(':')),
    tls: scheme === 'rediss',
    name: decoded(name),
    db: Number(database),
    sentinelPassword: decoded(sentinelPassword),
  };
}
