// The bare pipeline without a server: the ceiling of throughput (several texts per call) or the lowest latency (one text).
// One process, one thread.
// Arguments: file of sentences, seconds, texts per call (1: in order; more: sorted by length).
// Prints {"texts", "seconds", "processorMs", "p50", "p99"} as JSON; latencies in milliseconds.
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { readCpuFlags, sessionOptionsFor } from '@sluice/worker';
import { env, pipeline } from '@xenova/transformers';

const [, , file, seconds, size] = process.argv;
env.localModelPath = fileURLToPath(new URL('../models', import.meta.url));
env.allowRemoteModels = false;
const classify = await pipeline('text-classification', 'minilm-l6-sst2', {
  dtype: 'q8',
  session_options: sessionOptionsFor(process.arch, readCpuFlags()),
});
const sentences = readFileSync(file, 'utf8').trim().split('\n');
const tokens = new Map(sentences.map((text) => [text, classify.tokenizer.encode(text).length]));
if (Number(size) > 1) sentences.sort((a, b) => tokens.get(a) - tokens.get(b));
const batches = [];
for (let i = 0; i < sentences.length; i += Number(size)) batches.push(sentences.slice(i, i + Number(size)));
for (const batch of batches.slice(0, 10)) await classify(batch);

// Processes that are measured together start together.
process.send?.('ready');
if (process.send) await new Promise((resolve) => process.once('message', resolve));
const startMs = performance.now();
const startUsage = process.cpuUsage();
const latencies = [];
let texts = 0;
for (let i = Math.floor(Math.random() * batches.length); performance.now() < startMs + seconds * 1000; i++) {
  const batch = batches[i % batches.length];
  const sentMs = performance.now();
  await classify(batch);
  latencies.push(performance.now() - sentMs);
  texts += batch.length;
}
const took = (performance.now() - startMs) / 1000;
const { user, system } = process.cpuUsage(startUsage);
latencies.sort((a, b) => a - b);
const at = (share) => latencies[Math.floor(share * latencies.length)];
console.log(
  JSON.stringify({
    texts,
    seconds: took,
    processorMs: (user + system) / 1000,
    p50: at(0.5),
    p99: at(0.99),
  }),
);
process.disconnect?.();
