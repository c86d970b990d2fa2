import { createHash, randomUUID } from 'node:crypto';
import { extname } from 'node:path';
import { type BatchItem, type JobBody, type JobResult, type Model, SluiceError } from '@sluice/client';
import { json } from '@sluice/shared';
import { DEFAULT_COLUMN, type FileResult } from '@sluice/tables';
import { taskNamed } from '@sluice/tasks';
import { type Command, InvalidArgumentError, Option } from 'commander';
import * as z from 'zod';
import {
  type BatchFile,
  type FileFormat,
  type FileRow,
  fileFormats,
  formatOf,
  readAbout,
  readBatchFile,
} from './batchFile.js';
import { checkWritable, writeLines, writeResults } from './batchOutput.js';
import { CliError, UsageError } from './cliError.js';
import { watch } from './jobs.js';
import { isRemote, outputsOf, type RequestsFile, readRequests, submitRequests } from './requests.js';
import { commandName, connect, wantsJson } from './terminal.js';

interface BatchOptions {
  out?: string;
  format?: FileFormat;
  encoding?: string;
  column?: string;
  delimiter?: string;
  model?: string | undefined;
  parameters?: Record<string, unknown> | undefined;
  strict?: boolean;
  new?: boolean;
}

/** The task of the model that is used if none is named. */
const DEFAULT_TASK = 'text-classification';
/** Code of the error of a row whose text cannot be used. */
const UNUSABLE = 'validation_failed';
/** Exit status after SIGINT, as shells set it. */
const EXIT_INTERRUPTED = 130;

/** Adds `batch`. */
export function addBatchCommand(program: Command): void {
  const batch = program
    .command('batch')
    .description('submit a file of texts as a job and wait for all answers')
    .argument(
      '<file>',
      'txt (one text per line), csv, tsv, json (a list), ndjson, requests in the format of OpenAI batches, or - for standard input',
    )
    .option('-o, --out <file>', 'file for the answers: .csv, .tsv or NDJSON (default: standard output)')
    .addOption(
      new Option('--format <format>', 'format of the file, if its name does not tell').choices(fileFormats),
    )
    .option('--encoding <label>', 'encoding of the file (default: UTF-8, or UTF-16 with a byte order mark)')
    .option('--column <name>', `column with the texts in a csv or tsv file (default: "${DEFAULT_COLUMN}")`)
    .option(
      '--delimiter <character>',
      'character between the fields of a csv or tsv file, such as ; or tab (default: by a sep= line or the header)',
      delimiter,
    )
    .option('--model <id>', 'id or alias of a configured model (default: the first text classifier)')
    .option('--parameters <json>', "parameters of the model's task, such as '{\"top_k\": 2}'", jsonObject)
    .option('--strict', 'submit nothing if any row has no usable text')
    .option('--new', 'submit a new job, even if this file has one already')
    .action(async (path: string, given: BatchOptions) => {
      const format = formatFor(path, given);
      const requests = format === 'ndjson' ? await readRequests(path) : undefined;
      if (requests) return runRequests(path, requests, given, wantsJson(batch));
      const options = { ...(await readAbout(path, format)), ...given };
      if (options.out !== undefined) await checkWritable(options.out, path);
      const sluice = await connect();
      const models = await sluice.models();
      const { model: wanted } = options;
      const model = models.find(({ id, aliases, task, default: isDefault }) =>
        wanted === undefined ? isDefault && task === DEFAULT_TASK : id === wanted || aliases.includes(wanted),
      );
      if (model === undefined) {
        const ids = models.map(({ id }) => id).join(', ');
        throw new CliError(
          wanted === undefined
            ? `The server has no model for ${DEFAULT_TASK}; set --model to one of: ${ids}`
            : `The server has no model "${wanted}"; set --model to one of: ${ids}`,
        );
      }
      const file = await readBatchFile(path, format, {
        ...options,
        maxTextChars: model.max_text_chars,
        input: taskNamed(model.task).input,
      });
      if (model.workers === 0) {
        const reason = model.error ? ` (${model.error})` : '';
        process.stderr.write(`No live worker serves ${model.id}${reason}; the job will wait for one\n`);
      }
      const items = usableItems(path, file, options.strict === true);
      await untilInterrupted(options, async (signal, onAccepted) => {
        const accepted = await sluice
          .batch(items, {
            idempotencyKey: options.new ? `cli-${randomUUID()}` : jobKey(items, model, options.parameters),
            signal,
            model: model.id,
            ...(options.parameters ? { parameters: options.parameters } : {}),
          })
          .catch((error: unknown) => {
            throw errorInFile(error, path, file);
          });
        onAccepted(accepted.job_id);
        const job = await watch(sluice, accepted.job_id, wantsJson(batch), signal);
        const results = inFile(file, sluice.results(accepted.job_id, { signal }));
        const errors = await writeResults(results, options.out, file);
        report(job, `${file.rows.length} rows`, errors, options.out, wantsJson(batch));
      });
    });
}

