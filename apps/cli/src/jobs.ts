import type { JobBody, Sluice } from '@sluice/client';
import { SingleBar } from 'cli-progress';
import type { Command } from 'commander';
import { CliError } from './cliError.js';
import { table } from './table.js';
import { connect, print, wantsJson } from './terminal.js';

/** Adds `jobs`, `job` and `cancel`. */
export function addJobsCommands(program: Command): void {
  const jobs = program
    .command('jobs')
    .description('own jobs, newest first')
    .action(async () => {
      const found: JobBody[] = [];
      for await (const job of (await connect()).jobs()) found.push(job);
      print(jobs, found, () =>
        found.length === 0
          ? 'No jobs: sluice batch FILE'
          : table(
              ['ID', 'STATUS', 'DONE', 'TOTAL', 'ERRORS', 'CREATED'],
              found.map((job) => [
                job.job_id,
                job.status,
                String(job.completed + job.failed),
                String(job.total),
                String(job.failed),
                job.created_at,
              ]),
            ),
      );
    });

  const job = program
    .command('job')
    .description('status of a job')
    .argument('<id>')
    .option('--watch', 'until it has ended')
    .action(async (id: string, { watch: toEnd }: { watch?: boolean }) => {
      const sluice = await connect();
      const found = toEnd ? await watch(sluice, id, wantsJson(job)) : await sluice.job(id);
      print(job, found, () => summary(found));
    });

  const cancel = program
    .command('cancel')
    .description('cancel a job that is unfinished')
    .argument('<id>')
    .action(async (id: string) => {
      const sluice = await connect();
      const before = await sluice.job(id);
      if (['completed', 'failed', 'canceled'].includes(before.status)) {
        throw new CliError(`The job has ended already: ${before.status}`);
      }
      const ended = (await sluice.end(id)) ?? before;
      print(cancel, ended, () => summary(ended));
    });
}

/** A line with the counts of a job. */
export function summary(job: JobBody): string {
  const counts = `${job.completed + job.failed} of ${job.total} texts, ${job.failed} with an error`;
  return `${job.job_id}  ${job.status}: ${counts}${job.error ? ` (${job.error})` : ''}`;
}

/**
 * Follows a job to its end, with a progress bar on a terminal.
 * @param quiet without the bar
 * @returns the job as it ended
 */
export async function watch(
  sluice: Sluice,
  jobId: string,
  quiet: boolean,
  signal?: AbortSignal,
): Promise<JobBody> {
  const bar =
    quiet || !process.stderr.isTTY
      ? undefined
      : new SingleBar({
          format: '{bar} {percentage} %  {value}/{total} texts  {pace}',
          barsize: 30,
          hideCursor: true,
          stream: process.stderr,
        });
  const startedMs = performance.now();
  let begun = 0;
  try {
    let last: JobBody | undefined;
    for await (const job of sluice.events(jobId, signal ? { signal } : {})) {
      const done = job.completed + job.failed;
      if (last === undefined) {
        begun = done;
        bar?.start(job.total, done, { pace: '' });
      }
      last = job;
      bar?.update(done, { pace: pace(done - begun, job.total - done, performance.now() - startedMs) });
    }
    if (last === undefined) throw new CliError('The job told nothing of itself');
    return last;
  } finally {
    bar?.stop();
  }
}

/** Texts a second, and the time left at that. */
function pace(done: number, left: number, elapsedMs: number): string {
  if (done <= 0) return '';
  const perSecond = done / (elapsedMs / 1000);
  return `${perSecond.toFixed(0)}/s  ${Math.ceil(left / perSecond)} s left`;
}
