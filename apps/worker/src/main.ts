// A signal that arrives while the program is loading, which takes most of the start, would kill the process. Nothing has begun
// then, so it exits with status 0.
for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP']) process.on(signal, () => process.exit(0));
const { run } = await import('./worker.js');
await run();
