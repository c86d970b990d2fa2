import { PassThrough, type Readable } from 'node:stream';
import { Busboy } from '@fastify/busboy';
import type { Request, Response } from 'express';
import { checkContentEncoding } from './body.js';
import { Problem } from './problem.js';
import { readStream } from './stream.js';

/** Limits of the parts besides the file. */
const LIMITS = {
  files: 1,
  fields: 20,
  fieldSize: 1024,
  fieldNameSize: 100,
  headerPairs: 20,
  headerSize: 8_192,
};

/** Bytes of a form besides its file. */
const FORM_BYTES = 64 * 1024;

/** What is known of a form; complete when its content has been read. */
export interface Form {
  fields: Map<string, string>;
  /** The file name that the client sent, or the field's name if it sent none; undefined until the file part has arrived. */
  fileName: string | undefined;
}

const broken = (detail: string, cause?: unknown) =>
  new Problem('bad_request', { detail: `The multipart body cannot be read: ${detail}`, cause });

/**
 * Reads a `multipart/form-data` body with one file (RFC 7578) as it arrives.
 * @param field name of the file's field
 * @param maxBytes of the file; the rest of the body may have {@link FORM_BYTES} more
 * @returns the form, which fills while the content of the file is read
 * @throws Problem `unsupported_media_type`; while reading 400, 408, 413; ClientClosedRequest
 */
export function readForm(
  request: Request,
  response: Response,
  field: string,
  maxBytes: number,
): { form: Form; content: AsyncGenerator<Buffer> } {
  const type = request.headers['content-type'] ?? '';
  if (!/^multipart\/form-data\s*;/i.test(type))
    throw new Problem('unsupported_media_type', { detail: 'Send multipart/form-data with a boundary' });
  checkContentEncoding(request);
  const form: Form = { fields: new Map(), fileName: undefined };
  return {
    form,
    content: readStream(request, response, (source) => contentOf(source, type, field, maxBytes, form)),
  };
}

async function* contentOf(
  source: Readable,
  type: string,
  field: string,
  maxBytes: number,
  form: Form,
): AsyncGenerator<Buffer> {
  const content = new PassThrough();
  const fail = (error: unknown) =>
    content.destroy(
      error instanceof Problem ? error : broken(error instanceof Error ? error.message : '', error),
    );
  const parser = parserOf(type);
  parser.on('field', (name, value, _nameTruncated, isTruncated) => {
    if (isTruncated) fail(broken(`the field "${name}" is longer than ${LIMITS.fieldSize} bytes`));
    form.fields.set(name, value);
  });
  parser.on('file', (name, stream, fileName) => {
    stream.on('error', fail);
    if (name !== field) {
      fail(broken(`unexpected file field "${name}"; send the file in the field "${field}"`));
      stream.resume();
      return;
    }
    form.fileName = fileName ?? field;
    stream.pipe(content, { end: false });
  });
  parser.on('filesLimit', () => fail(broken('it has more than one file')));
  parser.on('fieldsLimit', () => fail(broken('it has too many fields')));
  parser.on('error', fail);
  parser.on('finish', () => content.end());
  // Not an error of the form: a timeout, or a client that is gone.
  source.on('error', (error) => content.destroy(error));
  let bytes = 0;
  source.on('data', (part: Buffer) => {
    bytes += part.length;
    if (bytes > maxBytes + FORM_BYTES) fail(new Problem('file_too_large'));
  });
  source.pipe(parser);
  yield* content;
}

/** @throws Problem `bad_request` without a boundary */
function parserOf(type: string) {
  try {
    return new Busboy({ headers: { 'content-type': type }, limits: LIMITS });
  } catch (error) {
    throw broken(error instanceof Error ? error.message : '', error);
  }
}
