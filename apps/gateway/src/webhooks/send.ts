import { lookup } from 'node:dns';
import { request as httpRequest } from 'node:http';
import { request as httpsRequest } from 'node:https';
import { isIP, type LookupFunction } from 'node:net';
import { hostOf, isPublic } from './address.js';

/** A receiver has this long to answer, in milliseconds. */
const ATTEMPT_MS = 10_000;

/** The receiver of a webhook is at an address that must not be connected to. */
class ForbiddenAddress extends Error {
  override name = 'ForbiddenAddress';
}

/** Resolves a name, and fails if any of its addresses is not public. */
const lookupPublic: LookupFunction = (hostname, options, callback) => {
  lookup(hostname, { ...options, all: true }, (error, addresses) => {
    if (error) return callback(error, '');
    if (!addresses.every(({ address }) => isPublic(address)))
      return callback(new ForbiddenAddress(`${hostname} resolves to an address that is not public`), '');
    if (options.all) return callback(null, addresses);
    const [first] = addresses;
    return callback(null, first?.address ?? '', first?.family);
  });
};

/**
 * Sends a JSON body with `POST`. It follows no redirect and uses no proxy; the body of the response is discarded.
 * @param allowPrivate whether addresses of private networks are allowed
 * @returns the status of the response
 * @throws ForbiddenAddress; what the connection throws
 */
export async function send(
  url: string,
  headers: Readonly<Record<string, string>>,
  body: string,
  allowPrivate: boolean,
): Promise<number> {
  const { protocol, hostname } = new URL(url);
  const host = hostOf(hostname);
  // An address is not looked up.
  if (!allowPrivate && isIP(host) && !isPublic(host))
    throw new ForbiddenAddress(`${host} is not a public address`);
  const request = protocol === 'http:' ? httpRequest : httpsRequest;
  return new Promise((resolve, reject) => {
    const sent = request(url, {
      method: 'POST',
      headers: { ...headers, 'Content-Type': 'application/json', 'Content-Length': Buffer.byteLength(body) },
      // A new connection for each delivery, since an idle one may be to an address that the name no longer has.
      agent: false,
      signal: AbortSignal.timeout(ATTEMPT_MS),
      ...(allowPrivate ? {} : { lookup: lookupPublic }),
    });
    sent.on('response', (response) => {
      resolve(response.statusCode ?? 0);
      response.destroy();
    });
    sent.on('error', reject);
    sent.end(body);
  });
}
