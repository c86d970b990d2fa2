import { readFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';

function read(file: string): string | undefined {
  try {
    return readFileSync(file, 'utf8').trim();
  } catch {
    // Not Linux, or another version of control groups.
    return undefined;
  }
}

/** A folder and those above it, the deepest first: `/a/b`, `/a`, `/`. */
function withParents(path: string): string[] {
  const parts = path.split('/').filter(Boolean);
  return Array.from({ length: parts.length + 1 }, (_, i) => `/${parts.slice(0, parts.length - i).join('/')}`);
}

/** Processors that `cpu.max` (v2) or the two files of CFS (v1) allow. Returns undefined if there is no limit. */
function quotaOf(quota: string | undefined, period: string | undefined): number | undefined {
  const processors = Number(quota) / Number(period);
  return processors > 0 ? processors : undefined;
}

/**
 * How many processors this process may use: those it may run on, or fewer if its control group has a quota
 * (https://docs.kernel.org/admin-guide/cgroup-v2.html, and version 1). Node 20 does not consider the quota. A part of a
 * processor does not count, but there is at least one.
 * @param root folder that holds `proc` and `sys`; tests use another
 * @param available processors that the process may run on
 */
export function usableProcessors(root = '/', available = availableParallelism()): number {
  const groups = (read(join(root, 'proc/self/cgroup')) ?? '').split('\n').flatMap((line) => {
    const [, controllers = '', path = ''] = /^\d+:([^:]*):(.*)$/.exec(line) ?? [];
    return [{ controllers: controllers.split(','), path }];
  });
  const cgroups = join(root, 'sys/fs/cgroup');
  const quotas = groups.flatMap(({ controllers, path }) =>
    withParents(path).map((folder) => {
      if (controllers.includes('cpu')) {
        const at = join(cgroups, 'cpu', folder);
        return quotaOf(read(join(at, 'cpu.cfs_quota_us')), read(join(at, 'cpu.cfs_period_us')));
      }
      const [quota, period] = read(join(cgroups, folder, 'cpu.max'))?.split(' ') ?? [];
      return quotaOf(quota, period);
    }),
  );
  const quota = Math.min(...quotas.filter((limit) => limit !== undefined), available);
  return Math.max(1, Math.floor(quota));
}
