import { z } from 'zod';
import { accountSchema, healthSchema, itemsSchema, readySchema } from './account.js';
import {
  acceptedSchema,
  batchBody,
  batchHeaders,
  batchLine,
  batchQuery,
  jobEventSchema,
  jobParams,
  jobSchema,
  jobsSchema,
  pageQuery,
  resultsQuery,
  resultsSchema,
} from './job.js';
import {
  createKeyBody,
  keyParams,
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
import { about, jobs, type Route, work, workProblems } from './route.js';

/** The routes of health checks. */
const probes = {
  health: {
    ...about,
    path: '/health',
    access: 'open',
    summary: '200 while the process is alive',
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
 * @param bounds configured limits, which become part of the schemas
 */
export function routesFor(bounds: Bounds) {
  return {
    predict: {
      ...work,
      task: 'text-classification',
      path: '/predict',
      summary: 'Sentiment and confidence of one text',
      body: textBody(bounds),
      answer: predictionSchema,
      problems: workProblems,
    },
    analyze: {
      ...work,
      task: 'text-classification',
      path: '/analyze',
      summary: 'Labels and scores of one text',
      body: analyzeBody(bounds),
      answer: analysisSchema,
      problems: workProblems,
    },
    analyzeComment: {
      ...work,
      task: 'text-classification',
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
      summary: 'Submit a job: every text gets exactly one answer',
      body: batchBody(bounds),
      upload: true,
      line: z.union([
        batchLine(bounds).text,
        batchLine(bounds).object,
        batchLine(bounds).input,
        batchLine(bounds).batch,
      ]),
      headers: batchHeaders,
      query: batchQuery(bounds),
      success: 202,
      answer: acceptedSchema,
      problems: [
        'idempotency_mismatch',
        'batch_too_large',
        'bulk_allowance_used',
        'nearly_full',
        'storage_full',
        'unavailable',
      ],
    },
    job: {
      ...jobs,
      method: 'get',
      path: '/jobs/:id',
      summary: 'Status and progress of a job',
      params: jobParams,
      answer: jobSchema,
      problems: ['not_found'],
    },
    results: {
      ...jobs,
      method: 'get',
      path: '/jobs/:id/results',
      summary:
        'Results of a job in input order: one page, or all of them with `Accept: application/x-ndjson`',
      params: jobParams,
      query: resultsQuery,
      answer: resultsSchema,
      alsoAnswers: [{ status: 200, mediaType: 'application/x-ndjson', description: 'OK' }],
      problems: ['not_found', 'results_not_ready'],
    },
    events: {
      ...jobs,
      method: 'get',
      path: '/jobs/:id/events',
      summary: 'Progress of a job as Server-Sent Events, until it has ended',
      params: jobParams,
      answer: jobEventSchema,
      mediaType: 'text/event-stream',
      problems: ['not_found', 'too_many_streams', 'shutting_down'],
    },
    endJob: {
      ...jobs,
      method: 'delete',
      path: '/jobs/:id',
      summary: 'Cancel an unfinished job, or erase a finished one',
      params: jobParams,
      answer: jobSchema,
      alsoAnswers: [{ status: 204, description: 'Erased' }],
      problems: ['not_found'],
    },
    cancelJob: {
      ...jobs,
      method: 'post',
      path: '/jobs/:id/cancel',
      summary: 'Cancel a job; one that has already ended stays as it is',
      params: jobParams,
      answer: jobSchema,
      problems: ['not_found'],
    },
    jobs: {
      ...jobs,
      method: 'get',
      path: '/jobs',
      summary: 'Jobs of the key, newest first',
      query: pageQuery,
      answer: jobsSchema,
      problems: [],
    },
    items: {
      ...about,
      path: '/items/',
      access: 'key',
      summary: "The caller's key",
      answer: itemsSchema,
      problems: [],
    },
    me: {
      ...about,
      path: '/me',
      access: 'key',
      summary: "Scopes of the caller's key, and what remains of its limits",
      answer: accountSchema,
      problems: [],
    },
    models: {
      ...about,
      path: '/models',
      access: 'key',
      summary: 'The configured models, with what live workers report about them',
      answer: modelsSchema,
      problems: [],
    },
    ...probes,
    docs: {
      ...about,
      path: '/docs',
      access: 'open',
      summary: 'This reference as a page',
      answer: z.string(),
      mediaType: 'text/html',
      problems: [],
    },
    openapi: {
      ...about,
      path: '/openapi.json',
      access: 'open',
      summary: 'This reference as OpenAPI 3.1',
      answer: z.record(z.string(), z.unknown()),
      problems: [],
    },
  } as const satisfies Record<string, Route>;
}

export type Routes = ReturnType<typeof routesFor>;

const admin = { access: 'admin', limited: false, mediaType: 'application/json' } as const;

/** The table of routes of the gateway's admin port. */
export const adminRoutes = {
  createKey: {
    ...admin,
    method: 'post',
    path: '/admin/keys',
    summary: 'Create a key; only this response shows it',
    body: createKeyBody,
    success: 201,
    answer: keyWithSecretSchema,
    problems: [],
  },
  keys: {
    ...admin,
    method: 'get',
    path: '/admin/keys',
    summary: 'All keys, also revoked and expired ones, oldest first',
    body: undefined,
    query: pageQuery,
    answer: keysSchema,
    problems: [],
  },
  key: {
    ...admin,
    method: 'get',
    path: '/admin/keys/:id',
    summary: 'One key',
    body: undefined,
    params: keyParams,
    answer: keySchema,
    problems: ['not_found'],
  },
  updateKey: {
    ...admin,
    method: 'patch',
    path: '/admin/keys/:id',
    summary: 'Change the given fields of a key; the next request sees them',
    body: updateKeyBody,
    params: keyParams,
    answer: keySchema,
    problems: ['not_found', 'key_not_live'],
  },
  revokeKey: {
    ...admin,
    method: 'delete',
    path: '/admin/keys/:id',
    summary: 'Revoke a key, at once and permanently. Its unfinished jobs are canceled, its record stays',
    body: undefined,
    params: keyParams,
    answer: keySchema,
    problems: ['not_found'],
  },
  rotateKey: {
    ...admin,
    method: 'post',
    path: '/admin/keys/:id/rotate',
    summary: 'Give a key a new secret; its id, limits and jobs stay',
    body: rotateKeyBody,
    bodyOptional: true,
    params: keyParams,
    answer: keyWithSecretSchema,
    problems: ['not_found', 'key_not_live'],
  },
  keyUsage: {
    ...admin,
    method: 'get',
    path: '/admin/keys/:id/usage',
    summary: 'Usage of a key by day',
    body: undefined,
    params: keyParams,
    answer: usageSchema,
    problems: ['not_found'],
  },
  ...probes,
  openapi: {
    ...about,
    path: '/admin/openapi.json',
    access: 'open',
    summary: 'This reference as OpenAPI 3.1',
    answer: z.record(z.string(), z.unknown()),
    problems: [],
  },
} as const satisfies Record<string, Route>;

export type AdminRoutes = typeof adminRoutes;