/** Options that a file of requests has instead: each request names its model and its parameters. */
const NOT_FOR_REQUESTS = ['column', 'delimiter', 'encoding', 'model', 'parameters', 'strict'] as const;

/** Submits a file in OpenAI's format of batches, waits, and writes the lines of its output and error files. */
async function runRequests(
  path: string,
  requests: RequestsFile,
  options: BatchOptions,
  asJson: boolean,
): Promise<void> {
  const wrong = NOT_FOR_REQUESTS.find((name) => options[name] !== undefined);
  if (wrong !== undefined)
    throw new UsageError(
      `--${wrong} cannot be used with ${path}: each request in it names its model and parameters`,
    );
  const kind = extname(options.out ?? '').toLowerCase();
  if (kind === '.csv' || kind === '.tsv')
    throw new UsageError(`${options.out}: the outputs of requests are JSON lines; name a .jsonl file`);
  if (options.out !== undefined) await checkWritable(options.out, path);
  const sluice = await connect();
  await untilInterrupted(options, async (signal, onAccepted) => {
    const jobId = await submitRequests(sluice, path, requests, { isNew: options.new === true, signal });
    onAccepted(jobId);
    const { job, lines } = await outputsOf(sluice, jobId, asJson, signal);
    const written = await writeLines(lines, options.out);
    if (written !== job.total)
      throw new CliError(
        `The server sent ${written} of ${job.total} outputs; the job may have expired or been erased`,
      );
    report(job, `${job.total} requests`, job.total - job.completed, options.out, asJson);
  });
}

/**
 * Runs a batch until it ends or the user interrupts it, and says how to follow a job that continues.
 * @param run calls `onAccepted` when the server has accepted the job
 */
async function untilInterrupted(
  options: BatchOptions,
  run: (signal: AbortSignal, onAccepted: (jobId: string) => void) => Promise<void>,
): Promise<void> {
  const interrupt = new AbortController();
  const onInterrupt = () => interrupt.abort();
  process.once('SIGINT', onInterrupt);
  let jobId: string | undefined;
  try {
    await run(interrupt.signal, (accepted) => {
      jobId = accepted;
    });
  } catch (error) {
    if (!interrupt.signal.aborted) {
      if (jobId === undefined || !isRemote(error)) throw error;
      throw new CliError(`${error.message.replace(/\.$/, '')}. ${hintOf(jobId, options)}`);
    }
    process.stderr.write(
      jobId === undefined
        ? 'Upload interrupted; nothing of it was kept. Run the same command to start again.\n'
        : `${hintOf(jobId, options)}\nTo cancel it: ${commandName()} cancel ${jobId}\n`,
    );
    process.exitCode = EXIT_INTERRUPTED;
  } finally {
    process.off('SIGINT', onInterrupt);
  }
}

/**
 * Writes the summary of a job that has ended, and sets the exit status. With `asJson`, a job whose results went to a file is
 * written to stdout.
 */
function report(job: JobBody, total: string, errors: number, out: string | undefined, asJson: boolean): void {
  if (out !== undefined && asJson) process.stdout.write(`${JSON.stringify(job)}\n`);
  const reason = job.error ? ` (${job.error})` : '';
  (out === undefined || asJson ? process.stderr : process.stdout).write(
    `${job.job_id}  ${job.status}: ${total}, ${errors} with an error${reason}\n`,
  );
  if (job.status !== 'completed' || errors > 0) process.exitCode = 1;
}

