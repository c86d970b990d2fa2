import ipaddr from 'ipaddr.js';

/** An address for people: an IPv4-mapped IPv6 address, such as `::ffff:10.0.0.1`, as IPv4. */
export const plainAddress = (address: string | undefined): string | undefined =>
  address !== undefined && ipaddr.isValid(address) ? ipaddr.process(address).toString() : address;
