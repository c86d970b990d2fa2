import { resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { suppliedKeySchema } from '@sluice/contract';
import * as z from 'zod';
import { namesSeveralServers, parseSeveralServers } from '../redis/url.js';
import { usableProcessors } from './processors.js';

/** Whether Sluice was installed as a package, and not cloned. */
const isInstalled = import.meta.url.includes('/node_modules/');

/**
 * The folder of the program and of the models that come with it. In the package this file is in
 * `node_modules/@sluice/shared/dist/config`, in a clone in `packages/shared/dist/config`.
 */
export const packageFolder = fileURLToPath(
  new URL(isInstalled ? '../../../../../' : '../../../../', import.meta.url),
);

/** The folder of the user's `.env`, `models.json` and `models/`, and by default of `.sluice/`. */
export const rootFolder = isInstalled ? process.cwd() : packageFolder;

/** The id or alias of a model. It is part of the names of queues and keys in Redis. */
export const modelIdSchema = z
  .string()
  .max(200)
  .regex(/^[\w-][\w.-]*(\/[\w-][\w.-]*)?$/, 'not a model id, such as my-model or owner/name');

/** The types of weights that transformers.js supports. */
export const dtypeSchema = z.enum(['fp32', 'fp16', 'q8', 'int8', 'uint8', 'q4', 'q4f16', 'bnb4']);
export type Dtype = z.infer<typeof dtypeSchema>;

const notesSchema = z.object({
  /** What is counted, or the format. */
  unit: z.string(),
  /** One line: what the setting does. */
  meaning: z.string(),
  /** Shown instead of a default that depends on the machine or is secret. */
  shownDefault: z.string().optional(),
  /** Whether errors must not show its value. */
  secret: z.boolean().optional(),
});
type VariableNotes = z.infer<typeof notesSchema>;

function variable<T extends z.ZodType>(schema: T, notes: VariableNotes): T {
  return schema.meta({ ...notes });
}

const whole = (min: number, max = Number.MAX_SAFE_INTEGER) =>
  z.string().regex(/^\d+$/, 'not a whole number').transform(Number).pipe(z.number().min(min).max(max));
const seconds = () =>
  z
    .string()
    .regex(/^\d+(\.\d+)?$/, 'not a number')
    .transform(Number)
    .pipe(z.number().min(0.1).max(3600));
const port = () => whole(0, 65_535);
const boolean = () => z.stringbool({ truthy: ['true', '1'], falsy: ['false', '0'], case: 'sensitive' });
/** British English has no comma before "or". */
const OR = new Intl.ListFormat('en-GB', { type: 'disjunction' });
/** @param listed protocols that the error lists, if it lists more than `protocols` */
const url = (protocols: readonly string[], listed = protocols) =>
  z.url({
    protocol: new RegExp(`^(${protocols.join('|')})$`),
    error: ({ input }) =>
      protocols.some((protocol) => String(input).toLowerCase().startsWith(`${protocol}://`))
        ? 'not a valid URL; check the part after ://'
        : `not a URL that begins with ${OR.format(listed.map((protocol) => `${protocol}://`))}`,
    abort: true,
  });

function isPercentEncoded(text: string): boolean {
  try {
    decodeURIComponent(text);
    return true;
  } catch {
    return false;
  }
}

/** A Redis URL. What ioredis and `new URL` would silently misread is refused. */
const redisUrl = () =>
  z.string().superRefine((text, context) => {
    const refuse = (message: string) => context.addIssue({ code: 'custom', message });
    if (!namesSeveralServers(text)) {
      const [issue] = serverUrl.safeParse(text).error?.issues ?? [];
      if (issue) refuse(issue.message);
      return;
    }
    try {
      parseSeveralServers(text);
    } catch (error) {
      refuse(error instanceof Error ? error.message : String(error));
    }
  });

const SERVER_PROTOCOLS = ['redis', 'rediss', 'unix'];

/** The URL of one server or socket. */
const serverUrl = z
  .string()
  .refine((text) => !/^[^:]*:\/\/[^@]*[\s"\\/?#@].*@/s.test(text), {
    error: 'a special character in the user name or password; write it percent-encoded, such as %2F for /',
    abort: true,
  })
  .refine((text) => !/^unix:\/\/[^/]*@\//.test(text), {
    error: 'a password of a Unix socket needs a host, as in unix://:password@localhost/run/redis/redis.sock',
    abort: true,
  })
  .pipe(url(SERVER_PROTOCOLS, [...SERVER_PROTOCOLS, 'redis+sentinel', 'redis+cluster']))
  .refine((text) => [new URL(text).username, new URL(text).password].every(isPercentEncoded), {
    error: 'a % in the user name or password that encodes nothing; write %25 for %',
    abort: true,
  })
  .superRefine((text, context) => {
    const { protocol, host, pathname, searchParams } = new URL(text);
    const options = [...searchParams.keys()];
    const refuse = (message: string) => context.addIssue({ code: 'custom', message });
    if (protocol === 'unix:') {
      if (!['', 'localhost'].includes(host) || ['', '/'].includes(pathname) || !isPercentEncoded(pathname))
        refuse('not the path of a socket, such as unix:///run/redis/redis.sock');
      else if (options.some((name) => name !== 'db') || !/^\d*$/.test(searchParams.get('db') ?? ''))
        refuse('an option after "?" other than db=<number>');
    } else if (!/^(\/\d*)?$/.test(pathname)) refuse('the path is not a database number such as /0');
    else if (options.some((name) => name !== 'family') || !/^[46]?$/.test(searchParams.get('family') ?? ''))
      refuse(
        'an option after "?" other than family=4 or family=6; the password and the database have their places before it',
      );
  });

