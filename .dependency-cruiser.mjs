/** Which folders may import which: see docs/architecture.md. Checked by `npm run lint`. */

/** A package may import those before it in this list. */
const PACKAGES = ['tasks', 'contract', 'shared'];
const inPackage = (name) => `^packages/${name}/`;

/** Rules for folders of an app: each may import those before it in the list, but none after it. */
const oneWay = (app, folders) =>
  folders.slice(0, -1).map((folder, i) => ({
    name: `${app}-one-way-${folder}`,
    severity: 'error',
    from: { path: `^apps/${app}/src/${folder}/` },
    to: { path: `^apps/${app}/src/(${folders.slice(i + 1).join('|')})/` },
  }));

export default {
  forbidden: [
    { name: 'no-cycles', severity: 'error', from: {}, to: { circular: true } },
    { name: 'no-unresolved', severity: 'error', from: {}, to: { couldNotResolve: true } },
    {
      name: 'no-app-imports-another',
      severity: 'error',
      from: { path: '^apps/([^/]+)/' },
      to: { path: '^apps/([^/]+)/', pathNot: '^apps/$1/' },
    },
    {
      name: 'no-package-imports-an-app',
      severity: 'error',
      from: { path: '^packages/' },
      to: { path: '^apps/' },
    },
    ...PACKAGES.map((name, i) => ({
      name: `packages-one-way-${name}`,
      severity: 'error',
      from: { path: inPackage(name) },
      to: {
        path: [...PACKAGES.slice(i + 1), 'client'].map(inPackage).join('|'),
      },
    })),
    {
      name: 'client-imports-only-the-contract',
      severity: 'error',
      from: { path: inPackage('client') },
      to: { path: '^packages/', pathNot: inPackage('(client|contract)') },
    },
    {
      name: 'no-family-imports-another',
      severity: 'error',
      from: { path: '^apps/gateway/src/api/([^/]+)/' },
      to: { path: '^apps/gateway/src/api/([^/]+)/', pathNot: '^apps/gateway/src/api/$1/' },
    },
    {
      name: 'only-gateway-and-admin-know-the-families',
      severity: 'error',
      from: { path: '^apps/gateway/src/', pathNot: '^apps/gateway/src/(api/|admin/|gateway\\.ts)' },
      to: { path: '^apps/gateway/src/api/' },
    },
    ...oneWay('gateway', ['limits', 'dispatch', 'models', 'jobs', 'api', 'admin']),
    ...oneWay('worker', ['source', 'process', 'microbatch', 'queue', 'served']),
    {
      name: 'the-child-does-not-know-the-parent',
      severity: 'error',
      from: { path: '^apps/worker/src/model/' },
      to: { path: '^apps/worker/src/', pathNot: '^apps/worker/src/(model/|process/protocol\\.ts)' },
    },
  ],
  options: {
    parser: 'swc',
    tsPreCompilationDeps: true,
    doNotFollow: { path: 'node_modules|dist' },
    exclude: { path: '(\\.test\\.ts$|/bundle/)' },
    enhancedResolveOptions: { exportsFields: ['exports'], conditionNames: ['import', 'node', 'default'] },
  },
};
