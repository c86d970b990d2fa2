import { Problem } from '../errors/problem.js';

/** Cursors are opaque to clients: a place in the list. */
export const cursorOf = (offset: number): string => Buffer.from(String(offset)).toString('base64url');

/**
 * The place that a cursor stands for; 0 without one.
 * @throws Problem `validation_failed` for what is no cursor
 */
export function offsetOf(cursor: string | undefined): number {
  if (cursor === undefined) return 0;
  const offset = Buffer.from(cursor, 'base64url').toString();
  if (/^\d{1,9}$/.test(offset)) return Number(offset);
  throw new Problem('validation_failed', { errors: [{ pointer: '/cursor', detail: 'No such cursor' }] });
}
