import { spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type Answer, type Env, post, Rig, root } from '../harness.js';

export type Body = Answer['body'];

export const folder = join(root, 'tests/clients');
export const TEXTS = ['A fine day', 'Ágnes lives in Zürich', '不错 👍'];

/** Installs the clients, if they are not yet what their lock file says. */
export function installClients(): void {
  mkdirSync(join(folder, '.run'), { recursive: true });
  const lock = readFileSync(join(folder, 'package-lock.json'), 'utf8');
  const installed = join(folder, '.run/installed-lock.json');
  if (existsSync(installed) && readFileSync(installed, 'utf8') === lock) return;
  const { status } = spawnSync('npm', ['ci', '--no-audit', '--no-fund'], { cwd: folder, stdio: 'inherit' });
  if (status !== 0) throw new Error('The clients of tests/clients could not be installed');
  writeFileSync(installed, lock);
}

/** Installs Python packages, in the versions of requirements.txt; returns the interpreter that has them. */
export function installPython(packages: readonly string[]): string {
  const python = join(folder, '.venv/bin/python');
  const run = (command: string, ...args: string[]) => {
    const { status } = spawnSync(command, args, { stdio: 'inherit' });
    if (status !== 0) throw new Error(`${command} ${args.join(' ')} failed`);
  };
  if (!existsSync(python)) run('python3', '-m', 'venv', join(folder, '.venv'));
  const pinned = readFileSync(join(folder, 'requirements.txt'), 'utf8').trim().split('\n');
  run(
    python,
    '-m',
    'pip',
    'install',
    '-q',
    ...pinned.filter((line) => packages.includes(line.split('==')[0] ?? '')),
  );
  return python;
}

const tiny = (name: string, task: string, aliases: string[] = []) => ({
  id: name,
  aliases,
  task,
  source: join(root, 'tests/reference/models', name),
  dtype: 'fp32',
  processes: 1,
});

/** Sluice with a model for each task, for scripts that use clients of other APIs. */
export class ClientRig {
  private constructor(
    readonly rig: Rig,
    readonly url: string,
    readonly adminUrl: string,
    readonly key: string,
    /** A key with one request in two seconds. */
    readonly limited: string,
  ) {}

  static async start(settings: Env = {}): Promise<ClientRig> {
    const rig = await Rig.start();
    const env = {
      ...settings,
      ...rig.models([
        // The aliases are what the examples of docs/clients name.
        tiny('bert-mean', 'feature-extraction', ['all-minilm-l6-v2']),
        tiny('bert-multi-label', 'text-classification', ['moderation']),
        tiny('bert-labels', 'text-classification', ['minilm-l6-sst2']),
        tiny('roberta-rank', 'text-ranking', ['rerank']),
        tiny('bert-entities', 'token-classification', ['entities']),
        tiny('roberta-nli', 'zero-shot-classification'),
      ]),
      MAX_BODY_BYTES: '65536',
    };
    const [{ app, url }, key, limited] = await Promise.all([
      rig.gateway(env),
      rig.key(),
      rig.key({ limits: [{ limit: 1, windowSeconds: 2 }] }),
      rig.worker(env),
    ]);
    const adminUrl = `http://127.0.0.1:${(await app.ready()).adminPort}`;
    return new ClientRig(rig, url, adminUrl, key, limited);
  }

  /** Runs a script in the folder of the clients; resolves to its output. */
  async run(command: string, args: readonly string[]): Promise<string> {
    const child = spawn(command, args, {
      cwd: folder,
      env: {
        PATH: process.env.PATH,
        HOME: process.env.HOME,
        SLUICE_URL: this.url,
        SLUICE_API_KEY: this.key,
        LIMITED_KEY: this.limited,
        TEXTS: JSON.stringify(TEXTS),
      },
    });
    let output = '';
    let errors = '';
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      output += text;
    });
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      errors += text;
    });
    const code = await new Promise((resolve) => child.once('close', resolve));
    if (code !== 0) throw new Error(`${args.join(' ')} ended with ${code}:\n${errors}\n${output}`);
    return output;
  }

  /** The calls that a script has made, by `<client>: <name>`. */
  async calls(command: string, args: readonly string[]): Promise<Record<string, Body>> {
    const lines = (await this.run(command, args)).trim().split('\n');
    return Object.fromEntries(
      lines
        .map((line) => JSON.parse(line))
        .map(({ client, name, ...outcome }) => [`${client}: ${name}`, outcome]),
    );
  }

  /** What the model gives for inputs. */
  async outputsOf(model: string, inputs: unknown, parameters = {}): Promise<Body> {
    return (await post(`${this.url}/models/${model}`, this.key, { inputs, parameters })).body;
  }

  /** The examples of a page of docs/clients in a language, for this server. */
  examplesOf(page: string, language: string): string[] {
    mkdirSync(join(folder, '.run'), { recursive: true });
    writeFileSync(join(folder, '.run/requests.jsonl'), readFileSync(join(folder, 'requests.jsonl')));
    return examplesIn(page, language).map((code) =>
      code
        .replaceAll('http://localhost:8000', this.url)
        .replaceAll('your-secret-key', this.key)
        .replaceAll('requests.jsonl', '.run/requests.jsonl'),
    );
  }

  close(): Promise<void> {
    return this.rig.close();
  }
}

/** The examples of a page of docs/clients in a language, as they are there. */
export function examplesIn(page: string, language: string): string[] {
  const text = readFileSync(join(root, 'docs/clients', page), 'utf8');
  return [...text.matchAll(new RegExp(`\`\`\`${language}\\n([\\s\\S]*?)\`\`\``, 'g'))].map(
    ([, code = '']) => code,
  );
}

export const pages = readdirSync(join(root, 'docs/clients')).filter(
  (file) => file.endsWith('.md') && file !== 'README.md',
);

export const float32 = (vectors: readonly (readonly number[])[]) =>
  vectors.map((vector) => Array.from(Float32Array.from(vector)));
