import { batchHeaders } from '@sluice/contract';
import type { Request } from 'express';
import { Problem } from '../http/problem.js';

/** The `Idempotency-Key` of a request; undefined if it has none. @throws Problem `validation_failed` */
export function idempotencyKeyOf(request: Request): string | undefined {
  const parsed = batchHeaders.safeParse({ 'Idempotency-Key': request.get('Idempotency-Key') });
  if (parsed.success) return parsed.data['Idempotency-Key'];
  throw new Problem('validation_failed', {
    detail: `Idempotency-Key: ${parsed.error.issues[0]?.message}`,
  });
}
