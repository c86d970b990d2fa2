import { type JobBody, type Model, Sluice } from '@sluice/client';
import { chosen, create, element, onChoice } from './dom.js';
import { FileJob } from './job.js';
import { outcome } from './outcomes.js';
import { problemOf } from './problem.js';
import { type Action, snippet } from './snippets.js';
import { formOf, jobFormOf, showFields, takesTexts } from './tasks.js';
import { FileProblem, readTextFile, type TextFile, usualColumn } from './textFile.js';

/** The key is kept for this tab; the browser forgets it when the tab is closed. */
const STORED_KEY = 'sluice-key';
/** The latest job, so that a reload does not lose it. */
const STORED_JOB = 'sluice-job';
/** What a header field can carry. */
const KEY = /^[\x21-\x7e]+$/;
/** As much as the server takes by default. */
const MAX_FILE_BYTES = 64 * 1_048_576;

const page = {
  keyForm: element('key-form', HTMLFormElement),
  key: element('key', HTMLInputElement),
  allowance: element('allowance', HTMLElement),
  work: element('work', HTMLElement),
  model: element('model', HTMLSelectElement),
  modelNote: element('model-note', HTMLElement),
  oneForm: element('one-form', HTMLFormElement),
  fields: element('fields', HTMLElement),
  fileForm: element('file-form', HTMLFormElement),
  drop: element('drop', HTMLElement),
  file: element('file', HTMLInputElement),
  columnField: element('column-field', HTMLElement),
  column: element('column', HTMLSelectElement),
  fileFields: element('file-fields', HTMLElement),
  fileNote: element('file-note', HTMLElement),
  submitFile: element('submit-file', HTMLButtonElement),
  cancelJob: element('cancel-job', HTMLButtonElement),
  outcomeSection: element('outcome-section', HTMLElement),
  outcomeHeading: element('outcome-heading', HTMLElement),
  progressField: element('progress-field', HTMLElement),
  progress: element('progress', HTMLProgressElement),
  summary: element('summary', HTMLElement),
  outcome: element('outcome', HTMLElement),
  downloads: element('downloads', HTMLElement),
  codeSection: element('code-section', HTMLElement),
  code: element('code', HTMLElement),
  copy: element('copy', HTMLButtonElement),
  copied: element('copied', HTMLElement),
};

let sluice: Sluice | undefined;
/** The same client for jobs, which waits until the server is back. */
let patient: Sluice | undefined;
let bulkLimit = Number.POSITIVE_INFINITY;
let models: Model[] = [];
/** Key, id and task of the model whose fields and outcome are shown. */
let shownModel: string | undefined;
let file: TextFile | undefined;
let action: Action | undefined;
/** Number of the latest run. Results of earlier runs are ignored. */
let run = 0;
/** Aborts the stream of events of the previous job. */
let following = new AbortController();

const model = (): Model | undefined => models.find(({ id }) => id === page.model.value);

async function showAllowance(): Promise<void> {
  try {
    const account = await sluice?.me();
    if (account === undefined) return;
    const limits = account.limits.map(
      ({ remaining, limit, unit, window_seconds }) =>
        `${remaining} of ${limit} ${unit} left (limit per ${window_seconds} s)`,
    );
    bulkLimit = account.bulk.limit;
    const queued = account.bulk.limit - account.bulk.queued;
    page.allowance.textContent = `${account.name}: ${limits.join(', ')}; unfinished jobs may hold ${queued} more texts.`;
  } catch (error) {
    page.allowance.replaceChildren(problemOf(error));
  }
}

async function useKey(key: string): Promise<void> {
  if (!KEY.test(key)) {
    page.allowance.replaceChildren(
      problemOf(new Error('This is not a key: a key has only printable ASCII characters, without spaces.')),
    );
    return;
  }
  // The page shows errors at once instead of trying again.
  const client = new Sluice({ url: location.origin, apiKey: key, retries: 0 });
  sluice = client;
  let found: Model[];
  try {
    found = await client.models();
    // Another key has been given since.
    if (sluice !== client) return;
  } catch (error) {
    if (sluice !== client) return;
    page.work.hidden = true;
    page.allowance.replaceChildren(problemOf(error));
    return;
  }
  models = found;
  patient = new Sluice({
    url: location.origin,
    apiKey: key,
    onRetry: ({ message }, waitMs) => {
      page.summary.textContent = `${message} Trying again in ${Math.ceil(waitMs / 1000)} s.`;
    },
  });
  sessionStorage.setItem(STORED_KEY, key);
  await showAllowance();
  const kept = model();
  page.model.replaceChildren(
    ...models.map(({ id, task }) => create('option', { value: id }, `${id} (${task})`)),
  );
  if (kept) page.model.value = kept.id;
  page.work.hidden = false;
  showModel();
}

