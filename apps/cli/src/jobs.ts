import { type JobBody, type Sluice, SluiceError } from '@sluice/client';
import type { AdminJob } from '@sluice/contract';
import { SingleBar } from 'cli-progress';
import type { Command } from 'commander';
import { type AdminJobFilters, allJobs, cancelAnyJob } from './adminJobs.js';
import { CliError, UsageError } from './cliError.js';
import { formatDuration } from './duration.js';
import { table } from './table.js';
import { commandName, connect, print, wantsJson } from './terminal.js';

/** Adds `jobs`, `job` and `cancel`. */
export function addJobsCommands(program: Command): void {
  const jobs = program
    .command('jobs')
    .description('list the jobs of your key, newest first')
    .option('--all', 'list the jobs of all keys, with the admin token; unfinished ones first')
    .option('--key <id>', 'with --all: only jobs of the key with this id')
    .option(
      '--status <status>',
      'with --all: only jobs with this status (queued, running, completed, failed, canceled)',
    )
    .action(async ({ all = false, ...filters }: AdminJobFilters & { all?: boolean }) => {
      if (!all && (filters.key ?? filters.status) !== undefined)
        throw new UsageError('--key and --status need --all');
      if (all) {
        const found = await allJobs(filters);
        print(jobs, found, () =>
          found.length === 0 ? 'No jobs' : table(ADMIN_COLUMNS, found.map(adminRow)),
        );
        return;
      }
      const found: JobBody[] = [];
      for await (const job of (await connect()).jobs()) found.push(job);
      print(jobs, found, () =>
        found.length === 0
          ? `No jobs. Submit one with: ${commandName()} batch FILE`
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
    .description('show the status of a job')
    .argument('<id>')
    .option('--watch', 'follow it until it has ended')
    .action(async (id: string, { watch: untilEnd }: { watch?: boolean }) => {
      const sluice = await connect();
      const found = await (untilEnd ? watch(sluice, id, wantsJson(job)) : sluice.job(id)).catch(
        unknownJob(id),
      );
      print(job, found, () => summary(found));
    });

  const cancel = program
    .command('cancel')
    .description('cancel an unfinished job')
    .argument('<id>')
    .option('--all', 'cancel a job of any key, with the admin token')
    .action(async (id: string, { all = false }: { all?: boolean }) => {
      const job = await (all ? cancelAnyJob(id) : (await connect()).cancel(id).catch(unknownJob(id)));
      print(cancel, job, () => summary(job));
      if (job.status !== 'canceled') throw new CliError(`The job has already ended: ${job.status}`);
    });
}

/** Says which job is not found. */
const unknownJob = (id: string) => (error: unknown) => {
  const unknown = error instanceof SluiceError && error.status === 404;
  throw unknown ? new CliError(`No job of this key has the id ${id}`) : error;
};

const ADMIN_COLUMNS = ['ID', 'KEY', 'NAME', 'MODEL', 'STATUS', 'DONE', 'TOTAL', 'ERRORS', 'AGE', 'RATE'];

const adminRow = (job: AdminJob): string[] => [
  job.job_id,
  job.key_id,
  job.key_name ?? '',
  job.model,
  job.status,
  String(job.completed + job.failed),
  String(job.total),
  String(job.failed),
  formatDuration(job.age_seconds),
  job.items_per_second === null ? '' : `${job.items_per_second.toFixed(1)}/s`,
];

type SummaryField = 'job_id' | 'status' | 'completed' | 'failed' | 'total' | 'error';

/** One line with the status and counts of a job. */
function summary(job: Pick<JobBody, SummaryField>): string {
  const done = `${job.completed + job.failed} of ${job.total} texts, ${job.failed} with an error`;
  return `${job.job_id}  ${job.status}: ${done}${job.error ? ` (${job.error})` : ''}`;
}

/**
 * Follows a job until it has ended, with a progress bar on a terminal.
 * @param quiet without the progress bar
 * @returns the ended job
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
  let doneAtStart = 0;
  try {
    let last: JobBody | undefined;
    for await (const job of sluice.events(jobId, signal ? { signal } : {})) {
      const done = job.completed + job.failed;
      if (last === undefined) {
        doneAtStart = done;
        bar?.start(job.total, done, { pace: '' });
      }
      last = job;
      bar?.update(done, { pace: pace(done - doneAtStart, job.total - done, performance.now() - startedMs) });
    }
    if (last === undefined) throw new CliError('The server sent no status of the job');
    return last;
  } finally {
    bar?.stop();
  }
}

/** Texts per second, and the remaining time at this rate. */
function pace(done: number, left: number, elapsedMs: number): string {
  if (done <= 0) return '';
  const perSecond = done / (elapsedMs / 1000);
  return `${perSecond.toFixed(0)}/s  ${Math.ceil(left / perSecond)} s left`;
}
