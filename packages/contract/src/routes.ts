import { z } from 'zod';
import { accountSchema, healthSchema, itemsSchema, readySchema, type Scope } from './account.js';
import {
  analysisSchema,
  analyzeBody,
  type Bounds,
  commentSchema,
  predictionSchema,
  textBody,
} from './prediction.js';
import type { ProblemCode } from './problem.js';

/** One row of the table that mounts the gateway, validates, types and makes the OpenAPI document. */
export interface Route {
  method: 'get' | 'post';
  path: string;
  summary: string;
  /** `open` needs no key, `key` any valid key, a scope a key that has it. */
  access: 'open' | 'key' | Scope;
  /** Whether a request takes a place in the key's rate limit. */
  limited: boolean;
  /** Schema of the JSON body, where the route takes one. */
  body: z.ZodType | undefined;
  /** Schema of the 200 answer. */
  answer: z.ZodType;
  /** Media type of the 200 answer. */
  mediaType: string;
  /** What the route itself can refuse with; those of keys, limits and bodies are added by {@link problemsOf}. */
  problems: readonly ProblemCode[];
}

const work = { method: 'post', access: 'predict', limited: true, mediaType: 'application/json' } as const;
const about = { method: 'get', limited: false, body: undefined, mediaType: 'application/json' } as const;
const workProblems = ['analysis_timed_out', 'analysis_failed', 'no_worker'] as const;

/**
 * The table of routes.
 * @param bounds what the operator configured: it shapes the bodies' schemas
 */
export function routesFor(bounds: Bounds) {
  return {
    predict: {
      ...work,
      path: '/predict',
      summary: 'Sentiment of one text, with its confidence',
      body: textBody(bounds),
      answer: predictionSchema,
      problems: workProblems,
    },
    analyze: {
      ...work,
      path: '/analyze',
      summary: "The pipeline's own result for one text",
      body: analyzeBody(bounds),
      answer: analysisSchema,
      problems: workProblems,
    },
    analyzeComment: {
      ...work,
      path: '/analyze_comment',
      summary: 'The top label of one text',
      body: textBody(bounds),
      answer: commentSchema,
      problems: workProblems,
    },
    items: {
      ...about,
      path: '/items/',
      access: 'key',
      summary: "The caller's own key",
      answer: itemsSchema,
      problems: [],
    },
    me: {
      ...about,
      path: '/me',
      access: 'key',
      summary: "What the caller's key may do, and what is left of its limits",
      answer: accountSchema,
      problems: [],
    },
    health: {
      ...about,
      path: '/health',
      access: 'open',
      summary: '200 while the process lives',
      answer: healthSchema,
      problems: [],
    },
    ready: {
      ...about,
      path: '/ready',
      access: 'open',
      summary: '200 when Redis answers and the gateway is not draining',
      answer: readySchema,
      problems: ['unavailable', 'shutting_down'],
    },
    docs: {
      ...about,
      path: '/docs',
      access: 'open',
      summary: 'This reference, as a page',
      answer: z.string(),
      mediaType: 'text/html',
      problems: [],
    },
    openapi: {
      ...about,
      path: '/openapi.json',
      access: 'open',
      summary: 'This reference, as OpenAPI 3.1',
      answer: z.record(z.string(), z.unknown()),
      problems: [],
    },
  } as const satisfies Record<string, Route>;
}

export type Routes = ReturnType<typeof routesFor>;
export type RouteName = keyof Routes;

const bodyProblems = [
  'invalid_json',
  'invalid_encoding',
  'body_too_large',
  'unsupported_media_type',
  'validation_failed',
] as const;

/** Every code that a route can answer with, in the order in which a request meets them. */
export function problemsOf(route: Route): ProblemCode[] {
  const codes: ProblemCode[] = [
    'bad_request',
    'headers_too_large',
    'request_timed_out',
    'expectation_failed',
  ];
  if (route.access !== 'open') {
    codes.push(
      'not_authenticated',
      'conflicting_keys',
      'invalid_api_key',
      'too_many_failures',
      'unavailable',
    );
  }
  if (route.access !== 'open' && route.access !== 'key') codes.push('missing_scope');
  if (route.limited) codes.push('rate_limited', 'shutting_down');
  if (route.body) codes.push(...bodyProblems);
  codes.push(...route.problems, 'internal_error');
  return [...new Set(codes)];
}
