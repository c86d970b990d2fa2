import { availableParallelism } from 'node:os';
import { resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { z } from 'zod';

/** The folder that holds `package.json`, `models/` and, by default, `.sluice/`. */
export const rootFolder = fileURLToPath(new URL('../../../../', import.meta.url));

/** A folder of `models/`, or `owner/name` on the Hub. It names a queue too. */
const MODEL_ID = /^[\w-][\w.-]*(\/[\w-][\w.-]*)?$/;

/** The kinds of weights that transformers.js knows. */
export const modelDtypes = ['auto', 'fp32', 'fp16', 'q8', 'int8', 'uint8', 'q4', 'bnb4', 'q4f16'] as const;

const notesSchema = z.object({
  /** What is counted, or how it is written. */
  unit: z.string(),
  /** One line: what it does. */
  meaning: z.string(),
  /** Shown as the default where the value depends on the machine or is secret. */
  shownDefault: z.string().optional(),
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
const url = (...protocols: string[]) =>
  z.url({
    protocol: new RegExp(`^(${protocols.join('|')})$`),
    error: `not a URL that begins with ${protocols.map((protocol) => `${protocol}://`).join(' or ')}`,
  });

/** A list in one variable; empty when unset. */
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
 * Every environment variable that Sluice reads, with its default. `README.md` and `.env.example` are checked
 * against this table by a test.
 */
export const settingsSchema = z.object({
  PORT: variable(port().default(8000), {
    unit: 'TCP port',
    meaning: 'Where the gateway listens; 0 takes a free one',
  }),
  HOST: variable(z.string().optional(), {
    unit: 'address',
    meaning: 'Address the gateway binds to',
    shownDefault: 'all',
  }),
  TLS_CERT: variable(z.string().optional(), {
    unit: 'PEM file',
    meaning:
      'Certificate, with its chain, to serve HTTPS on `PORT`; goes with `TLS_KEY`; read again when it changes',
    shownDefault: '',
  }),
  TLS_KEY: variable(z.string().optional(), {
    unit: 'PEM file',
    meaning: 'Private key of that certificate',
    shownDefault: '',
  }),
  TRUST_PROXY: variable(list(proxy), {
    unit: 'addresses and networks, separated by commas',
    meaning:
      'Proxies whose `X-Forwarded-For` names the client: `10.0.0.0/8`, `loopback`, `linklocal`, `uniquelocal`; without it the client is whoever connects',
    shownDefault: '',
  }),
  CORS_ORIGINS: variable(list(origin), {
    unit: 'origins, separated by commas',
    meaning: 'Origins whose pages may call the API from a browser, such as `https://app.example.com`, or `*`',
    shownDefault: '',
  }),
  ADMIN_PORT: variable(port().default(9090), {
    unit: 'TCP port',
    meaning:
      'Where the gateway answers `/admin/keys`, `/health` and `/ready` for operators; 0, or a port in use, takes a free one',
  }),
  ADMIN_HOST: variable(z.string().min(1).default('127.0.0.1'), {
    unit: 'address',
    meaning: 'Address that port is bound to',
  }),
  ADMIN_TOKEN: variable(
    z
      .string()
      .regex(/^[\x21-\x7e]{16,256}$/, 'not 16 to 256 printable ASCII characters without spaces')
      .optional(),
    {
      unit: 'token',
      meaning: 'Opens `/admin/keys`, which is off without one; `npm start` makes one when unset',
      shownDefault: '',
    },
  ),
  REDIS_URL: variable(url('redis', 'rediss').default('redis://127.0.0.1:6379'), {
    unit: 'redis:// or rediss:// URL',
    meaning:
      'The Redis (6.2 or later, `noeviction`) that holds everything; `npm start` starts one when unset',
  }),
  MODEL: variable(z.string().regex(MODEL_ID, 'not a model id').default('minilm-l6-sst2'), {
    unit: 'model id',
    meaning: 'Text-classification model: a folder of `models/`, or else an id on the Hugging Face Hub',
  }),
  MODEL_DTYPE: variable(z.enum(modelDtypes).default('q8'), {
    unit: 'transformers.js dtype',
    meaning: "Which of the model's weight files to load",
  }),
  MODEL_REVISION: variable(z.string().min(1).default('main'), {
    unit: 'branch, tag or commit',
    meaning: 'Revision of a model from the Hub',
  }),
  HF_ENDPOINT: variable(url('http', 'https').default('https://huggingface.co'), {
    unit: 'http:// or https:// URL',
    meaning: 'The Hub, or a mirror of it',
  }),
  HF_TOKEN: variable(z.string().optional(), {
    unit: 'token',
    meaning: 'Access to private models on the Hub',
    shownDefault: '',
  }),
  MODEL_PROCESSES: variable(whole(1, 1024).default(availableParallelism()), {
    unit: 'processes',
    meaning: 'Model processes of a worker, one thread each',
    shownDefault: 'one a core',
  }),
  MICRO_BATCH_TEXTS: variable(whole(1, 256).default(8), {
    unit: 'texts',
    meaning: 'Most texts that a model process runs at once',
  }),
  MICRO_BATCH_TOKENS: variable(whole(1, 1_048_576).default(1024), {
    unit: 'tokens, padding included',
    meaning: 'Most tokens that a model process runs at once (a single text may have more)',
  }),
  STALL_SECONDS: variable(seconds().default(2), {
    unit: 'seconds',
    meaning: 'A micro-batch that runs longer is hung: its model process is killed and replaced',
  }),
  REQUEST_TIMEOUT_SECONDS: variable(seconds().default(5), {
    unit: 'seconds',
    meaning: 'Deadline of an interactive request, from the moment its body is read',
  }),
  RATE_LIMIT_REQUESTS: variable(whole(1).default(10), {
    unit: 'requests',
    meaning: 'Most requests of a key in any window, where the key has no limit of its own',
  }),
  RATE_LIMIT_WINDOW_SECONDS: variable(whole(1, 31_536_000).default(60), {
    unit: 'seconds',
    meaning: 'Length of that window',
  }),
  AUTH_FAILURES_PER_MINUTE: variable(whole(1).default(20), {
    unit: 'wrong keys',
    meaning: 'After so many from one address in a minute, further wrong keys get 429',
  }),
  MAX_TEXT_CHARS: variable(whole(1, 10_000_000).default(10_000), {
    unit: 'Unicode characters',
    meaning: 'Longest text',
  }),
  MAX_BODY_BYTES: variable(whole(1024, 1_073_741_824).default(1_048_576), {
    unit: 'bytes, after decompression',
    meaning: 'Largest JSON body',
  }),
  MAX_BATCH_TEXTS: variable(whole(1, 10_000_000).default(100_000), {
    unit: 'texts',
    meaning: 'Largest batch',
  }),
  MAX_BATCH_BYTES: variable(whole(1024, 4_294_967_296).default(67_108_864), {
    unit: 'bytes, after decompression',
    meaning: 'Largest NDJSON batch; a JSON one may have eight times `MAX_BODY_BYTES`',
  }),
  BATCH_TIMEOUT_SECONDS: variable(whole(1, 31_536_000).default(86_400), {
    unit: 'seconds',
    meaning: 'A batch that is not finished so long after it was accepted fails, and keeps the results it has',
  }),
  RESULT_TTL_SECONDS: variable(whole(1, 31_536_000).default(86_400), {
    unit: 'seconds',
    meaning: 'A batch, its texts and its results are gone so long after it ended',
  }),
  PUBLIC_DOCS: variable(boolean().default(true), {
    unit: 'true or false',
    meaning: 'Whether `/docs` and `/openapi.json` are served',
  }),
  WORKER_ADMIN_PORT: variable(port().default(9091), {
    unit: 'TCP port',
    meaning: 'Where a worker answers `/health` and `/ready`; 0, or a port in use, takes a free one',
  }),
  WORKER_ADMIN_HOST: variable(z.string().min(1).default('127.0.0.1'), {
    unit: 'address',
    meaning: 'Address that port is bound to',
  }),
  DATA_DIR: variable(
    z
      .string()
      .default('.sluice')
      .transform((path) => resolve(rootFolder, path)),
    {
      unit: 'folder',
      meaning: 'Development key, downloaded models, and the data of the Redis that `npm start` starts',
    },
  ),
  LOG_LEVEL: variable(
    z.enum(['silent', 'fatal', 'error', 'warn', 'info', 'debug', 'trace']).default('info'),
    {
      unit: 'level',
      meaning: 'Least severe messages that are logged',
    },
  ),
  LOG_FORMAT: variable(z.enum(['json', 'pretty']).default('json'), {
    unit: '`json` or `pretty`',
    meaning: 'How log lines look; `npm start` sets `pretty`',
  }),
  SLUICE_DEV_KEY: variable(
    z
      .string()
      .regex(/^\P{C}{1,256}$/u, 'not 1 to 256 printable characters')
      .optional(),
    {
      unit: 'key',
      meaning: 'The development key that `npm start` registers, instead of one it makes',
      shownDefault: '',
    },
  ),
});

export type Settings = z.infer<typeof settingsSchema>;

/** Exit status of a process whose configuration is wrong (`EX_CONFIG` of sysexits.h): starting it again is no use. */
export const EXIT_CONFIG = 78;

/** A configuration that cannot work; its message names the variable. */
export class SettingsError extends Error {
  override name = 'SettingsError';
}

/**
 * Reads the settings from an environment. An empty value, or a blank one, counts as unset.
 * @throws SettingsError that names each wrong variable and never repeats its value, which may be secret
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
    throw new SettingsError('TLS_CERT, TLS_KEY: set both or none');
  }
  throw new SettingsError(
    parsed.error.issues.map(({ path, message }) => `${String(path[0])}: ${message}`).join('; '),
  );
}

/** One row of the configuration table. */
export interface SettingRow extends Pick<VariableNotes, 'unit' | 'meaning'> {
  name: string;
  default: string;
}

/** The settings as rows for the documentation, in order. */
export function settingRows(): SettingRow[] {
  const defaults: Record<string, unknown> = { ...readSettings({}), DATA_DIR: '.sluice' };
  return Object.entries(settingsSchema.shape).map(([name, schema]) => {
    const { unit, meaning, shownDefault } = notesSchema.parse(schema.meta());
    return { name, unit, meaning, default: shownDefault ?? String(defaults[name]) };
  });
}
