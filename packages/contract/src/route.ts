import type { TaskName } from '@sluice/tasks';
import type * as z from 'zod';
import type { Scope } from './account.js';
import { type ErrorFacts, type ProblemCode, problems } from './problem.js';

/** Errors of a family of routes. */
export interface FamilyErrors {
  schema: z.ZodType;
  /** Statuses that differ from those of {@link problems}. */
  statuses: Partial<Record<ProblemCode, number>>;
  /** The body of an error, of the schema. */
  body: (error: ErrorFacts) => object;
}

/** The status of an error on a route. */
export const statusOf = (errors: Pick<FamilyErrors, 'statuses'> | undefined, code: ProblemCode): number =>
  errors?.statuses[code] ?? problems[code].status;

/** One entry of the table that mounts the routes, validates requests, types handlers and generates the OpenAPI document. */
export interface Route {
  method: 'get' | 'post' | 'patch' | 'delete';
  path: string;
  summary: string;
  /** `open` needs no key, `key` any valid key, a scope a key with that scope, `admin` the admin token. */
  access: 'open' | 'key' | 'admin' | Scope;
  /** Whether a request uses a slot of the key's rate limit. */
  limited: boolean;
  /** Schema of the JSON body, if the route takes one. */
  body: z.ZodType | undefined;
  /** Media type of the body; JSON if not given. */
  bodyType?: string;
  /** Whether a request without a body is the same as one with `{}`. */
  bodyOptional?: boolean;
  /** Schema of a line of NDJSON, for the document. */
  line?: z.ZodType;
  /** Header fields that the route reads, for the document. */
  headers?: z.ZodObject;
  /** Whether the body may hold many inputs, and be larger than another one. */
  largeBody?: boolean;
  /**
   * The task of the models that the route runs, unless its path names the model. During overload such requests are refused
   * before they take a slot.
   */
  task?: TaskName;
  /** Whether the handler reads the body itself as a stream; it may also be NDJSON. */
  upload?: boolean;
  /** Schema of the path parameters, if there are any. Other values get 404. */
  params?: z.ZodObject;
  /** Schema of the query, if the route reads one. */
  query?: z.ZodObject;
  /** Status of a successful response; 200 if not given. */
  success?: 201 | 202;
  /** Schema of that response. */
  answer: z.ZodType;
  /** Media type of that response. */
  mediaType: string;
  /** Other media types and successful responses of the route. */
  alsoAnswers?: readonly { status: number; mediaType?: string; description: string }[];
  /** How errors of the route's family differ from problems (RFC 9457). */
  errors?: FamilyErrors;
  /** Group in the reference, if not by what the request costs. */
  tag?: string;
  /** The field of a body by which the route is chosen, if another family has a route with the same path. */
  ownField?: string;
  /** Whether a path belongs to this route; if not, a route with a more general path may take it. */
  takes?: (params: Readonly<Record<string, unknown>>) => boolean;
  /** Errors of the route itself; {@link problemsOf} adds those of keys, limits and bodies. */
  problems: readonly ProblemCode[];
}

/** Routes that make a model work. */
export const work = {
  method: 'post',
  access: 'predict',
  limited: true,
  mediaType: 'application/json',
} as const;
/** Routes that tell about the server or the caller. */
export const about = {
  method: 'get',
  limited: false,
  body: undefined,
  mediaType: 'application/json',
} as const;
/** Routes about jobs. */
export const jobs = {
  limited: false,
  access: 'batch',
  body: undefined,
  mediaType: 'application/json',
} as const;
/** Errors of every route that makes a model work. */
export const workProblems = [
  'cost_over_limit',
  'analysis_timed_out',
  'analysis_failed',
  'no_worker',
  'overloaded',
  'storage_full',
] as const;

const bodyProblems = [
  'invalid_json',
  'invalid_encoding',
  'body_too_large',
  'unsupported_media_type',
  'validation_failed',
] as const;

/** Every error code of a route, in the order of the checks that a request passes. */
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
    codes.push('rate_limited');
  }
  if (route.limited) codes.push('shutting_down');
  if (route.body) codes.push(...bodyProblems);
  else if (route.query) codes.push('validation_failed');
  codes.push(...route.problems, 'internal_error');
  return [...new Set(codes)];
}
