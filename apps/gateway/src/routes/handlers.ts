import type { Route, Routes } from '@sluice/contract';
import type { Request, Response } from 'express';
import type { z } from 'zod';
import type { Caller } from '../auth/authenticate.js';
import type { Place } from '../limits/rateLimit.js';

type Parsed<T> = T extends z.ZodType ? z.infer<T> : undefined;
type BodyOf<R extends Route> = R['upload'] extends true ? undefined : Parsed<R['body']>;

/** What a handler is given: what the request has brought through the doors before it. */
export interface Context<R extends Route> {
  caller: R['access'] extends 'open' | 'admin' ? undefined : Caller;
  place: R['limited'] extends true ? Place : undefined;
  body: BodyOf<R>;
  params: Parsed<R['params']>;
  query: Parsed<R['query']>;
  /** Aborts when the caller hangs up. */
  signal: AbortSignal;
  request: Request;
  response: Response;
}

/**
 * One function a route of a table: resolves to the answer, to undefined when it has answered itself, or throws a Problem.
 */
export type HandlersOf<Table extends Readonly<Record<string, Route>>> = {
  [Name in keyof Table]: (
    context: Context<Table[Name]>,
  ) => Promise<z.infer<Table[Name]['answer']> | undefined>;
};

export type Handlers = HandlersOf<Routes>;
