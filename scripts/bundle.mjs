// Bundles each app and the model process into one file, which starts in half of the processor time: hundreds of modules need
// not be found and read. `node scripts/bundle.mjs`, or by `prepare` in setup.mjs.
import { existsSync, mkdirSync, readFileSync, renameSync, statSync, writeFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('../', import.meta.url));

/** Bundles by their entry files. The model process is where the bundle of the worker looks for it. */
const BUNDLES = {
  'apps/gateway/dist/main.js': 'apps/gateway/bundle/main.js',
  'apps/gateway/dist/gateway.js': 'apps/gateway/bundle/gateway.js',
  'apps/worker/dist/main.js': 'apps/worker/bundle/main.js',
  'apps/worker/dist/worker.js': 'apps/worker/bundle/worker.js',
  'apps/worker/dist/model/process.js': 'apps/worker/bundle/model/process.js',
  // The model processes of tests and benchmarks are made of its parts.
  'apps/worker/dist/model/index.js': 'apps/worker/bundle/model/index.js',
  'apps/cli/dist/main.js': 'apps/cli/bundle/main.js',
};

/** The entry files load the rest of the app themselves. */
const LOADED_BY_ENTRY = {
  'apps/gateway/dist/main.js': ['./gateway.js'],
  'apps/worker/dist/main.js': ['./worker.js'],
};

/** Packages with native code or further files, what is loaded only on request, and what must be there only once. */
const EXTERNAL = [
  '@opentelemetry/api',
  '@opentelemetry/sdk-node',
  'msgpackr-extract',
  'onnxruntime-common',
  'onnxruntime-node',
  'pino-pretty',
  'swagger-ui-dist',
  'tokenizers',
];

/** What CommonJS packages expect of Node. */
const BANNER = `import { createRequire as bundleRequire } from 'node:module';
import { dirname as bundleDirname } from 'node:path';
import { fileURLToPath as bundlePath } from 'node:url';
const require = bundleRequire(import.meta.url);
const __filename = bundlePath(import.meta.url);
const __dirname = bundleDirname(__filename);`;

/** This module finds the model process beside itself, also in a bundle. */
const BESIDE = join(root, 'apps/worker/dist/worker.js');

/** Makes our modules find their files where they are without a bundle. */
const ownFiles = (folder) => ({
  name: 'own-files',
  setup(build) {
    build.onLoad({ filter: /\/(apps|packages)\/[^/]+\/dist\/.*\.js$/ }, ({ path }) => {
      const contents = readFileSync(path, 'utf8');
      if (path === BESIDE || !contents.includes('import.meta.url')) return undefined;
      const url = `new URL(${JSON.stringify(relative(folder, path))}, import.meta.url).href`;
      return { contents: contents.replaceAll('import.meta.url', url), loader: 'js' };
    });
  },
});

/**
 * Replaces the image library that transformers.js loads. No task uses images, and loading the library takes a tenth of the start of
 * a model process.
 */
const noImages = {
  name: 'no-images',
  setup(build) {
    build.onResolve({ filter: /^sharp$/ }, ({ path }) => ({ path, namespace: 'no-images' }));
    build.onLoad({ filter: /./, namespace: 'no-images' }, () => ({
      contents: `export default () => { throw new Error('Sluice reads no images'); };`,
    }));
  },
};

const timeOf = (file) => (existsSync(file) ? statSync(file).mtimeMs : Number.NEGATIVE_INFINITY);

/** Bundles what is older than the last build. A bundle is replaced at once, since processes may start from it now. */
export async function bundle() {
  const built = ['tasks', 'contract', 'client', 'tables', 'shared']
    .map((name) => `packages/${name}`)
    .concat(['apps/gateway', 'apps/worker', 'apps/cli'])
    .map((folder) => timeOf(join(root, folder, 'dist/.tsbuildinfo')));
  const sinceMs = Math.max(
    ...built,
    timeOf(fileURLToPath(import.meta.url)),
    timeOf(join(root, 'package-lock.json')),
  );
  const stale = Object.entries(BUNDLES).filter(([, file]) => timeOf(join(root, file)) < sinceMs);
  if (stale.length === 0) return;
  const esbuild = await import('esbuild');
  for (const [entry, file] of stale) {
    const outfile = join(root, file);
    const { outputFiles } = await esbuild.build({
      absWorkingDir: root,
      entryPoints: [entry],
      outfile,
      bundle: true,
      write: false,
      platform: 'node',
      format: 'esm',
      target: 'node20',
      // Some CommonJS builds find their parts in ways that cannot be followed.
      mainFields: ['module', 'main'],
      external: [...(LOADED_BY_ENTRY[entry] ?? []), ...EXTERNAL],
      banner: { js: BANNER },
      plugins: [ownFiles(dirname(outfile)), noImages],
      logLevel: 'warning',
    });
    mkdirSync(dirname(outfile), { recursive: true });
    const temporary = `${outfile}.${process.pid}`;
    writeFileSync(temporary, outputFiles[0].contents);
    renameSync(temporary, outfile);
  }
  // Its process would stay as long as this one.
  await esbuild.stop();
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await bundle();
