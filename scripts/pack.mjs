// `npm run pack`: makes the package of the server, sluice-<version>.tgz, in the current folder. It holds the built apps and
// packages, the start scripts and the models; npm installs the other dependencies, in the versions of the lock file.
import { spawnSync } from 'node:child_process';
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { prepare, root, SetupError, say } from './setup.mjs';

const SCRIPTS = ['start.mjs', 'lock.mjs', 'setup.mjs', 'redis.mjs', 'watcher.mjs'];
const FILES = [
  'models',
  'models.json',
  'models.schema.json',
  '.env.example',
  'LICENSE',
  'README.md',
  'CHANGELOG.md',
  'CONTRIBUTING.md',
  'SECURITY.md',
  'docs',
  'examples',
];

const readJson = (path) => JSON.parse(readFileSync(join(root, path), 'utf8'));
const { packages: locked } = readJson('package-lock.json');

/** A dependency of a workspace with the version that the lock file has. */
function pinned(folder, [name, range]) {
  const { version } = locked[`${folder}/node_modules/${name}`] ?? locked[`node_modules/${name}`] ?? {};
  // An alias (npm:name@range) keeps the name of its target.
  const alias = /^npm:(.+)@/.exec(range)?.[1];
  return [name, alias ? `npm:${alias}@${version}` : (version ?? range)];
}

/** Copies what a workspace needs at run time, and returns its dependencies outside of the workspaces. */
function copyWorkspace(folder, target) {
  const { name, version, license, type, exports, dependencies = {} } = readJson(`${folder}/package.json`);
  const into = join(target, 'node_modules', name);
  mkdirSync(into, { recursive: true });
  for (const part of ['dist', 'public']) {
    if (!existsSync(join(root, folder, part))) continue;
    cpSync(join(root, folder, part), join(into, part), {
      recursive: true,
      filter: (file) => !/\.(d\.ts|map|tsbuildinfo)$/.test(file),
    });
  }
  // Scripts for Redis stay beside their sources.
  for (const file of readdirSync(join(root, folder, 'src'), { recursive: true })) {
    if (file.endsWith('.lua')) cpSync(join(root, folder, 'src', file), join(into, 'src', file));
  }
  writeFileSync(
    join(into, 'package.json'),
    JSON.stringify({ name, version, license, type, exports }, null, 2),
  );
  return Object.entries(dependencies)
    .filter(([dependency]) => !dependency.startsWith('@sluice/'))
    .map((dependency) => pinned(folder, dependency));
}

const target = mkdtempSync(join(tmpdir(), 'sluice-pack-'));
try {
  await prepare();
  const { name, version, description, license, type, engines, workspaces } = readJson('package.json');
  const dependencies = workspaces.flatMap((folder) => copyWorkspace(folder, target));
  const own = workspaces.map((folder) => readJson(`${folder}/package.json`).name);
  for (const script of SCRIPTS) cpSync(join(root, 'scripts', script), join(target, 'scripts', script));
  for (const file of FILES) cpSync(join(root, file), join(target, file), { recursive: true });
  writeFileSync(join(target, 'sluice.mjs'), "#!/usr/bin/env node\nimport '@sluice/cli/dist/main.js';\n");
  const manifest = {
    name,
    version,
    description,
    license,
    type,
    engines,
    bin: { sluice: 'sluice.mjs' },
    files: ['scripts', 'sluice.mjs', ...FILES],
    dependencies: Object.fromEntries([
      ...dependencies.sort(),
      ...own.map((workspace) => [workspace, version]),
    ]),
    bundleDependencies: own,
  };
  writeFileSync(join(target, 'package.json'), JSON.stringify(manifest, null, 2));
  const { status } = spawnSync('npm', ['pack', '--silent', '--pack-destination', process.cwd()], {
    cwd: target,
    stdio: 'inherit',
  });
  if (status !== 0) throw new SetupError('npm pack failed');
  say(`Install it with: npm install --ignore-scripts ./${name}-${version}.tgz`);
} catch (error) {
  if (!(error instanceof SetupError)) throw error;
  console.error(`✗ ${error.message}`);
  process.exitCode = 1;
} finally {
  rmSync(target, { recursive: true, force: true });
}