/** A comma-separated list; empty when unset. */
const list = (entry: z.ZodType<string, string>) =>
  z
    .string()
    .default('')
    .transform((text) => text.split(',').flatMap((part) => part.trim() || []))
    .pipe(z.array(entry));
const proxy = z.union(
  [z.enum(['loopback', 'linklocal', 'uniquelocal']), z.ipv4(), z.ipv6(), z.cidrv4(), z.cidrv6()],
  'not an address, a network such as 10.0.0.0/8, loopback, linklocal or uniquelocal',
);
const origin = z
  .string()
  .refine(
    (text) => text === '*' || (URL.canParse(text) && new URL(text).origin === text),
    'not an origin such as https://app.example.com (scheme, host and port, no slash at the end) or *',
  );

/**
 * Every environment variable that Sluice reads, with its default. A test checks `docs/configuration.md` and `.env.example` against
 * this table.
 */
export const settingsSchema = z.object({
  PORT: variable(port().default(8000), {
    unit: 'TCP port',
    meaning: 'Port of the gateway; 0 takes a free one',
  }),
  HOST: variable(z.string().optional(), {
    unit: 'address',
    meaning: 'Address that the gateway binds to; `npm start` binds 127.0.0.1 when unset',
    shownDefault: 'all',
  }),
  TLS_CERT: variable(z.string().optional(), {
    unit: 'PEM file',
    meaning:
      'Certificate with its chain, to serve HTTPS on `PORT`; requires `TLS_KEY`; reloaded when the file changes',
    shownDefault: '',
  }),
  TLS_KEY: variable(z.string().optional(), {
    unit: 'PEM file',
    meaning: 'Private key of the certificate',
    shownDefault: '',
  }),
  TRUST_PROXY: variable(list(proxy), {
    unit: 'addresses and networks, comma-separated',
    meaning:
      'Proxies whose `X-Forwarded-For` is trusted, such as `10.0.0.0/8`, `loopback`, `linklocal`, `uniquelocal`; without it the client is the address that connects',
    shownDefault: '',
  }),
  CORS_ORIGINS: variable(list(origin), {
    unit: 'origins, comma-separated',
    meaning: 'Origins whose pages may call the API from a browser, such as `https://app.example.com`, or `*`',
    shownDefault: '',
  }),
  ADMIN_PORT: variable(port().default(9090), {
    unit: 'TCP port',
    meaning:
      'Admin port of the gateway (`/admin/keys`, `/admin/jobs`, `/metrics`, `/health`, `/ready`); 0, or a port in use, takes a free one',
  }),
  ADMIN_HOST: variable(z.string().min(1).default('127.0.0.1'), {
    unit: 'address',
    meaning: 'Address that the admin port binds to',
  }),
  ADMIN_TOKEN: variable(
    z
      .string()
      .regex(/^[\x21-\x7e]{16,256}$/, 'not 16 to 256 printable ASCII characters without spaces')
      .optional(),
    {
      unit: 'token',
      meaning:
        'Token for `/admin/keys` and `/admin/jobs`, which are disabled without one; `npm start` generates one when unset',
      shownDefault: '',
      secret: true,
    },
  ),
  REDIS_URL: variable(redisUrl().default('redis://127.0.0.1:6379'), {
    unit: 'redis://, rediss://, unix://, redis+sentinel:// or redis+cluster:// URL',
    meaning:
      'Where Redis is (6.2 or later, `noeviction`); docs/redis.md lists the forms. `npm start` starts a Redis when unset',
    secret: true,
  }),
  MODELS_FILE: variable(
    z
      .string()
      .transform((path) => resolve(rootFolder, path))
      .optional(),
    {
      unit: 'JSON file',
      meaning: 'File that lists the models, as docs/models.md describes',
      shownDefault: 'models.json',
    },
  ),
  WORKER_MODELS: variable(list(modelIdSchema), {
    unit: 'model ids, comma-separated',
    meaning: 'The models that this worker serves, of those that are configured',
    shownDefault: 'all',
  }),
  MODEL: variable(modelIdSchema.optional(), {
    unit: 'model id',
    meaning:
      'One text-classification model instead of `models.json`: a folder of `models/`, or an id on the Hugging Face Hub; not with `MODELS_FILE`',
    shownDefault: '',
  }),
  MODEL_DTYPE: variable(dtypeSchema.optional(), {
    unit: 'transformers.js dtype',
    meaning: 'Type of the weights of `MODEL`',
    shownDefault: 'q8',
  }),
  MODEL_REVISION: variable(z.string().min(1).optional(), {
    unit: 'branch, tag or commit',
    meaning: 'Revision of `MODEL` on the Hub',
    shownDefault: 'main',
  }),
  HF_ENDPOINT: variable(url(['http', 'https']).default('https://huggingface.co'), {
    unit: 'http:// or https:// URL',
    meaning: 'The Hugging Face Hub, or a mirror of it',
  }),
  HF_TOKEN: variable(z.string().optional(), {
    unit: 'token',
    meaning: 'Access token for private models on the Hub',
    shownDefault: '',
    secret: true,
  }),
  MODEL_PROCESSES: variable(whole(1, 1024).default(usableProcessors()), {
    unit: 'processes',
    meaning:
      'Processes of each model in a worker, with one thread each; `models.json` can set it for a model',
    shownDefault: 'one per core that the process may use',
  }),
  MICRO_BATCH_TEXTS: variable(whole(1, 256).default(8), {
    unit: 'texts',
    meaning: 'Maximum number of texts (rows) that a model process runs at once',
  }),
  MICRO_BATCH_TOKENS: variable(whole(1, 1_048_576).default(1024), {
    unit: 'tokens, padding included',
    meaning: 'Maximum number of tokens that a model process runs at once; a single text may have more',
  }),
  STALL_SECONDS: variable(seconds().default(2), {
    unit: 'seconds',
    meaning:
      'Minimum time after which a run counts as hung, and its model process is killed and replaced; more for a slow model, and at most 40 % of the timeout in a request',
  }),
  REQUEST_TIMEOUT_SECONDS: variable(seconds().default(5), {
    unit: 'seconds',
    meaning: 'Deadline of an interactive request, counted from when its body has been read',
  }),
  BULK_REQUEST_TIMEOUT_SECONDS: variable(seconds().default(60), {
    unit: 'seconds',
    meaning: 'Deadline of a request with more than 128 rows',
  }),
  DRAIN_SECONDS: variable(whole(2, 3_600).default(25), {
    unit: 'seconds',
    meaning:
      'Maximum time from SIGTERM to the exit of a process. Work that is not finished by then is answered with 503 (gateway) or returned to the queue (worker). The supervisor must wait longer before it kills the process, such as `terminationGracePeriodSeconds: 30`',
  }),
  RATE_LIMIT_REQUESTS: variable(whole(1).default(10), {
    unit: 'requests',
    meaning: 'Default rate limit: maximum number of requests of a key in any window',
  }),
  RATE_LIMIT_WINDOW_SECONDS: variable(whole(1, 31_536_000).default(60), {
    unit: 'seconds',
    meaning: 'Length of the window of that rate limit',
  }),
  READ_LIMIT_REQUESTS: variable(whole(1).default(600), {
    unit: 'requests per minute',
    meaning:
      'Maximum number of requests of a key that use no slot of its rate limit: reading, canceling and deleting jobs, batches and files; `/tokenize`; the key and the models',
  }),
  MAX_STREAMS: variable(whole(1).default(100), {
    unit: 'streams',
    meaning: 'Maximum number of streams of events that a key may hold at once',
  }),
  AUTH_FAILURES_PER_MINUTE: variable(whole(1).default(20), {
    unit: 'failures',
    meaning: 'After this many failed authentications from one address in a minute, further ones get 429',
  }),
  MAX_TEXT_CHARS: variable(whole(1, 10_000_000).default(10_000), {
    unit: 'Unicode characters',
    meaning: 'Maximum length of a text',
  }),
  MAX_INPUTS: variable(whole(1, 100_000).default(2_048), {
    unit: 'inputs',
    meaning: 'Maximum number of inputs of a request, of its rows, and of the rows of an input of a job',
  }),
  MAX_BODY_BYTES: variable(whole(1024, 1_073_741_824).default(1_048_576), {
    unit: 'bytes, after decompression',
    meaning:
      'Maximum size of a JSON body; eight times this for jobs, `/models/<id>` and the routes of other APIs that take many inputs',
  }),
  MAX_BATCH_TEXTS: variable(whole(1, 10_000_000).default(100_000), {
    unit: 'texts',
    meaning: 'Maximum number of texts in a job',
  }),
  MAX_BATCH_BYTES: variable(whole(1024, 4_294_967_296).default(67_108_864), {
    unit: 'bytes, after decompression',
    meaning: 'Maximum size of an NDJSON upload; a JSON upload may have eight times `MAX_BODY_BYTES`',
  }),
  BATCH_TIMEOUT_SECONDS: variable(whole(1, 31_536_000).default(86_400), {
    unit: 'seconds',
    meaning: 'A job that is not finished this long after it was accepted fails; it keeps the results it has',
  }),
  MAX_FILE_BYTES_PER_KEY: variable(whole(1024, 1_099_511_627_776).default(268_435_456), {
    unit: 'bytes',
    meaning: 'Maximum total size of the uploaded files of a key',
  }),
  FILE_TTL_SECONDS: variable(whole(1, 31_536_000).default(86_400), {
    unit: 'seconds',
    meaning:
      'An uploaded file is deleted this long after its upload, or after the last batch made from it ended',
  }),
  WEBHOOK_ALLOW_PRIVATE: variable(boolean().default(false), {
    unit: 'true or false',
    meaning:
      'Whether webhooks may go to addresses of private networks, and by `http:`; for tests and networks you trust',
  }),
  WEBHOOK_RETRY_SECONDS: variable(
    z
      .string()
      .default('5,30,120,600,1800,3600,7200,14400,28800,28800')
      .transform((text) => (text.trim() === '' ? [] : text.split(',').map(Number)))
      .pipe(
        z
          .array(z.number('must be numbers separated by commas, such as 5,30,120').min(0).max(86_400))
          .max(100),
      ),
    {
      unit: 'seconds, comma-separated',
      meaning: 'Pauses between the attempts to deliver a webhook',
    },
  ),
  RESULT_TTL_SECONDS: variable(whole(1, 31_536_000).default(86_400), {
    unit: 'seconds',
    meaning: 'A job, its texts and its results are deleted this long after it ended',
  }),
  PUBLIC_DOCS: variable(boolean().default(true), {
    unit: 'true or false',
    meaning: 'Whether the playground (`/`), `/docs` and `/openapi.json` are served',
  }),
  WORKER_ADMIN_PORT: variable(port().default(9091), {
    unit: 'TCP port',
    meaning:
      'Admin port of a worker (`/metrics`, `/health`, `/ready`); 0, or a port in use, takes a free one',
  }),
  WORKER_ADMIN_HOST: variable(z.string().min(1).default('127.0.0.1'), {
    unit: 'address',
    meaning: 'Address that the admin port binds to',
  }),
  DATA_DIR: variable(
    z
      .string()
      .default('.sluice')
      .transform((path) => resolve(rootFolder, path)),
    {
      unit: 'folder',
      meaning:
        'Folder for the development key, downloaded models, and the data of the Redis server that `npm start` starts',
    },
  ),
  METRICS_BY_KEY: variable(boolean().default(false), {
    unit: 'true or false',
    meaning:
      'Whether the metrics of requests are divided by the id of the key (`key_id`); each key adds about 20 series for each route and status',
  }),
  LOG_LEVEL: variable(
    z.enum(['silent', 'fatal', 'error', 'warn', 'info', 'debug', 'trace']).default('info'),
    {
      unit: 'level',
      meaning: 'Minimum severity of log lines',
    },
  ),
  LOG_FORMAT: variable(z.enum(['json', 'pretty']).default('json'), {
    unit: '`json` or `pretty`',
    meaning: 'Format of log lines; `npm start` in a terminal sets `pretty`',
  }),
  SLUICE_DEV_KEY: variable(suppliedKeySchema.optional(), {
    unit: 'key',
    meaning:
      'Development key that `npm start` registers instead of generating one: 12 to 256 printable ASCII characters without spaces',
    shownDefault: '',
    secret: true,
  }),
});

