// Classifies texts with the pipeline of transformers.js, one at a time. Every answer of Sluice must equal its results.
// Input: a JSON array of texts on standard input. Output: a JSON array of {label, score}.

import { readCpuFlags, sessionOptionsFor } from '@sluice/worker';
import { env, pipeline } from '@xenova/transformers';

env.localModelPath = new URL('../models/', import.meta.url).pathname;
env.allowRemoteModels = false;
const classify = await pipeline('text-classification', 'minilm-l6-sst2', {
  dtype: 'q8',
  session_options: sessionOptionsFor(process.arch, readCpuFlags()),
});
let json = '';
for await (const part of process.stdin.setEncoding('utf8')) json += part;
const results = [];
for (const text of JSON.parse(json)) results.push((await classify(text))[0]);
process.stdout.write(JSON.stringify(results));
