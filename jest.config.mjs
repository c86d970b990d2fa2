/** Every test runs against real processes and one real Redis a run (tests/redis.mjs). */
export default {
  testEnvironment: 'node',
  testMatch: ['<rootDir>/{apps,packages}/*/src/**/*.test.ts', '<rootDir>/tests/**/*.test.ts'],
  extensionsToTreatAsEsm: ['.ts'],
  moduleNameMapper: { '^(\\.{1,2}/.*)\\.js$': '$1' },
  transform: { '\\.ts$': '@swc/jest' },
  globalSetup: '<rootDir>/tests/setup.mjs',
  globalTeardown: '<rootDir>/tests/teardown.mjs',
  maxWorkers: 2,
  testTimeout: 30_000,
};