export type Settings = z.infer<typeof settingsSchema>;

/** Exit status for a wrong configuration (`EX_CONFIG` of sysexits.h): a restart cannot help. */
export const EXIT_CONFIG = 78;

/** A wrong configuration; the message names the variable. */
export class SettingsError extends Error {
  override name = 'SettingsError';
}

/**
 * Reads the settings from an environment. An empty or blank value counts as unset.
 * @throws SettingsError that names each wrong variable, with its value unless that is secret
 */
export function readSettings(env: Readonly<Record<string, string | undefined>>): Settings {
  const given = Object.fromEntries(
    Object.keys(settingsSchema.shape).flatMap((name) => {
      const value = env[name]?.trim();
      return value ? [[name, value]] : [];
    }),
  );
  const parsed = settingsSchema.safeParse(given);
  if (parsed.success) {
    const { TLS_CERT, TLS_KEY } = parsed.data;
    if ((TLS_CERT === undefined) === (TLS_KEY === undefined)) return parsed.data;
    throw new SettingsError('TLS_CERT, TLS_KEY: set both or neither');
  }
  throw new SettingsError(
    parsed.error.issues.map(({ path, message }) => wrongSetting(String(path[0]), message, given)).join('; '),
  );
}

/** Characters of a wrong value that an error shows. */
const MAX_SHOWN = 80;

function wrongSetting(name: string, message: string, given: Readonly<Record<string, string>>): string {
  const schema = Object.entries(settingsSchema.shape).find(([known]) => known === name)?.[1];
  const isSecret = notesSchema.safeParse(schema?.meta()).data?.secret;
  const value = given[name];
  return isSecret || value === undefined
    ? `${name}: ${message}`
    : `${name}: ${message}: "${value.slice(0, MAX_SHOWN)}"`;
}

/** Documentation of one setting. */
export interface SettingDoc extends Pick<VariableNotes, 'unit' | 'meaning'> {
  name: string;
  default: string;
}

/** Documentation of all settings, in order. */
export function settingDocs(): SettingDoc[] {
  const defaults: Record<string, unknown> = { ...readSettings({}), DATA_DIR: '.sluice' };
  return Object.entries(settingsSchema.shape).map(([name, schema]) => {
    const { unit, meaning, shownDefault } = notesSchema.parse(schema.meta());
    return { name, unit, meaning, default: shownDefault ?? String(defaults[name]) };
  });
}
