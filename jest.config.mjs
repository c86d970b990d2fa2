/** Tests drive real processes and real Redis servers; see tests/harness.ts. */
export default {
  testEnvironment: 'node',
  testMatch: ['<rootDir>/{apps,packages}/*/src/**/*.test.ts', '<rootDir>/tests/*.test.ts'],
  extensionsToTreatAsEsm: ['.ts'],
  moduleNameMapper: { '^(\\.{1,2}/.*)\\.js$': '$1' },
  transform: { '\\.ts$': '@swc/jest' },
  // Tests wait for processes to start and for timeouts, so one more than the cores of CI. Four are not faster.
  maxWorkers: 3,
  testTimeout: 60_000,
};
