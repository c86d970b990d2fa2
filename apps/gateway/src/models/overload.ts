import type { IncomingHttpHeaders } from 'node:http';
import type { Route } from '@sluice/contract';
import { MAX_INTERACTIVE_ROWS } from '../dispatch/answerItems.js';
import type { Problem } from '../http/problem.js';
import type { Catalog, CatalogEntry } from './catalog.js';

/** An input in JSON takes at least this many bytes, such as `"a",`. */
const MIN_INPUT_BYTES = 4;
/** A larger body may belong to the bulk lane, which has longer deadlines. */
const MAX_SMALL_BODY_BYTES = MIN_INPUT_BYTES * MAX_INTERACTIVE_ROWS;

/**
 * The refusal of a request that would be overloaded with any valid body; undefined if that depends on the body. It is asked
 * before the request takes a slot.
 */
export type Overload = (
  route: Route,
  request: { params: Readonly<Record<string, unknown>>; headers: IncomingHttpHeaders },
) => Problem | undefined;

/**
 * Creates the check that refuses a request before it has used a slot, and before its body is read: all models that it could
 * use are overloaded for a single row.
 */
export function createOverload(catalog: Catalog): Overload {
  const entriesOf = ({ task }: Route, { id }: Readonly<Record<string, unknown>>): CatalogEntry[] => {
    if (id === undefined) return catalog.entries.filter(({ spec }) => spec.task === task);
    const named = catalog.find(Array.isArray(id) ? id.join('/') : String(id));
    return named ? [named] : [];
  };
  return (route, { params, headers }) => {
    const isSmall = Number(headers['content-length']) <= MAX_SMALL_BODY_BYTES;
    if (!isSmall || headers['content-encoding'] !== undefined) return undefined;
    const entries = entriesOf(route, params);
    // One input may have many rows, so a small body may belong to the bulk lane.
    if (entries.some(({ spec }) => spec.task === 'zero-shot-classification')) return undefined;
    const refusals = entries.map(({ spec, lanes }) => lanes.interactive.admission.refusal(1, spec.timeoutMs));
    return refusals.every((refusal) => refusal !== undefined) ? refusals[0] : undefined;
  };
}
