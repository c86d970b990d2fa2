import type { OpenAiFile, OpenAiRoutes } from '@sluice/contract';
import type { Ledger } from '@sluice/shared';
import type { Response } from 'express';
import type { FileRecord, Files } from '../../files/files.js';
import type { HandlersOf } from '../../http/family.js';
import { readForm } from '../../http/multipart.js';
import { ClientClosedRequest, fromRedis, Problem } from '../../http/problem.js';
import { writePart } from '../../http/stream.js';
import { type OutputKind, outputIdOf, outputOf } from '../../jobs/batchIds.js';
import { batchJobs } from './batchJobs.js';
import { outputLines } from './batchOutput.js';
import { type BatchJob, batchOf, hasErrors, hasOutput, unixSeconds } from './batchRecord.js';

interface Services {
  files: Files;
  ledger: Ledger;
}

const PURPOSE = 'batch';

type FileRoutes = 'createFile' | 'files' | 'file' | 'deleteFile' | 'fileContent';

/** A file with its time in milliseconds, by which lists are sorted. */
interface Listed {
  atMs: number;
  file: OpenAiFile;
}

const uploaded = (record: FileRecord): OpenAiFile => ({
  id: record.id,
  object: 'file',
  bytes: record.bytes,
  created_at: unixSeconds(record.createdAtMs),
  expires_at: unixSeconds(record.expiresAtMs),
  filename: record.name,
  purpose: PURPOSE,
  status: 'processed',
});

function outputFile({ job }: BatchJob, kind: OutputKind, bytes: number | null): OpenAiFile {
  return {
    id: outputIdOf(job.id, kind),
    object: 'file',
    bytes,
    created_at: unixSeconds(job.finishedAtMs ?? job.createdAtMs),
    expires_at: job.expiresAtMs === undefined ? null : unixSeconds(job.expiresAtMs),
    filename: `batch_${job.id}_${kind}.jsonl`,
    purpose: 'batch_output',
    status: 'processed',
  };
}

const noFile = (id: string) =>
  new Problem('not_found', { detail: `Not Found: no file of this key has the id "${id}"` });

/** Handlers of the routes about files. The outputs of batches are files too, which are read from the ledger. */
export function fileHandlers({ files, ledger }: Services): Pick<HandlersOf<OpenAiRoutes>, FileRoutes> {
  /** The ended batch that a file is an output of; undefined for an uploaded file. */
  async function batchWith(
    fileId: string,
    keyId: string,
  ): Promise<(BatchJob & { kind: OutputKind }) | undefined> {
    const output = outputOf(fileId);
    if (output === undefined) return undefined;
    const job = await fromRedis(ledger.read(output.jobId));
    const batch = job?.keyId === keyId ? batchOf(job) : undefined;
    const exists = output.kind === 'output' ? hasOutput : hasErrors;
    if (batch === undefined || !exists(batch.job)) throw noFile(fileId);
    return { ...batch, kind: output.kind };
  }

  return {
    async createFile({ caller, request, response }) {
      const { form, content } = readForm(request, response, 'file', files.maxBytesPerKey);
      try {
        const record = await files.store(caller.record.id, content, () => {
          const purpose = form.fields.get('purpose');
          if (form.fileName === undefined) throw wrong('file', 'Give the file as the field "file"');
          if (purpose !== PURPOSE)
            throw wrong(
              'purpose',
              `The field "purpose" must be "${PURPOSE}"; it is ${purpose === undefined ? 'missing' : `"${purpose}"`}`,
            );
          const expiry = [...form.fields.keys()].find((name) => name.startsWith('expires_after'));
          if (expiry !== undefined)
            throw wrong('expires_after', 'Not supported: files expire after FILE_TTL_SECONDS of the server');
          return { name: form.fileName, purpose };
        });
        return uploaded(record);
      } finally {
        await content.return(undefined);
      }
    },

    async files({ caller, query }) {
      const all: Listed[] = (await files.list(caller.record.id)).map((record) => ({
        atMs: record.createdAtMs,
        file: uploaded(record),
      }));
      for await (const batch of batchJobs(ledger, caller.record.id)) {
        const atMs = batch.job.finishedAtMs ?? batch.job.createdAtMs;
        if (hasOutput(batch.job)) all.push({ atMs, file: outputFile(batch, 'output', null) });
        if (hasErrors(batch.job)) all.push({ atMs, file: outputFile(batch, 'errors', null) });
      }
      const direction = query.order === 'asc' ? 1 : -1;
      const wanted = all
        .filter(({ file }) => query.purpose === undefined || file.purpose === query.purpose)
        .sort((a, b) => direction * (a.atMs - b.atMs || (a.file.id < b.file.id ? -1 : 1)))
        .map(({ file }) => file);
      const from = query.after === undefined ? 0 : wanted.findIndex(({ id }) => id === query.after) + 1;
      if (query.after !== undefined && from === 0) throw noFile(query.after);
      const data = wanted.slice(from, from + query.limit);
      return pageOf(data, from + data.length < wanted.length);
    },

    async file({ caller, params, signal }) {
      const batch = await batchWith(params.id, caller.record.id);
      if (batch === undefined) return uploaded(await files.of(caller.record.id, params.id));
      const known = await fromRedis(ledger.outputBytes(batch.job.id, batch.kind));
      if (known !== undefined) return outputFile(batch, batch.kind, known);
      let bytes = 0;
      for await (const lines of outputLines(ledger, batch, batch.kind)) {
        if (signal.aborted) throw new ClientClosedRequest();
        bytes += Buffer.byteLength(lines);
      }
      await fromRedis(ledger.keepOutputBytes(batch.job.id, batch.kind, bytes));
      return outputFile(batch, batch.kind, bytes);
    },

    async deleteFile({ caller, params }) {
      const batch = await batchWith(params.id, caller.record.id);
      if (batch)
        throw new Problem('validation_failed', {
          detail: `The output of a batch cannot be deleted alone. Delete its job (DELETE /jobs/${batch.job.id}), or wait until it expires`,
        });
      await files.of(caller.record.id, params.id);
      await fromRedis(files.erase(caller.record.id, params.id));
      return { id: params.id, object: 'file', deleted: true };
    },

    async fileContent({ caller, params, request, response, signal }) {
      const batch = await batchWith(params.id, caller.record.id);
      const record = batch ? undefined : await files.of(caller.record.id, params.id);
      const parts = batch ? outputLines(ledger, batch, batch.kind) : record && files.content(record);
      response.status(200).type('application/octet-stream');
      if (record) response.set('Content-Length', String(record.bytes));
      if (request.method === 'HEAD' || parts === undefined) response.end();
      else await send(parts, response, signal);
      return undefined;
    },
  };
}

/** Sends a file part by part. @throws what the parts throw, after which the route breaks off the response */
async function send(
  parts: AsyncIterable<string | Buffer>,
  response: Response,
  signal: AbortSignal,
): Promise<void> {
  for await (const part of parts) {
    if (signal.aborted) return;
    await writePart(response, part, signal);
  }
  response.end();
}

const wrong = (field: string, detail: string) =>
  new Problem('validation_failed', { errors: [{ pointer: field && `/${field}`, detail }] });

/** A page of a list. */
export function pageOf<Item extends { id: string }>(data: Item[], hasMore: boolean) {
  return {
    object: 'list' as const,
    data,
    first_id: data[0]?.id ?? null,
    last_id: data.at(-1)?.id ?? null,
    has_more: hasMore,
  };
}
