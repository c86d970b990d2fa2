import { createHash, randomUUID } from 'node:crypto';
import { createReadStream, createWriteStream, existsSync, readFileSync, statSync } from 'node:fs';
import { mkdir, rename, rm, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { Readable, Transform } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { HubApiError, listFiles, modelInfo } from '@huggingface/hub';
import { type Dtype, json, type Log, ModelError, type Settings } from '@sluice/shared';
import { EnvHttpProxyAgent, fetch as undiciFetch } from 'undici';
import * as z from 'zod';
import { requireWeights, weightsAmong } from '../model/folder.js';
import type { FetchedModel } from './fetchedModel.js';

const PROGRESS_EVERY_MS = 1_000;
/** Files that a model may have besides its weights; the first two are needed. */
const REQUIRED = ['config.json', 'tokenizer.json'];
const OPTIONAL = [
  'tokenizer_config.json',
  'special_tokens_map.json',
  'modules.json',
  'sentence_bert_config.json',
  'config_sentence_transformers.json',
];
/** The configuration of a module of sentence-transformers, such as `1_Pooling/config.json`. */
const MODULE_CONFIG = /^\d+_\w+\/config\.json$/;

const fileSchema = z.object({
  path: z.string(),
  size: z.int().min(0),
  /** SHA-256; only of a large file. */
  sha256: z.string().optional(),
});
type HubFile = z.infer<typeof fileSchema>;
/** The files of a commit, as the Hub lists them. */
const manifestSchema = json(z.array(fileSchema));

/** Names a folder. */
const COMMIT = /^[0-9a-f]{40}$/;

interface Repository {
  repository: string;
  revision: string;
}

/**
 * Downloads a model from the Hub, or finds it in `DATA_DIR`, where the files of each commit have a folder. A complete copy
 * needs no request, so a branch is resolved to a commit only once.
 * @throws ModelError
 */
export async function fetchFromHub(
  { repository, revision }: Repository,
  dtype: Dtype,
  { DATA_DIR, HF_ENDPOINT, HF_TOKEN }: Settings,
  signal: AbortSignal,
  log: Log,
): Promise<FetchedModel> {
  const root = join(DATA_DIR, 'models', ...repository.split('/'));
  const refFile = join(root, 'refs', `${encodeURIComponent(revision)}.txt`);
  const manifestOf = (commit: string) => join(root, `${commit}.json`);

  /** What an earlier start has downloaded; undefined if it is not all there. */
  function stored(): { commit: string; files: HubFile[] } | undefined {
    const commit = readText(refFile);
    if (commit === undefined) return undefined;
    const files = manifestSchema.safeParse(readText(manifestOf(commit)));
    if (!files.success) return undefined;
    const needed = neededOf(files.data, dtype);
    const damaged = needed.filter((file) => !isIntact(join(root, commit), file));
    for (const { path } of damaged.filter((file) => existsSync(join(root, commit, file.path))))
      log.warn(
        { file: join(root, commit, path) },
        'A file of the model is damaged or incomplete; downloading it again',
      );
    return damaged.length === 0 ? { commit, files: needed } : undefined;
  }

  async function download(): Promise<{ commit: string; files: HubFile[] }> {
    const hub = {
      hubUrl: HF_ENDPOINT.replace(/\/+$/, ''),
      fetch: createHubFetch(HF_ENDPOINT, HF_TOKEN, signal),
    };
    try {
      const { sha: commit } = await modelInfo({
        name: repository,
        revision,
        additionalFields: ['sha'],
        ...hub,
      });
      if (!COMMIT.test(commit)) throw new ModelError('download_failed', 'its revision is not a commit');
      const files: HubFile[] = [];
      for await (const { type, path, size, lfs } of listFiles({
        repo: repository,
        revision: commit,
        recursive: true,
        ...hub,
      }))
        if (type === 'file') files.push({ path, size, ...(lfs ? { sha256: lfs.oid } : {}) });
      const needed = neededOf(files, dtype);
      for (const file of needed) {
        if (isIntact(join(root, commit), file)) continue;
        const url = `${hub.hubUrl}/${repository}/resolve/${commit}/${file.path}`;
        const response = await hub.fetch(url);
        if (!response.ok || response.body === null)
          throw new ModelError('download_failed', `${url} answered with status ${response.status}`);
        await save(response.body, file, join(root, commit, file.path), repository, log);
      }
      await write(manifestOf(commit), JSON.stringify(files));
      await write(refFile, commit);
      return { commit, files: needed };
    } catch (error) {
      signal.throwIfAborted();
      throw hubError(error, repository, revision, HF_ENDPOINT);
    }
  }

  const { commit, files } = stored() ?? (await download());
  const folder = join(root, commit);
  return {
    folder,
    weightsBytes: files
      .filter(({ path }) => weightsAmong([path], dtype).length > 0)
      .reduce((sum, { size }) => sum + size, 0),
    revision: commit,
    verify: async () => {
      for (const { path, sha256 } of files) {
        if (sha256 === undefined || (await sha256Of(join(folder, path))) === sha256) continue;
        await rm(join(folder, path), { force: true });
        throw new ModelError(
          'file_corrupt',
          `${join(folder, path)} was damaged; the next start downloads it again`,
        );
      }
    },
  };
}

const readText = (file: string) => (existsSync(file) ? readFileSync(file, 'utf8') : undefined);

/** Writes a file as a whole or not at all. */
async function write(path: string, text: string): Promise<void> {
  await mkdir(dirname(path), { recursive: true });
  const temporary = `${path}.${randomUUID()}`;
  await writeFile(temporary, text);
  await rename(temporary, path);
}

/** The files that a model needs, of those that its repository has. @throws ModelError */
function neededOf(files: readonly HubFile[], dtype: Dtype): HubFile[] {
  const paths = files.map(({ path }) => path);
  const missing = REQUIRED.find((file) => !paths.includes(file));
  if (missing) throw new ModelError('file_missing', `its repository has no file ${missing}`);
  requireWeights(dtype, paths);
  const weights = weightsAmong(paths, dtype);
  return files.filter(
    ({ path }) =>
      REQUIRED.includes(path) ||
      OPTIONAL.includes(path) ||
      MODULE_CONFIG.test(path) ||
      weights.includes(path),
  );
}

/** Whether a stored file has the right size, and is JSON if its name says so. */
function isIntact(folder: string, { path, size }: HubFile): boolean {
  const file = join(folder, path);
  if (!existsSync(file) || statSync(file).size !== size) return false;
  return !path.endsWith('.json') || json(z.unknown()).safeParse(readFileSync(file, 'utf8')).success;
}

/**
 * Saves a download with progress in the log, as a whole or not at all.
 * @throws ModelError `download_failed` if it is not what the list says
 */
async function save(
  body: ReadableStream,
  file: HubFile,
  path: string,
  repository: string,
  log: Log,
): Promise<void> {
  await mkdir(dirname(path), { recursive: true });
  const temporary = `${path}.${randomUUID()}`;
  const hash = createHash('sha256');
  let bytes = 0;
  let loggedMs = performance.now();
  const watch = new Transform({
    transform(part: Buffer, _encoding, done) {
      hash.update(part);
      bytes += part.length;
      const nowMs = performance.now();
      if (nowMs - loggedMs >= PROGRESS_EVERY_MS) {
        loggedMs = nowMs;
        log.info(`Loading ${repository}: ${file.path}, ${megabytes(bytes)} of ${megabytes(file.size)} MB`);
      }
      done(null, part);
    },
  });
  try {
    await pipeline(Readable.fromWeb(body), watch, createWriteStream(temporary));
    if (bytes !== file.size || (file.sha256 !== undefined && hash.digest('hex') !== file.sha256))
      throw new ModelError(
        'download_failed',
        `the download of ${file.path} is not the file that the Hub lists (${bytes} of ${file.size} bytes)`,
      );
    await rename(temporary, path);
  } finally {
    await rm(temporary, { force: true });
  }
}

const megabytes = (bytes: number) => (bytes / 1e6).toFixed(1);

async function sha256Of(path: string): Promise<string> {
  const hash = createHash('sha256');
  for await (const part of createReadStream(path)) hash.update(part);
  return hash.digest('hex');
}

/**
 * Creates the function for requests to the Hub: through the proxy of the environment if there is one, and with the token
 * for the Hub's own origin alone. A redirect to another origin loses it, as the Fetch standard says.
 */
function createHubFetch(endpoint: string, token: string | undefined, signal: AbortSignal): typeof fetch {
  const dispatcher = new EnvHttpProxyAgent();
  const { origin } = new URL(endpoint);
  return async (input, init) => {
    const url = input instanceof Request ? input.url : String(input);
    const headers = new Headers(init?.headers);
    headers.delete('Authorization');
    if (token && new URL(url).origin === origin) headers.set('Authorization', `Bearer ${token}`);
    const response = await undiciFetch(url, {
      method: init?.method ?? 'GET',
      headers: Object.fromEntries(headers),
      dispatcher,
      signal,
    });
    return response as unknown as Response;
  };
}

/** The error for a failed request to the Hub, without a secret. */
function hubError(error: unknown, repository: string, revision: string, endpoint: string): ModelError {
  if (error instanceof ModelError) return error;
  const { host } = new URL(endpoint);
  if (error instanceof HubApiError) {
    const { statusCode } = error;
    if (statusCode === 404)
      return new ModelError(
        'source_not_found',
        `${host} has no model ${repository} with the revision ${revision}`,
      );
    if (statusCode === 401 || statusCode === 403)
      return new ModelError(
        'source_not_found',
        `${host} has no model ${repository}, or it needs an HF_TOKEN with access (status ${statusCode})`,
      );
    return new ModelError('download_failed', `${host} answered with status ${statusCode}`);
  }
  const reasons: string[] = [];
  if (!(error instanceof Error)) reasons.push(String(error));
  for (let cause: unknown = error; cause instanceof Error; cause = cause.cause)
    reasons.push('code' in cause ? String(cause.code) : cause.message.split('\n', 1).join(''));
  return new ModelError('download_failed', `${host}: ${reasons.join(': ')}`);
}
