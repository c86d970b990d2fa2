import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { describe, expect, test } from '@jest/globals';
import { settingDocs, settingsSchema } from '@sluice/shared';
import Ajv from 'ajv';
import { parse } from 'yaml';
import { root, until } from './harness.js';

const read = (file: string) => readFileSync(join(root, file), 'utf8');

test('docker-compose.yml is valid by the Compose Specification', () => {
  // ajv does not know the schema's address of its draft, but uses the same draft by default.
  const { $schema, ...schema } = JSON.parse(read('node_modules/dclint/schemas/compose.schema.json'));
  const validate = new Ajv.default({ strict: false, validateFormats: false }).compile(schema);
  const compose = parse(read('docker-compose.yml'), { merge: true });
  // Anchors may be anywhere under x-, whose contents the specification does not define.
  expect(validate(compose) ? [] : validate.errors).toEqual([]);
  expect(validate({ ...compose, services: { redis: { imagee: 'redis' } } })).toBe(false);
});

test('docker-compose.yml runs existing files with existing settings', () => {
  const { services } = parse(read('docker-compose.yml'), { merge: true });
  const known = new Set([...Object.keys(settingsSchema.shape), 'NODE_OPTIONS']);
  const isKnown = (variable: string) => known.has(variable) || variable.startsWith('GF_');
  for (const [name, service] of Object.entries<{
    image: string;
    command: string[];
    environment?: object;
    restart: string;
  }>(services)) {
    for (const variable of Object.keys(service.environment ?? {}))
      expect([variable, isKnown(variable)]).toEqual([variable, true]);
    // Images of others.
    if (service.image !== 'sluice') continue;
    expect(service.restart === 'unless-stopped' || name === 'keys').toBe(true);
    const [program, main = ''] = service.command;
    expect(program).toBe('node');
    expect(() => read(main)).not.toThrow();
  }
  expect(read('Dockerfile')).toMatch(/^USER node$/m);
});

test('docker-compose.yml checks the admin ports, which do not speak TLS, and mounts certificates where they are read', () => {
  const { gateway, worker } = parse(read('docker-compose.yml'), { merge: true }).services;
  expect(gateway.healthcheck.test.join(' ')).toContain(
    `http://127.0.0.1:${gateway.environment.ADMIN_PORT}/ready`,
  );
  expect(worker.healthcheck.test.join(' ')).toContain(
    `http://127.0.0.1:${worker.environment.WORKER_ADMIN_PORT}/ready`,
  );
  for (const setting of ['TLS_CERT', 'TLS_KEY']) {
    const [, path] = new RegExp(`^\\$\\{${setting}:\\+(.+)\\}$`).exec(gateway.environment[setting]) ?? [];
    expect(gateway.volumes).toContain(`\${${setting}:-/dev/null}:${path}:ro`);
  }
});

describe('the entrypoint of the image', () => {
  const start = (...command: string[]) => {
    const child = spawn(join(root, 'scripts/container.sh'), command, {
      cwd: root,
      stdio: 'pipe',
    });
    let output = '';
    for (const stream of [child.stdout, child.stderr])
      stream.on('data', (data) => {
        output += data;
      });
    return { child, output: () => output, ended: once(child, 'close') };
  };

  test.each([0, 1, 7])('ends with the exit status of the app: %s', async (status) => {
    const { ended } = start('sh', '-c', `exit ${status}`);
    expect(await ended).toEqual([status, null]);
  });

  test('passes standard input on', async () => {
    const { child, output, ended } = start('cat');
    child.stdin.end('a text');
    await ended;
    expect(output()).toBe('a text');
  });

  test('passes SIGTERM on and waits for the drain', async () => {
    const { child, output, ended } = start(
      process.execPath,
      '-e',
      `process.on('SIGTERM', () => setTimeout(() => { console.log('drained'); process.exit(3); }, 300));
       console.log('started');
       setInterval(() => {}, 1_000);`,
    );
    await until('it has started', () => output().includes('started'));
    child.kill('SIGTERM');
    expect(await ended).toEqual([3, null]);
    expect(output()).toContain('drained');
  });

  test('waits after exit status 78, until it is stopped', async () => {
    const { child, output, ended } = start('sh', '-c', 'echo REDIS_URL: wrong; exit 78');
    await until('it waits', () => output().includes('Waiting to be stopped'));
    expect(child.exitCode).toBeNull();
    child.kill('SIGTERM');
    expect(await ended).toEqual([78, null]);
  });
});

test('the Dockerfile copies the manifest of every workspace before it installs', () => {
  const { workspaces } = JSON.parse(read('package.json'));
  const [beforeInstall = ''] = read('Dockerfile').split('npm ci');
  for (const folder of workspaces) expect(beforeInstall).toContain(`COPY ${folder}/package.json ${folder}/`);
});

test('the build context of the image has what the Dockerfile copies, and the scripts have what they import', () => {
  const copied = [...read('Dockerfile').matchAll(/^COPY (?!--from)(.+) \S+$/gm)].flatMap(([, paths = '']) =>
    paths.split(' '),
  );
  expect(copied.length).toBeGreaterThan(10);
  const kept = [...read('.dockerignore').matchAll(/^!(.+)$/gm)].map(([, path]) => path ?? '');
  for (const path of copied)
    expect([path, kept.some((entry) => path === entry || path.startsWith(`${entry}/`))]).toEqual([
      path,
      true,
    ]);
  for (const script of copied.filter((path) => path.endsWith('.mjs')))
    for (const [, module] of read(script).matchAll(/ from '\.\/(.+)';$/gm))
      expect(copied).toContain(`scripts/${module}`);
});

