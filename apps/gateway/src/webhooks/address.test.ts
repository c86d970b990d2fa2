import { expect, test } from '@jest/globals';
import { isPublic, webhookProblem } from './address.js';

test.each(['1.1.1.1', '2606:4700:4700::1111', '::ffff:1.1.1.1', '64:ff9b::1.1.1.1'])(
  '%s is public',
  (address) => {
    expect(isPublic(address)).toBe(true);
  },
);

test.each([
  ...[
    '127.0.0.1',
    '127.1.2.3',
    '0.0.0.0',
    '10.0.0.1',
    '172.16.0.1',
    '192.168.1.1',
    '169.254.169.254',
    '100.64.0.1',
  ],
  ...['224.0.0.1', '255.255.255.255', '192.0.2.1', '198.18.0.1', '240.0.0.1'],
  ...['::', '::1', 'fe80::1', 'fc00::1', 'fd00:ec2::254', 'ff02::1', '2001:db8::1', '2002:7f00:1::'],
  ...[
    '::ffff:127.0.0.1',
    '::ffff:a9fe:a9fe',
    '64:ff9b::127.0.0.1',
    '64:ff9b::a9fe:a9fe',
    '2001:0:1::1',
    '64:ff9b:1:a00:0:100:808:808',
    '::7f00:1',
    '::a00:1',
  ],
  ...['', 'localhost', '1.1.1.1.1'],
])('"%s" is not public', (address) => {
  expect(isPublic(address)).toBe(false);
});

test.each(['https://1.1.1.1/hook', 'https://[2606:4700:4700::1111]:8443/hook?a=b'])(
  'the URL %s is accepted',
  async (url) => {
    expect(await webhookProblem(url, false)).toBeUndefined();
  },
);

test.each([
  ['http://1.1.1.1/', /https/],
  ['ftp://1.1.1.1/', /https/],
  ['not a url', /must be a URL/],
  ['https://user:secret@1.1.1.1/', /user name/],
  ['https://127.0.0.1/', /private/],
  ['https://2130706433/', /private/],
  ['https://0177.0.0.1/', /private/],
  ['https://0x7f.1/', /private/],
  ['https://127.1/', /private/],
  ['https://0/', /private/],
  ['https://[::1]/', /private/],
  ['https://[::ffff:10.0.0.1]/', /private/],
  ['https://169.254.169.254/latest/meta-data/', /private/],
  ['https://localhost/', /private/],
  ['https://LOCALHOST./', /private/],
  ['https://foo.localhost/', /private/],
  ['https://1.1.1.1:0/', /port/],
])('the URL %s is refused', async (url, problem) => {
  expect(await webhookProblem(url, false)).toMatch(problem);
});
