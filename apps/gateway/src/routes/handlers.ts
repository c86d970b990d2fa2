import type { Route, RouteName, Routes } from '@sluice/contract';
import type { Response } from 'express';
import type { z } from 'zod';
import type { Caller } from '../auth/authenticate.js';
import type { Place } from '../limits/rateLimit.js';

type BodyOf<R extends Route> = R['body'] extends z.ZodType ? z.infer<R['body']> : undefined;

/** What a handler is given: what the request has brought through the doors before it. */
export interface Context<R extends Route> {
  caller: R['access'] extends 'open' ? undefined : Caller;
  place: R['limited'] extends true ? Place : undefined;
  body: BodyOf<R>;
  /** Aborts when the caller hangs up. */
  signal: AbortSignal;
  response: Response;
}

/** One function a route: resolves to the 200 answer, or throws a Problem. */
export type Handlers = {
  [Name in RouteName]: (context: Context<Routes[Name]>) => Promise<z.infer<Routes[Name]['answer']>>;
};