/** Shows the chosen model. Keeps the input and the outcome if this model is shown already with this key. */
function showModel(): void {
  const shown = model();
  if (shown === undefined) return;
  const notes = [
    shown.workers === 0 ? 'No live worker serves this model: requests get 503, jobs wait.' : '',
    shown.error === null ? '' : `It could not be loaded (${shown.error}).`,
    shown.max_tokens === null ? '' : `It reads up to ${shown.max_tokens} tokens; longer texts are truncated.`,
  ];
  page.modelNote.textContent = notes.filter((note) => note !== '').join(' ');
  showFileState();
  const now = [sessionStorage.getItem(STORED_KEY), shown.id, shown.task].join(' ');
  if (now === shownModel) return;
  shownModel = now;
  page.codeSection.hidden = true;
  if (page.cancelJob.hidden) page.outcomeSection.hidden = true;
  showFields(page.fields, formOf(shown.task).fields, 'one');
  showFields(page.fileFields, jobFormOf(shown.task).fields, 'file');
}

function showMode(): void {
  const isFile = chosen('mode') === 'file';
  page.oneForm.hidden = isFile;
  page.fileForm.hidden = !isFile;
}

/** The value of a field of a form. */
const fieldsOf = (form: HTMLFormElement) => (name: string) => String(new FormData(form).get(name) ?? '');

/** Begins to show a run; returns whether it is still the latest one. */
function begin(summary: string): () => boolean {
  const own = ++run;
  following.abort();
  following = new AbortController();
  page.outcomeSection.hidden = false;
  page.progressField.hidden = true;
  page.downloads.hidden = true;
  page.cancelJob.hidden = true;
  page.outcome.replaceChildren();
  page.summary.textContent = summary;
  page.outcomeHeading.focus();
  return () => run === own;
}

function showCode(done: Action): void {
  action = done;
  page.codeSection.hidden = false;
  page.code.textContent = snippet(chosen('language'), location.origin, done);
  page.copied.textContent = '';
}

async function runOne(): Promise<void> {
  const chosenModel = model();
  if (sluice === undefined || chosenModel === undefined) return;
  const { id, task } = chosenModel;
  const { inputs, parameters } = formOf(task).call(fieldsOf(page.oneForm));
  const isLatest = begin('Running …');
  showCode({ kind: 'one', model: id, inputs, parameters });
  const startedMs = performance.now();
  try {
    const output = await sluice.infer(id, inputs, parameters ? { parameters } : {});
    if (!isLatest()) return;
    page.summary.textContent = `Answered in ${Math.round(performance.now() - startedMs)} ms.`;
    page.outcome.replaceChildren(outcome(task, inputs, output));
  } catch (error) {
    if (!isLatest()) return;
    page.summary.textContent = 'The request failed.';
    page.outcome.replaceChildren(problemOf(error));
  }
  await showAllowance();
}

/** Says what the chosen file holds, and whether it can be sent. */
function showFileState(): void {
  const task = model()?.task ?? '';
  page.submitFile.disabled = true;
  if (!takesTexts(task)) {
    page.fileNote.textContent = 'This model does not take plain texts. Use the API or the sluice command.';
    return;
  }
  if (file === undefined || sluice === undefined) {
    page.fileNote.textContent = '';
    return;
  }
  const { texts, without } = new FileJob(
    sluice,
    file,
    Number(page.column.value),
    model()?.max_text_chars ?? 0,
  ).size;
  const skipped = without === 0 ? '' : `; rows that cannot be sent: ${without} (each gets an error)`;
  const tooMany = texts > bulkLimit ? ` A job of this key may have ${bulkLimit} texts.` : '';
  page.fileNote.textContent = `${file.name}: texts: ${texts}${skipped}.${tooMany}`;
  page.submitFile.disabled = texts === 0 || tooMany !== '';
}

async function chooseFile(given: File | undefined): Promise<void> {
  if (given === undefined) return;
  file = undefined;
  page.submitFile.disabled = true;
  page.columnField.hidden = true;
  page.fileNote.textContent = `${given.name}: reading …`;
  try {
    if (given.size > MAX_FILE_BYTES)
      throw new FileProblem(
        `${given.name} has more than ${MAX_FILE_BYTES / 1_048_576} MiB. Use the sluice command, or divide the file`,
      );
    file = await readTextFile(given);
  } catch (error) {
    page.fileNote.replaceChildren(problemOf(error));
    return;
  }
  const columns = file.table?.columns ?? [];
  page.columnField.hidden = columns.length < 2;
  page.column.replaceChildren(
    ...columns.map((name, i) => create('option', { value: String(i) }, name || `column ${i + 1}`)),
  );
  page.column.value = String(file.table ? usualColumn(file.table) : 0);
  showFileState();
}

/** One line about the state of a job. */
function stateOf({ job_id, status, completed, failed, total, error }: JobBody, startedMs: number): string {
  const done = completed + failed;
  const seconds = (performance.now() - startedMs) / 1000;
  const rate = done > 0 ? `, ${Math.round(done / seconds)} texts/s` : '';
  const errors = failed > 0 ? `, ${failed} with an error` : '';
  return `${status}: ${done} of ${total} texts${errors}${rate}${error ? ` (${error})` : ''}. Job ${job_id}`;
}

