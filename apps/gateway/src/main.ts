// Loading the program takes most of the start. Without these listeners a signal during that time would kill the process. No work
// has begun yet, so the process exits with status 0.
const SIGNALS = ['SIGTERM', 'SIGINT', 'SIGHUP'] as const;
const exit = () => process.exit(0);
for (const signal of SIGNALS) process.on(signal, exit);
const { run } = await import('./gateway.js');
const running = run();
// `run` has added its own listeners.
for (const signal of SIGNALS) process.off(signal, exit);
await running;
