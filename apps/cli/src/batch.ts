import { createHash } from 'node:crypto';
import { open, rename, rm } from 'node:fs/promises';
import { extname } from 'node:path';
import { type ItemBody, SluiceError } from '@sluice/client';
import type { Command } from 'commander';
import { asCsv, asNdjson, type BatchFile, readBatchFile } from './batchFile.js';
import { CliError } from './cliError.js';
import { summary, watch } from './jobs.js';
import { connect, print, wantsJson } from './terminal.js';

interface BatchOptions {
  out?: string;
  column: string;
  model?: string;
}

const WRITE_AT_ONCE = 1_000;
/** What a shell makes of SIGINT. */
const EXIT_INTERRUPTED = 130;

/** Adds `batch`. */
export function addBatchCommand(program: Command): void {
  const batch = program
    .command('batch')
    .description('hand over a file of texts and wait for all answers')
    .argument('<file>', 'txt (a text a line), csv, ndjson, or - for standard input')
    .option('-o, --out <file>', 'where the answers go, as .csv or NDJSON; standard output without it')
    .option('--column <name>', 'column of the texts in a csv file', 'text')
    .option('--model <id>', 'a configured model; without it, the default')
    .action(async (path: string, options: BatchOptions) => {
      const sluice = await connect();
      const file = await readBatchFile(path, options.column);
      if (file.items.length === 0) throw new CliError(`${path} has no texts`);
      // The same texts again are the same job.
      const idempotencyKey = `cli-${createHash('sha256')
        .update(JSON.stringify([extname(path), options.column, options.model ?? '']))
        .update(file.bytes)
        .digest('hex')}`;
      const interrupt = new AbortController();
      const onInterrupt = () => interrupt.abort();
      process.once('SIGINT', onInterrupt);
      let jobId: string | undefined;
      try {
        const accepted = await sluice
          .batch(file.items, {
            idempotencyKey,
            signal: interrupt.signal,
            ...(options.model === undefined ? {} : { model: options.model }),
          })
          .catch((error: unknown) => {
            throw inFile(error, path, file.lines);
          });
        jobId = accepted.job_id;
        const job = await watch(sluice, jobId, wantsJson(batch), interrupt.signal);
        await write(sluice.results(jobId, { signal: interrupt.signal }), options.out, file.table);
        if (options.out !== undefined) print(batch, job, () => summary(job));
        else if (!wantsJson(batch)) process.stderr.write(`${summary(job)}\n`);
        if (job.status !== 'completed') process.exitCode = 1;
      } catch (error) {
        if (!interrupt.signal.aborted) throw error;
        process.stderr.write(
          jobId === undefined
            ? 'The upload was cut off; nothing of it stays. Run the same command to begin again.\n'
            : `The job goes on without you. To follow it again, run the same command, or: sluice job ${jobId} --watch\n` +
                `To end it: sluice cancel ${jobId}\n`,
        );
        process.exitCode = EXIT_INTERRUPTED;
      } finally {
        process.off('SIGINT', onInterrupt);
      }
    });
}

/** What the server says of an item, with the line of the file that it stands in. */
function inFile(error: unknown, path: string, lines: readonly number[]): unknown {
  const [first] = error instanceof SluiceError ? (error.errors ?? []) : [];
  const index = /^\/(\d+)$/.exec(first?.pointer ?? '')?.[1];
  const line = index === undefined ? undefined : lines[Number(index)];
  return first === undefined || line === undefined
    ? error
    : new CliError(`${path}, line ${line}: ${first.detail}`);
}

/** Writes results as they come; a file is there whole, or not at all. */
async function write(
  results: AsyncIterable<ItemBody>,
  out: string | undefined,
  table: BatchFile['table'],
): Promise<void> {
  const csv = out !== undefined && extname(out).toLowerCase() === '.csv';
  const fresh = out === undefined ? undefined : `${out}.${process.pid}`;
  const file = fresh === undefined ? undefined : await open(fresh, 'w');
  let first = true;
  let waiting: ItemBody[] = [];
  const flush = async () => {
    const text = csv ? asCsv(waiting, table, first) : asNdjson(waiting);
    first = false;
    waiting = [];
    if (file) await file.appendFile(text);
    else if (!process.stdout.write(text))
      await new Promise((resolve) => process.stdout.once('drain', resolve));
  };
  try {
    for await (const result of results) {
      waiting.push(result);
      if (waiting.length === WRITE_AT_ONCE) await flush();
    }
    if (waiting.length > 0) await flush();
    await file?.close();
    if (fresh !== undefined && out !== undefined) await rename(fresh, out);
  } catch (error) {
    await file?.close().catch(() => {});
    if (fresh !== undefined) await rm(fresh, { force: true });
    throw error;
  }
}
