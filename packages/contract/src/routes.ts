import { z } from 'zod';
import { accountSchema, healthSchema, itemsSchema, readySchema, type Scope } from './account.js';
import {
  acceptedSchema,
  batchBody,
  batchQuery,
  idParams,
  jobEventSchema,
  jobSchema,
  jobsSchema,
  pageQuery,
  resultsQuery,
  resultsSchema,
} from './batch.js';
import {
  createKeyBody,
  keySchema,
  keysSchema,
  keyWithSecretSchema,
  rotateKeyBody,
  updateKeyBody,
  usageSchema,
} from './key.js';
import { modelsSchema } from './model.js';
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
  method: 'get' | 'post' | 'patch' | 'delete';
  path: string;
  summary: string;
  /** `open` needs no key, `key` any valid key, a scope a key that has it, `admin` the operator's token. */
  access: 'open' | 'key' | 'admin' | Scope;
  /** Whether a request takes a place in the key's rate limit. */
  limited: boolean;
  /** Schema of the JSON body, where the route takes one. */
  body: z.ZodType | undefined;
  /** Whether the handler reads the body itself, as it arrives; it may be NDJSON too. */
  upload?: boolean;
  /** Schema of the path's parameters, where it has any. */
  params?: z.ZodObject;
  /** Schema of the query, where the route reads one. */
  query?: z.ZodObject;
  /** Status of the answer when all is well; 200 if not given. */
  success?: 201 | 202;
  /** Schema of that answer. */
  answer: z.ZodType;
  /** Media type of that answer. */
  mediaType: string;
  /** Other media types and answers that the route may give. */
  alsoAnswers?: readonly { status: number; mediaType?: string; description: string }[];
  /** What the route itself can refuse with; those of keys, limits and bodies are added by {@link problemsOf}. */
  problems: readonly ProblemCode[];
}

const work = { method: 'post', access: 'predict', limited: true, mediaType: 'application/json' } as const;
const about = { method: 'get', limited: false, body: undefined, mediaType: 'application/json' } as const;
const jobs = { limited: false, access: 'batch', body: undefined, mediaType: 'application/json' } as const;
const workProblems = ['analysis_timed_out', 'analysis_failed', 'no_worker', 'overloaded'] as const;

/** The rows of whoever watches a process. */
const probes = {
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
} as const satisfies Record<string, Route>;

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
    analyzeBatch: {
      ...work,
      access: 'batch',
      path: '/analyze_batch',
      summary: 'Hand over a batch: every text gets exactly one answer',
      body: batchBody(bounds),
      upload: true,
      query: batchQuery(bounds),
      success: 202,
      answer: acceptedSchema,
      problems: [
        'idempotency_arriving',
        'idempotency_mismatch',
        'batch_too_large',
        'bulk_allowance_used',
        'nearly_full',
        'unavailable',
      ],
    },
    job: {
      ...jobs,
      method: 'get',
      path: '/jobs/:id',
      summary: 'A job: status and progress',
      params: idParams,
      answer: jobSchema,
      problems: ['not_found'],
    },
    results: {
      ...jobs,
      method: 'get',
      path: '/jobs/:id/results',
      summary: 'Its results, in input order: a page, or with `Accept: application/x-ndjson` all of them',
      params: idParams,
      query: resultsQuery,
      answer: resultsSchema,
      alsoAnswers: [{ status: 200, mediaType: 'application/x-ndjson', description: 'OK' }],
      problems: ['not_found', 'results_not_ready'],
    },
    events: {
      ...jobs,
      method: 'get',
      path: '/jobs/:id/events',
      summary: 'Its progress as Server-Sent Events, until it has ended',
      params: idParams,
      answer: jobEventSchema,
      mediaType: 'text/event-stream',
      problems: ['not_found', 'shutting_down'],
    },
    endJob: {
      ...jobs,
      method: 'delete',
      path: '/jobs/:id',
      summary: 'Cancels a job that is unfinished; erases one that is finished',
      params: idParams,
      answer: jobSchema,
      alsoAnswers: [{ status: 204, description: 'Erased' }],
      problems: ['not_found'],
    },
    jobs: {
      ...jobs,
      method: 'get',
      path: '/jobs',
      summary: 'Own jobs, newest first',
      query: pageQuery,
      answer: jobsSchema,
      problems: [],
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
    models: {
      ...about,
      path: '/models',
      access: 'key',
      summary: 'The configured models, with what live workers say of them',
      answer: modelsSchema,
      problems: [],
    },
    ...probes,
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

const admin = { access: 'admin', limited: false, mediaType: 'application/json' } as const;

/** The table of the gateway's admin port. */
export const adminRoutes = {
  createKey: {
    ...admin,
    method: 'post',
    path: '/admin/keys',
    summary: 'Make a key; the answer alone shows it',
    body: createKeyBody,
    success: 201,
    answer: keyWithSecretSchema,
    problems: [],
  },
  keys: {
    ...admin,
    method: 'get',
    path: '/admin/keys',
    summary: 'All keys, live or not, oldest first',
    body: undefined,
    query: pageQuery,
    answer: keysSchema,
    problems: [],
  },
  key: {
    ...admin,
    method: 'get',
    path: '/admin/keys/:id',
    summary: 'A key',
    body: undefined,
    params: idParams,
    answer: keySchema,
    problems: ['not_found'],
  },
  updateKey: {
    ...admin,
    method: 'patch',
    path: '/admin/keys/:id',
    summary: 'Change what is named; the next request goes by it',
    body: updateKeyBody,
    params: idParams,
    answer: keySchema,
    problems: ['not_found', 'key_not_live'],
  },
  revokeKey: {
    ...admin,
    method: 'delete',
    path: '/admin/keys/:id',
    summary: 'Revoke a key, at once and for good; its unfinished jobs are canceled, its record stays',
    body: undefined,
    params: idParams,
    answer: keySchema,
    problems: ['not_found'],
  },
  rotateKey: {
    ...admin,
    method: 'post',
    path: '/admin/keys/:id/rotate',
    summary: 'Give a key a new secret; id, limits and jobs stay',
    body: rotateKeyBody,
    params: idParams,
    answer: keyWithSecretSchema,
    problems: ['not_found', 'key_not_live'],
  },
  keyUsage: {
    ...admin,
    method: 'get',
    path: '/admin/keys/:id/usage',
    summary: 'What was done with a key, by day',
    body: undefined,
    params: idParams,
    answer: usageSchema,
    problems: ['not_found'],
  },
  ...probes,
  openapi: {
    ...about,
    path: '/admin/openapi.json',
    access: 'open',
    summary: 'This reference, as OpenAPI 3.1',
    answer: z.record(z.string(), z.unknown()),
    problems: [],
  },
} as const satisfies Record<string, Route>;

export type AdminRoutes = typeof adminRoutes;

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
    'uri_too_long',
    'headers_too_large',
    'request_timed_out',
    'expectation_failed',
  ];
  if (route.access === 'admin') {
    codes.push('not_authenticated', 'invalid_admin_token', 'too_many_failures', 'unavailable');
  } else if (route.access !== 'open') {
    codes.push(
      'not_authenticated',
      'conflicting_keys',
      'invalid_api_key',
      'too_many_failures',
      'unavailable',
    );
    if (route.access !== 'key') codes.push('missing_scope');
  }
  if (route.limited) codes.push('rate_limited', 'shutting_down');
  if (route.body) codes.push(...bodyProblems);
  else if (route.query) codes.push('validation_failed');
  codes.push(...route.problems, 'internal_error');
  return [...new Set(codes)];
}
