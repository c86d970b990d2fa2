import { Packr } from 'msgpackr';
import * as z from 'zod';

/** MessagePack (https://msgpack.org), in which a vector stays raw float32. Each value is packed independently. */
const packr = new Packr({ useRecords: false, moreTypes: true });

/** Packs outputs, to send and store them. */
export const pack = (value: unknown): Buffer => packr.pack(value);

/** Schema of packed bytes that are unpacked and then checked against another schema. */
export function packed<T extends z.ZodType>(schema: T) {
  return z
    .instanceof(Uint8Array)
    .transform((bytes, context): unknown => {
      try {
        return packr.unpack(bytes);
      } catch {
        context.addIssue({ code: 'custom', message: 'not MessagePack' });
        return z.NEVER;
      }
    })
    .pipe(schema);
}
