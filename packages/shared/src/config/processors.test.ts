import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { expect, test } from '@jest/globals';
import { usableProcessors } from './processors.js';

const V2 = '0::/a/b\n';
const V1 = '5:cpu,cpuacct:/docker/x\n3:memory:/docker/x\n';

test.each<[string, Record<string, string>, number]>([
  ['no control groups', {}, 8],
  ['version 2 without a limit', { 'proc/self/cgroup': V2, 'sys/fs/cgroup/a/b/cpu.max': 'max 100000' }, 8],
  ['version 2', { 'proc/self/cgroup': V2, 'sys/fs/cgroup/a/b/cpu.max': '200000 100000\n' }, 2],
  ['version 2, limited above', { 'proc/self/cgroup': V2, 'sys/fs/cgroup/a/cpu.max': '300000 100000\n' }, 3],
  [
    'version 2 in a container',
    { 'proc/self/cgroup': '0::/\n', 'sys/fs/cgroup/cpu.max': '150000 100000\n' },
    1,
  ],
  ['less than one processor', { 'proc/self/cgroup': '0::/\n', 'sys/fs/cgroup/cpu.max': '50000 100000\n' }, 1],
  ['more than there are', { 'proc/self/cgroup': '0::/\n', 'sys/fs/cgroup/cpu.max': '1600000 100000\n' }, 8],
  [
    'version 1',
    {
      'proc/self/cgroup': V1,
      'sys/fs/cgroup/cpu/docker/x/cpu.cfs_quota_us': '400000\n',
      'sys/fs/cgroup/cpu/docker/x/cpu.cfs_period_us': '100000\n',
    },
    4,
  ],
  [
    'version 1 in a container, whose folder is the root',
    {
      'proc/self/cgroup': V1,
      'sys/fs/cgroup/cpu/cpu.cfs_quota_us': '200000\n',
      'sys/fs/cgroup/cpu/cpu.cfs_period_us': '100000\n',
    },
    2,
  ],
  [
    'version 1 without a limit',
    {
      'proc/self/cgroup': V1,
      'sys/fs/cgroup/cpu/docker/x/cpu.cfs_quota_us': '-1\n',
      'sys/fs/cgroup/cpu/docker/x/cpu.cfs_period_us': '100000\n',
    },
    8,
  ],
])('usable processors of eight: %s', (_name, files, expected) => {
  const root = mkdtempSync(join(tmpdir(), 'sluice-cgroup-'));
  try {
    for (const [path, text] of Object.entries(files)) {
      mkdirSync(dirname(join(root, path)), { recursive: true });
      writeFileSync(join(root, path), text);
    }
    expect(usableProcessors(root, 8)).toBe(expected);
  } finally {
    rmSync(root, { recursive: true });
  }
});