test('docs/configuration.md matches the schema', () => {
  const rows = settingDocs().map(
    (row) =>
      `| \`${row.name}\` | ${row.default === '' ? '' : `\`${row.default}\``} | ${row.unit} | ${row.meaning} |`,
  );
  const [, table] =
    /<!-- settings -->\n\n([\s\S]+?)\n\n<!-- \/settings -->/.exec(read('docs/configuration.md')) ?? [];
  expect(table?.split('\n')).toEqual([
    '| variable | default | unit | meaning |',
    '| --- | --- | --- | --- |',
    ...rows,
  ]);
});

test('.env.example matches the schema', () => {
  const blocks = settingDocs().map((row) => {
    // A default that depends on the machine or the operator is left empty.
    const value = row.name in defaults() ? row.default : '';
    return `# ${row.meaning} (${row.unit}${value === '' && row.default !== '' ? `; default: ${row.default}` : ''})\n#${row.name}=${value}`;
  });
  expect(read('.env.example').trim().split('\n\n').slice(1)).toEqual(blocks);
});

/** The variables whose default is in the schema. */
function defaults(): Record<string, unknown> {
  return Object.fromEntries(
    Object.entries(settingsSchema.shape)
      .filter(([, schema]) => !(schema.meta() as { shownDefault?: string }).shownDefault)
      .map(([name]) => [name, true]),
  );
}

test('each test that SECURITY.md names exists', () => {
  const { stdout } = spawnSync('git', ['ls-files', '*.test.ts'], { cwd: root, encoding: 'utf8' });
  const files = stdout.split('\n').filter(Boolean);
  const tests = files.map(read).join('\n').replaceAll("\\'", "'");
  const rows = read('SECURITY.md')
    .split('\n')
    .filter((line) => /^\| (?!attacker |---)/.test(line));
  expect(rows.length).toBeGreaterThan(10);
  for (const row of rows) {
    const name = row.split('|')[4]?.trim() ?? '';
    expect([
      name,
      name !== '' && ["'", '"'].some((quote) => tests.includes(`${quote}${name}${quote}`)),
    ]).toEqual([name, true]);
  }
});

test('the lock file names no registry host', () => {
  expect(read('package-lock.json')).not.toMatch(/"resolved": "https?:/);
  expect(read('.npmrc')).toMatch(/^omit-lockfile-registry-resolved=true$/m);
});

/** The anchors of a page, as GitHub makes them from its headings. */
const anchorsOf = (markdown: string): string[] =>
  [...markdown.matchAll(/^#+ (.*)$/gm)].map(([, heading = '']) =>
    heading
      .toLowerCase()
      .replaceAll(/[^\w\- ]/g, '')
      .trim()
      .replaceAll(' ', '-'),
  );

test('every link and picture of a page exists', () => {
  const { stdout } = spawnSync('git', ['ls-files', '*.md'], { cwd: root, encoding: 'utf8' });
  const broken: string[] = [];
  let links = 0;
  for (const page of stdout.split('\n').filter(Boolean)) {
    for (const [, target = ''] of read(page).matchAll(/\]\(([^)\s]+)\)/g)) {
      if (/^(https?|mailto):/.test(target)) continue;
      links++;
      const [path = '', anchor] = target.split('#');
      const file = path === '' ? page : join(dirname(page), path);
      const exists =
        existsSync(join(root, file)) &&
        (anchor === undefined || !file.endsWith('.md') || anchorsOf(read(file)).includes(anchor));
      if (!exists) broken.push(`${page}: ${target}`);
    }
  }
  expect(broken).toEqual([]);
  expect(links).toBeGreaterThan(50);
});

describe('deploy/', () => {
  const { groups } = parse(read('deploy/prometheus/alerts.yml'));
  const rules: { alert: string; expr: string; annotations: { runbook: string } }[] = groups.flatMap(
    (group: { rules: object[] }) => group.rules,
  );

  test('each alert has its section in docs/operating.md', () => {
    const anchors = anchorsOf(read('docs/operating.md'));
    for (const { alert, annotations } of rules) {
      expect(annotations.runbook).toBe(`docs/operating.md#${alert.toLowerCase()}`);
      expect(anchors).toContain(alert.toLowerCase());
    }
    expect(rules.length).toBeGreaterThan(10);
  });

  test('alerts, dashboard and docs/operating.md name only metrics that exist', () => {
    const sources = ['apps/gateway/src', 'apps/worker/src', 'packages/shared/src/telemetry']
      .map((folder) => read(`${folder}/metrics.ts`))
      .join('\n');
    const known = new Set([...sources.matchAll(/name: '(\w+)'/g)].map(([, name]) => name));
    const isKnown = (name: string) =>
      known.has(name.replace(/_(bucket|sum|count)$/, '')) || /^(process|nodejs)_|^up$/.test(name);
    const dashboard = JSON.parse(read('deploy/grafana/dashboards/sluice.json'));
    const queries: string[] = [
      ...rules.map(({ expr }) => expr),
      ...dashboard.panels.flatMap(({ targets = [] }: { targets?: { expr: string }[] }) =>
        targets.map(({ expr }) => expr),
      ),
      read('docs/operating.md'),
    ];
    const named = queries.flatMap((query) => query.match(/\b(sluice|http_request)_\w+/g) ?? []);
    expect(named.filter((name) => !isKnown(name))).toEqual([]);
    // Each metric is in the documentation.
    expect([...known].filter((name) => !read('docs/operating.md').includes(`${name}`))).toEqual([]);
    expect(known.size).toBeGreaterThan(15);
  });
});
