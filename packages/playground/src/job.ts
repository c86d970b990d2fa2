import type { JobBody, JobResult, Sluice } from '@sluice/client';
import { create } from './dom.js';
import { bars, cellOf, kindsOf } from './outcomes.js';
import { type TextFile, toCsv } from './textFile.js';

/** Rows of the table that the page shows; a download has all. */
const SHOWN_ROWS = 100;
const NO_TEXT = 'The row has no text';

/** The outcome of each row of a file, in order: the result of the job, or undefined for a row without a text. */
type Outcomes = readonly (JobResult | undefined)[];

/** A file that is being answered by a job. */
export class FileJob {
  #sluice: Sluice;
  #file: TextFile;
  #column: number;
  /** The row of each text. */
  #rowOf: number[] = [];
  #texts: string[] = [];
  jobId: string | undefined;

  constructor(sluice: Sluice, file: TextFile, column: number) {
    this.#sluice = sluice;
    this.#file = file;
    this.#column = column;
    for (const [row, cells] of file.rows.entries()) {
      const text = cells[column] ?? '';
      if (text.trim() === '') continue;
      this.#rowOf.push(row);
      this.#texts.push(text);
    }
  }

  /** Number of texts, and of rows without one. */
  get size(): { texts: number; without: number } {
    return { texts: this.#texts.length, without: this.#file.rows.length - this.#texts.length };
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
    const outcomes: (JobResult | undefined)[] = this.#file.rows.map(() => undefined);
    for await (const result of this.#sluice.results(this.jobId ?? ''))
      outcomes[this.#rowOf[result.index] ?? 0] = result;
    return outcomes;
  }

  /** A chart of the outcomes and the first rows in a table. */
  show(task: string, outcomes: Outcomes): HTMLElement {
    const counts = new Map<string, number>();
    const count = (kind: string) => counts.set(kind, (counts.get(kind) ?? 0) + 1);
    for (const result of outcomes) {
      if (result === undefined) count('no text');
      else if (result.error) count(`error: ${result.error.code}`);
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
      const text = this.#file.rows[row]?.[this.#column] ?? '';
      return create(
        'tr',
        {},
        create('td', {}, String(row + 1)),
        create('td', {}, text),
        create('td', {}, result?.error?.detail ?? (result ? cellOf(task, result.output) : NO_TEXT)),
      );
    });
    const head = create(
      'tr',
      {},
      ...['Row', 'Text', 'Outcome'].map((name) => create('th', { scope: 'col' }, name)),
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

  /** All rows with their outcomes as a file. */
  download(format: string, outcomes: Outcomes): { name: string; content: Blob } {
    const base = this.#file.name.replace(/\.\w+$/, '');
    if (format === 'ndjson') {
      const lines = outcomes.map((result, row) => {
        const { index: _, ...fields } = result ?? { error: { code: 'no_text', detail: NO_TEXT } };
        return JSON.stringify({ row: row + 1, ...fields });
      });
      return {
        name: `${base}.results.ndjson`,
        content: new Blob([lines.map((line) => `${line}\n`).join('')], { type: 'application/x-ndjson' }),
      };
    }
    const columns = this.#file.columns.map((name) => name || 'text');
    const own = ['output', 'truncated', 'error'].map((name) =>
      columns.includes(name) ? `sluice_${name}` : name,
    );
    const rows = outcomes.map((result, row) => [
      ...columns.map((_, i) => this.#file.rows[row]?.[i] ?? ''),
      result?.output === undefined ? '' : JSON.stringify(result.output),
      result?.truncated ? 'true' : '',
      result ? (result.error?.detail ?? '') : NO_TEXT,
    ]);
    return {
      name: `${base}.results.csv`,
      content: new Blob([toCsv([[...columns, ...own], ...rows])], { type: 'text/csv' }),
    };
  }
}
