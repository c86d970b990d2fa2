// Loading the program takes most of the start. Without these listeners a signal during that time would kill the process. No work
// has begun yet, so the process exits with status 0.
for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP']) process.on(signal, () => process.exit(0));
const { run } = await import('./gateway.js');
await run();
