// Calls Sluice with the Node clients of other APIs, and prints what each call gave: a line of JSON for each.
// Environment: SLUICE_URL, SLUICE_API_KEY, LIMITED_KEY (one request a minute), TEXTS (JSON).
import { InferenceClient } from '@huggingface/inference';
import { OpenAIEmbeddings } from '@langchain/openai';
import { CohereClient, CohereClientV2 } from 'cohere-ai';
import OpenAI, { toFile } from 'openai';

const { SLUICE_URL: url, SLUICE_API_KEY: key, LIMITED_KEY: limited } = process.env;
const texts = JSON.parse(process.env.TEXTS);

/** Prints the outcome of a call. */
async function call(client, name, run) {
  let outcome;
  try {
    outcome = { output: await run() };
  } catch (error) {
    const { status, statusCode, message } = error;
    outcome = {
      error: error.constructor.name,
      status: status ?? statusCode ?? error.httpResponse?.status,
      message: String(error.body?.message ?? message),
    };
  }
  process.stdout.write(`${JSON.stringify({ client, name, ...outcome })}\n`);
}

// openai
const openai = new OpenAI({ apiKey: key, baseURL: `${url}/v1`, maxRetries: 0 });
const vectorsOf = ({ data }) => data.map(({ embedding }) => embedding);
const embed = (client, more = {}) => client.embeddings.create({ model: 'bert-mean', input: texts, ...more });
// Without an encoding_format the client asks for base64 and decodes it.
await call('openai', 'embeddings', async () => vectorsOf(await embed(openai)));
await call('openai', 'embeddings as float', async () =>
  vectorsOf(await embed(openai, { encoding_format: 'float' })),
);
await call('openai', 'embeddings with dimensions', async () =>
  vectorsOf(await embed(openai, { dimensions: 5 })),
);
await call('openai', 'moderations', async () => (await openai.moderations.create({ input: texts })).results);
await call('openai', 'models', async () => (await openai.models.list()).data.map(({ id }) => id));
await call('openai', 'model', async () => (await openai.models.retrieve('bert-mean')).id);
await call('openai', 'batch', async () => {
  const lines = texts.map((input, i) =>
    JSON.stringify({
      custom_id: `${i}`,
      method: 'POST',
      url: '/v1/embeddings',
      body: { model: 'bert-mean', input },
    }),
  );
  const file = await openai.files.create({
    file: await toFile(Buffer.from(lines.join('\n')), 'requests.jsonl'),
    purpose: 'batch',
  });
  let batch = await openai.batches.create({
    input_file_id: file.id,
    endpoint: '/v1/embeddings',
    completion_window: '24h',
  });
  while (batch.status === 'in_progress') batch = await openai.batches.retrieve(batch.id);
  const output = await (await openai.files.content(batch.output_file_id)).text();
  await openai.files.delete(file.id);
  return output
    .trim()
    .split('\n')
    .flatMap((line) => vectorsOf(JSON.parse(line).response.body));
});
const wrongKey = new OpenAI({ apiKey: 'sk_000000000000_wrong', baseURL: `${url}/v1`, maxRetries: 0 });
await call('openai', 'wrong key', () => wrongKey.models.list());
await call('openai', 'wrong model', () => embed(openai, { model: 'nothing' }));
await call('openai', 'text too long', () => embed(openai, { input: 'long '.repeat(100) }));
await call('openai', 'body too large', () => embed(openai, { input: 'long '.repeat(200_000) }));
const waiting = new OpenAI({ apiKey: limited, baseURL: `${url}/v1`, maxRetries: 2 });
await call('openai', '429', async () => {
  const startMs = performance.now();
  for (let i = 0; i < 2; i++) await embed(waiting);
  return Math.round(performance.now() - startMs);
});

// @huggingface/inference
const hf = (model) => new InferenceClient(key).endpoint(`${url}/models/${model}`);
await call('huggingface', 'featureExtraction', () => hf('bert-mean').featureExtraction({ inputs: texts }));
await call('huggingface', 'textClassification', () =>
  hf('bert-labels').textClassification({ inputs: texts[0] }),
);
await call('huggingface', 'tokenClassification', () =>
  hf('bert-entities').tokenClassification({ inputs: texts[0] }),
);
await call('huggingface', 'zeroShotClassification', () =>
  hf('roberta-nli').zeroShotClassification({
    inputs: texts[0],
    parameters: { candidate_labels: ['a', 'b'] },
  }),
);
await call('huggingface', 'sentenceSimilarity', () =>
  hf('bert-mean').sentenceSimilarity({ inputs: { source_sentence: texts[0], sentences: texts.slice(1) } }),
);
await call('huggingface', 'wrong model', () => hf('nothing').featureExtraction({ inputs: texts }));
await call('huggingface', 'wrong key', () =>
  new InferenceClient('sk_000000000000_wrong')
    .endpoint(`${url}/models/bert-mean`)
    .featureExtraction({ inputs: texts }),
);

await call('huggingface', 'body too large', () =>
  hf('bert-mean').featureExtraction({ inputs: 'long '.repeat(200_000) }),
);
await call('huggingface', '429', async () => {
  const client = new InferenceClient(limited).endpoint(`${url}/models/bert-mean`);
  for (let i = 0; i < 2; i++) await client.featureExtraction({ inputs: 'a' });
});

// cohere-ai
const rerank = (client, more = {}) =>
  client.rerank({ model: 'roberta-rank', query: texts[0], documents: texts, ...more });
const cohere = new CohereClientV2({ token: key, environment: url });
await call('cohere', 'rerank v2', async () => (await rerank(cohere)).results);
await call('cohere', 'rerank v2, the first', async () => (await rerank(cohere, { topN: 1 })).results);
await call(
  'cohere',
  'rerank v1',
  async () => (await rerank(new CohereClient({ token: key, environment: `${url}` }))).results,
);
await call('cohere', 'wrong key', () =>
  rerank(new CohereClientV2({ token: 'sk_000000000000_wrong', environment: url })),
);
await call('cohere', 'wrong model', () => rerank(cohere, { model: 'nothing' }));

await call('cohere', 'body too large', () => rerank(cohere, { query: 'long '.repeat(200_000) }));
await call('cohere', '429', async () => {
  const startMs = performance.now();
  const client = new CohereClientV2({ token: limited, environment: url });
  for (let i = 0; i < 2; i++) await rerank(client);
  return Math.round(performance.now() - startMs);
});

// @langchain/openai
const langchain = new OpenAIEmbeddings({
  model: 'bert-mean',
  apiKey: key,
  configuration: { baseURL: `${url}/v1` },
  maxRetries: 0,
});
await call('langchain', 'embedDocuments', () => langchain.embedDocuments(texts));
await call('langchain', 'embedQuery', async () => [await langchain.embedQuery(texts[0])]);
