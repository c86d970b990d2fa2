import type { Route } from '@sluice/contract';
import type { Express, Request, Response } from 'express';
import type * as z from 'zod';
import type { Caller } from '../auth/authenticate.js';
import type { Slot } from '../limits/rateLimit.js';
import type { WindowState } from '../limits/slidingWindow.js';
import type { ErrorFormat } from './problem.js';

type Parsed<T> = T extends z.ZodType ? z.infer<T> : undefined;
type BodyOf<R extends Route> = R['upload'] extends true ? undefined : Parsed<R['body']>;

/** What a handler receives: the results of the checks that the request has passed. */
export interface Context<R extends Route> {
  caller: R['access'] extends 'open' | 'admin' ? undefined : Caller;
  slot: R['limited'] extends true ? Slot : undefined;
  body: BodyOf<R>;
  params: Parsed<R['params']>;
  query: Parsed<R['query']>;
  /** Aborts when the client closes the connection. */
  signal: AbortSignal;
  request: Request;
  response: Response;
}

/**
 * One handler for each route of a table. A handler resolves to the body of the response, or to undefined if it has sent
 * the response itself, or throws a Problem.
 */
export type HandlersOf<Table extends Readonly<Record<string, Route>>> = {
  [Name in keyof Table]: (
    context: Context<Table[Name]>,
  ) => Promise<z.infer<Table[Name]['answer']> | undefined>;
};

/** A handler, without the types of its route. */
export type Handler = (context: Context<Route>) => Promise<unknown>;

/** Routes of one API with their own bodies and error format. */
export interface Family {
  routes: readonly { route: Route; handler: Handler }[];
  errorFormat: ErrorFormat;
  /** Header fields about the rate limit that only this family's clients read. */
  limitHeaders?: (windows: readonly WindowState[]) => Readonly<Record<string, string>>;
  /** Mounts static files. */
  mountFiles?: (app: Express) => void;
}

/** Joins a table of routes with its handlers. */
export function createFamily<Table extends Readonly<Record<string, Route>>>(
  table: Table,
  handlers: HandlersOf<Table>,
  errorFormat: ErrorFormat,
  limitHeaders?: Family['limitHeaders'],
): Family {
  // HandlersOf has checked each handler against its route; the app needs them without their types.
  const untyped = handlers as unknown as Readonly<Record<string, Handler>>;
  const routes = Object.entries(table).map(([name, route]) => {
    const handler = untyped[name];
    if (handler === undefined) throw new RangeError(`The route "${name}" has no handler`);
    return { route, handler };
  });
  return { routes, errorFormat, ...(limitHeaders ? { limitHeaders } : {}) };
}