let download: ((format: string) => { name: string; content: Blob }) | undefined;

async function runFile(): Promise<void> {
  const chosenModel = model();
  if (patient === undefined || chosenModel === undefined || file === undefined) return;
  const { id, task } = chosenModel;
  const { parameters } = jobFormOf(task).call(fieldsOf(page.fileForm));
  const job = new FileJob(patient, file, Number(page.column.value), chosenModel.max_text_chars);
  const isLatest = begin('Uploading …');
  page.submitFile.disabled = true;
  showCode({ kind: 'file', model: id, parameters });
  try {
    await job.submit(id, parameters);
  } catch (error) {
    page.submitFile.disabled = false;
    if (!isLatest()) return;
    page.summary.textContent = 'The job was not submitted.';
    page.outcome.replaceChildren(problemOf(error));
    return;
  }
  page.submitFile.disabled = false;
  sessionStorage.setItem(STORED_JOB, JSON.stringify({ jobId: job.jobId, task }));
  void showAllowance();
  await follow(job, task, isLatest);
}

/** Follows a job until it has ended, and shows its results. */
async function follow(job: FileJob, task: string, isLatest: () => boolean): Promise<void> {
  const startedMs = performance.now();
  let isEnded = false;
  page.progress.value = 0;
  page.progressField.hidden = false;
  page.cancelJob.hidden = false;
  page.cancelJob.onclick = () =>
    void job.cancel().catch((error) => page.outcome.replaceChildren(problemOf(error)));
  try {
    for await (const state of job.progress(following.signal)) {
      if (!isLatest()) return;
      page.progress.value = state.progress;
      page.summary.textContent = stateOf(state, startedMs);
      isEnded = state.finished_at !== null;
    }
    page.cancelJob.hidden = true;
    const outcomes = await job.outcomes();
    if (!isLatest()) return;
    page.outcome.replaceChildren(job.show(task, outcomes));
    download = (format) => job.download(format, outcomes);
    page.downloads.hidden = false;
  } catch (error) {
    if (!isLatest()) return;
    page.cancelJob.hidden = true;
    page.summary.textContent = isEnded
      ? `The results of job ${job.jobId} could not be read.`
      : `The connection was lost. Job ${job.jobId} continues on the server.`;
    page.outcome.replaceChildren(problemOf(error));
  }
  await showAllowance();
}

/** Follows the latest job of this tab again after a reload. */
async function resume(): Promise<void> {
  const stored = sessionStorage.getItem(STORED_JOB);
  if (stored === null || patient === undefined) return;
  const { jobId, task } = JSON.parse(stored);
  const isLatest = begin(`Job ${jobId} …`);
  await follow(FileJob.resumed(patient, String(jobId)), String(task), isLatest);
}

function save(format: string): void {
  const made = download?.(format);
  if (made === undefined) return;
  const link = create('a', { href: URL.createObjectURL(made.content), download: made.name });
  link.click();
  // The browser has begun to read it by then.
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

function onSubmit(form: HTMLFormElement, then: () => Promise<void>): void {
  form.addEventListener('submit', (event) => {
    event.preventDefault();
    void then();
  });
}

onSubmit(page.keyForm, () => useKey(page.key.value.trim()));
onSubmit(page.oneForm, runOne);
onSubmit(page.fileForm, runFile);
page.model.addEventListener('change', showModel);
page.column.addEventListener('change', showFileState);
page.file.addEventListener('change', () => void chooseFile(page.file.files?.[0]));
onChoice('mode', showMode);
onChoice('language', () => action && showCode(action));
page.drop.addEventListener('dragover', () => page.drop.classList.add('over'));
page.drop.addEventListener('dragleave', () => page.drop.classList.remove('over'));
// A file that is dropped beside the field must not replace the page.
for (const type of ['dragover', 'drop']) document.addEventListener(type, (event) => event.preventDefault());
page.drop.addEventListener('drop', (event) => {
  page.drop.classList.remove('over');
  void chooseFile(event.dataTransfer?.files[0]);
});
page.copy.addEventListener('click', async () => {
  try {
    await navigator.clipboard.writeText(page.code.textContent ?? '');
    page.copied.textContent = 'Copied';
  } catch {
    // Without HTTPS, or without permission, the browser has no clipboard for a page.
    getSelection()?.selectAllChildren(page.code);
    page.copied.textContent = 'The code is selected: press Ctrl-C or ⌘-C to copy it';
  }
});
for (const button of page.downloads.querySelectorAll('button'))
  button.addEventListener('click', () => save(button.dataset.format ?? 'csv'));

showMode();
const stored = sessionStorage.getItem(STORED_KEY);
if (stored) {
  page.key.value = stored;
  void useKey(stored).then(resume);
}
