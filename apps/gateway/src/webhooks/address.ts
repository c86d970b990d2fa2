import { lookup } from 'node:dns/promises';
import { isIP } from 'node:net';
import ipaddr from 'ipaddr.js';

/** A name is resolved for at most this long when a webhook is submitted, in milliseconds. */
const LOOKUP_MS = 2_000;
/** These IPv6 addresses embed an IPv4 address in their last 32 bits (RFC 6052). */
const NAT64_BYTES = 4;

/** Whether an address is one of the public Internet, also if it is an IPv4 address written as an IPv6 address. */
export function isPublic(address: string): boolean {
  if (!ipaddr.isValid(address)) return false;
  // Unwraps IPv4-mapped addresses.
  const parsed = ipaddr.process(address);
  if (parsed instanceof ipaddr.IPv6 && parsed.range() === 'rfc6052')
    return isPublic(new ipaddr.IPv4(parsed.toByteArray().slice(-NAT64_BYTES)).toString());
  return parsed.range() === 'unicast';
}

/**
 * Why a webhook must not be sent to a URL; undefined if it may.
 * @param allowPrivate whether `http:` and addresses of private networks are allowed
 */
export async function webhookProblem(text: string, allowPrivate: boolean): Promise<string | undefined> {
  if (!URL.canParse(text)) return 'It must be a URL';
  // The parser also reads decimal, octal and hexadecimal forms of an IPv4 address.
  const { protocol, username, password, hostname } = new URL(text);
  if (protocol !== 'https:' && !(allowPrivate && protocol === 'http:')) return 'It must begin with https://';
  if (username !== '' || password !== '') return 'It must not contain a user name or password';
  if (allowPrivate) return undefined;
  const host = hostOf(hostname);
  if (isIP(host)) return isPublic(host) ? undefined : NOT_PUBLIC;
  // A name that cannot be resolved now may be later; each delivery checks the address that it connects to.
  const found = await Promise.race([
    lookup(host, { all: true }).catch(() => []),
    new Promise<[]>((resolve) => setTimeout(() => resolve([]), LOOKUP_MS).unref()),
  ]);
  return found.every(({ address }) => isPublic(address)) ? undefined : NOT_PUBLIC;
}

const NOT_PUBLIC = 'It must not be an address of a private network or of this machine';

/** A host without the brackets of an IPv6 address. */
export const hostOf = (hostname: string): string => hostname.replace(/^\[|\]$/g, '');
