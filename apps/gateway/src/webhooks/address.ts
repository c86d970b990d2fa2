import { lookup } from 'node:dns/promises';
import { isIP } from 'node:net';
import ipaddr from 'ipaddr.js';

/** A name is resolved for at most this long when a webhook is submitted, in milliseconds. */
const LOOKUP_MS = 2_000;
/** These IPv6 addresses embed an IPv4 address in their last 32 bits (RFC 6052, section 2.1). */
const NAT64 = ipaddr.IPv6.parseCIDR('64:ff9b::/96');
const IPV4_BYTES = 4;
/** The IPv6 addresses that are assigned for the Internet (RFC 4291, section 2.4). */
const GLOBAL_UNICAST = ipaddr.IPv6.parseCIDR('2000::/3');

/** Whether an address is one of the public Internet, also if it is an IPv4 address written as an IPv6 address. */
export function isPublic(address: string): boolean {
  if (!ipaddr.isValid(address)) return false;
  // Unwraps IPv4-mapped addresses.
  const parsed = ipaddr.process(address);
  if (parsed instanceof ipaddr.IPv4) return parsed.range() === 'unicast';
  if (parsed.match(NAT64))
    return isPublic(new ipaddr.IPv4(parsed.toByteArray().slice(-IPV4_BYTES)).toString());
  return parsed.match(GLOBAL_UNICAST) && parsed.range() === 'unicast';
}

/**
 * Why a webhook must not be sent to a URL; undefined if it may.
 * @param allowPrivate whether `http:` and addresses of private networks are allowed
 */
export async function webhookProblem(text: string, allowPrivate: boolean): Promise<string | undefined> {
  if (!URL.canParse(text)) return 'It must be a URL';
  // The parser also reads decimal, octal and hexadecimal forms of an IPv4 address.
  const { protocol, username, password, hostname, port } = new URL(text);
  if (port === '0') return 'It must not have the port 0';
  if (protocol !== 'https:' && !(allowPrivate && protocol === 'http:')) return 'It must begin with https://';
  if (username !== '' || password !== '') return 'It must not contain a user name or password';
  if (allowPrivate) return undefined;
  const host = hostOf(hostname);
  if (/(^|\.)localhost\.?$/i.test(host)) return NOT_PUBLIC;
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
