import type { JobBody, Sluice } from '@sluice/client';
import { type FileResult, tableOf } from '@sluice/tables';
import { create } from './dom.js';
import { bars, cellOf, kindsOf } from './outcomes.js';
import type { TextFile } from './textFile.js';

/** Rows of the table that the page shows; a download has all. */
const SHOWN_ROWS = 100;
const SHOWN_CHARS = 500;

/** The result of each row of a file, in order: that of the job, or the error of a row without a usable text. */
type Outcomes = readonly FileResult[];

/** A file that is being answered by a job. */
export class FileJob {
  #sluice: Sluice;
  #file: TextFile;
  #column: number;
  /** The row of each text. */
  #rowOf: number[] = [];
  #texts: string[] = [];
  /** Results of the rows whose texts cannot be sent. */
  #unusable = new Map<number, FileResult>();
  jobId: string | undefined;

  /**
   * @param column place of the column with the texts
   * @param maxTextChars maximum length of a text in Unicode characters
   */
  constructor(sluice: Sluice, file: TextFile, column: number, maxTextChars: number) {
    this.#sluice = sluice;
    this.#file = file;
    this.#column = column;
    for (const [row, cells] of file.rows.entries()) {
      const text = cells[column] ?? '';
      const detail =
        text.trim() === ''
          ? 'The text is empty or only white space'
          : Array.from(text).length > maxTextChars
            ? `The text has more than ${maxTextChars} characters`
            : undefined;
      if (detail !== undefined) {
        this.#unusable.set(row, { index: row, text, error: { code: 'validation_failed', detail } });
        continue;
      }
      this.#rowOf.push(row);
      this.#texts.push(text);
    }
  }

  /** A job of an earlier page, whose file is not there any more. */
  static resumed(sluice: Sluice, jobId: string): FileJob {
    const job = new FileJob(sluice, { name: `${jobId}.txt`, table: undefined, rows: [], bom: false }, 0, 0);
    job.jobId = jobId;
    return job;
  }

  /** Number of texts that can be sent, and of rows without one. */
  get size(): { texts: number; without: number } {
    return { texts: this.#texts.length, without: this.#unusable.size };
  }

  /** Submits the texts; resolves when the job is accepted. @throws SluiceError */
  async submit(model: string, parameters: object | undefined): Promise<void> {
    const { job_id } = await this.#sluice.batch(this.#texts, {
      model,
      ...(parameters ? { parameters } : {}),
    });
    this.jobId = job_id;
  }

  /** The progress of the job until it has ended. */
  progress(signal: AbortSignal): AsyncIterable<JobBody> {
    return this.#sluice.events(this.jobId ?? '', { signal });
  }

  async cancel(): Promise<void> {
    if (this.jobId) await this.#sluice.cancel(this.jobId);
  }

  /** Reads all results of the ended job. */
  async outcomes(): Promise<Outcomes> {
    const outcomes = new Map(this.#unusable);
    for await (const { index, ...result } of this.#sluice.results(this.jobId ?? '')) {
      const row = this.#rowOf[index] ?? index;
      outcomes.set(row, { ...result, index: row });
    }
    return [...outcomes.values()].sort((one, other) => one.index - other.index);
  }

  /** A chart of the outcomes and the first rows in a table. */
  show(task: string, outcomes: Outcomes): HTMLElement {
    const counts = new Map<string, number>();
    const count = (kind: string) => counts.set(kind, (counts.get(kind) ?? 0) + 1);
    for (const result of outcomes) {
      if (result.error) count(`error: ${result.error.code}`);
      else for (const kind of kindsOf(task, result.output)) count(kind);
    }
    const chart = bars(
      [...counts]
        .sort(([, one], [, other]) => other - one)
        .map(([name, number]) => ({
          name,
          share: number / outcomes.length,
          value: `${number} (${((100 * number) / outcomes.length).toFixed(1)} %)`,
        })),
    );
    const rows = outcomes.slice(0, SHOWN_ROWS).map((result, row) => {
      const text = this.#file.rows[row]?.[this.#column] ?? result.text ?? '';
      return create(
        'tr',
        {},
        create('td', {}, String(row + 1)),
        create('td', {}, text.length > SHOWN_CHARS ? `${text.slice(0, SHOWN_CHARS)}…` : text),
        create('td', {}, result.error?.detail ?? cellOf(task, result.output)),
      );
    });
    const head = create(
      'tr',
      {},
      ...['Row', 'Text', 'Result'].map((name) => create('th', { scope: 'col' }, name)),
    );
    const shown =
      outcomes.length > SHOWN_ROWS ? `The first ${SHOWN_ROWS} of ${outcomes.length} rows` : 'All rows';
    return create(
      'div',
      {},
      chart,
      create(
        'div',
        { class: 'scroll', tabindex: '0', role: 'region', 'aria-label': 'Results' },
        create(
          'table',
          {},
          create('caption', {}, shown),
          create('thead', {}, head),
          create('tbody', {}, ...rows),
        ),
      ),
    );
  }

  /** All rows with their results as a file. */
  download(format: string, outcomes: Outcomes): { name: string; content: Blob } {
    const base = this.#file.name.replace(/\.\w+$/, '');
    if (format === 'ndjson') {
      const lines = outcomes.map((result) => `${JSON.stringify(result)}\n`);
      return {
        name: `${base}.results.ndjson`,
        content: new Blob(lines, { type: 'application/x-ndjson' }),
      };
    }
    const { table, bom } = this.#file;
    return {
      name: `${base}.results.csv`,
      content: new Blob([tableOf(outcomes, table, table?.delimiter ?? ',', bom)], { type: 'text/csv' }),
    };
  }
}