/** How to follow a job that continues. With `--new` the same command would submit another one. */
function hintOf(jobId: string, options: BatchOptions): string {
  const again = options.new ? '' : 'run the same command again, or: ';
  return `The job continues. To follow it, ${again}${commandName()} job ${jobId} --watch`;
}

/** @throws InvalidArgumentError */
export function jsonObject(text: string): Record<string, unknown> {
  const parsed = json(z.record(z.string(), z.unknown())).safeParse(text);
  if (parsed.success) return parsed.data;
  throw new InvalidArgumentError('It must be a JSON object.');
}

function delimiter(text: string): string {
  const character = text === 'tab' || text === '\\t' ? '\t' : text;
  if ([...character].length === 1 && !/["\r\n]/.test(character)) return character;
  throw new InvalidArgumentError(
    'It must be one character other than a double quote or a line end, or the word tab.',
  );
}

/** The format of a file. @throws UsageError if it is unknown, or an option does not apply to it */
function formatFor(
  path: string,
  { format = formatOf(path), column, delimiter: given }: BatchOptions,
): FileFormat {
  if (format === undefined) {
    throw new UsageError(
      `${path}: the file name does not show the format; set --format to one of ${fileFormats.join(', ')}`,
    );
  }
  const option = column !== undefined ? '--column' : given !== undefined ? '--delimiter' : undefined;
  if (option !== undefined && format !== 'csv' && format !== 'tsv') {
    throw new UsageError(`${option} applies to csv and tsv files only; ${path} is read as ${format}`);
  }
  return format;
}

/** The items of a file. @throws CliError if no row has a usable text, or with `strict` if any row has an unusable text */
function usableItems(path: string, { rows }: BatchFile, strict: boolean): BatchItem[] {
  const items = rows.flatMap(({ item }) => (item.usable ? [item.value] : []));
  const [first] = rows.flatMap(({ place, item }) => (item.usable ? [] : [`${place}: ${item.reason}`]));
  if (rows.length === 0) throw new CliError(`${path} has no texts`);
  if (first !== undefined && (strict || items.length === 0)) {
    const count = rows.length - items.length;
    const remedy = strict ? '. Fix them, or leave out --strict' : '';
    throw new CliError(
      `${path}: rows without a usable text: ${count} of ${rows.length}, first ${first}${remedy}`,
    );
  }
  return items;
}

/** The same items with the same model and parameters give the same job. */
function jobKey(items: readonly BatchItem[], { id }: Model, parameters: unknown): string {
  const hash = createHash('sha256').update(JSON.stringify([id, parameters ?? {}]));
  for (const item of items) hash.update(`\n${JSON.stringify(item)}`);
  return `cli-${hash.digest('hex')}`;
}

/** The server's error about an item, with the place of the item in the file. */
function errorInFile(error: unknown, path: string, { rows }: BatchFile): unknown {
  const [first] = error instanceof SluiceError ? (error.errors ?? []) : [];
  const index = /^\/(\d+)/.exec(first?.pointer ?? '')?.[1];
  const row = index === undefined ? undefined : rows.filter(({ item }) => item.usable)[Number(index)];
  return first === undefined || row === undefined
    ? error
    : new CliError(`${path}, ${row.place}: ${first.detail}`);
}

/** Returns a result for each row of a file, in order: the result of its item, or the reason why its text is unusable. */
async function* inFile({ rows }: BatchFile, results: AsyncGenerator<JobResult>): AsyncGenerator<FileResult> {
  for (const [index, row] of rows.entries()) {
    if (!row.item.usable) {
      yield unusable(index, row, row.item.reason);
      continue;
    }
    const next = await results.next();
    if (next.done) throw new CliError('The server sent fewer results than the job has texts');
    yield { ...next.value, index };
  }
}

const unusable = (index: number, { id, text }: FileRow, reason: string): FileResult => ({
  index,
  ...(id === undefined ? {} : { id }),
  ...(text === undefined ? {} : { text }),
  error: { code: UNUSABLE, detail: reason },
});
