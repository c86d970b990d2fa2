import { spawnSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { type Body, ClientRig, float32, folder, installClients, pages, TEXTS } from './clients/rig.js';
import { post, request, root } from './harness.js';

let clients: ClientRig;
beforeAll(async () => {
  installClients();
  clients = await ClientRig.start();
}, 300_000);
afterAll(() => clients?.close());

describe('the Node clients of other APIs', () => {
  let calls: Record<string, Body>;
  beforeAll(async () => {
    calls = await clients.calls(process.execPath, ['node.mjs']);
  }, 120_000);

  test('get the vectors that the model gives', async () => {
    const vectors = float32(await clients.outputsOf('bert-mean', TEXTS));
    for (const name of [
      'openai: embeddings',
      'openai: embeddings as float',
      'openai: batch',
      'huggingface: featureExtraction',
      'langchain: embedDocuments',
    ])
      expect([name, float32(calls[name].output)]).toEqual([name, vectors]);
    expect(float32(calls['langchain: embedQuery'].output)).toEqual(vectors.slice(0, 1));
    expect(float32(calls['openai: embeddings with dimensions'].output)).toEqual(
      float32(await clients.outputsOf('bert-mean', TEXTS, { dimensions: 5 })),
    );
  });

  test('get the labels, entities, similarities and ranks that the model gives', async () => {
    const [text = ''] = TEXTS;
    const scores = (outputs: { label: string; score: number }[]) =>
      Object.fromEntries(outputs.map(({ label, score }) => [label, score]));
    expect(calls['openai: moderations'].output.map((result: Body) => result.category_scores)).toEqual(
      (await clients.outputsOf('bert-multi-label', TEXTS)).map(scores),
    );
    expect(calls['huggingface: textClassification'].output).toEqual(
      (await clients.outputsOf('bert-labels', [text]))[0],
    );
    expect(calls['huggingface: tokenClassification'].output).toEqual(
      await clients.outputsOf('bert-entities', text),
    );
    expect(calls['huggingface: zeroShotClassification'].output).toEqual(
      await clients.outputsOf('roberta-nli', text, { candidate_labels: ['a', 'b'] }),
    );
    const similarities = (
      await post(`${clients.url}/similarity`, clients.key, {
        inputs: { source_sentence: text, sentences: TEXTS.slice(1) },
      })
    ).body;
    expect(calls['huggingface: sentenceSimilarity'].output).toEqual(similarities);
    const ranks = (await clients.outputsOf('roberta-rank', [{ query: text, texts: TEXTS }]))[0].map(
      ({ index, score }: Body) => ({ index, relevanceScore: score }),
    );
    for (const name of ['cohere: rerank v2', 'cohere: rerank v1'])
      expect([name, calls[name].output]).toEqual([
        name,
        ranks.map((rank: Body) => expect.objectContaining(rank)),
      ]);
    expect(calls['cohere: rerank v2, the first'].output).toEqual([expect.objectContaining(ranks[0])]);
  });

  test('list the models', () => {
    expect(calls['openai: models'].output).toContain('bert-mean');
    expect(calls['openai: model'].output).toBe('bert-mean');
  });

  test('raise their own error with our text', () => {
    for (const [name, error, status, message] of [
      ['openai: wrong key', 'AuthenticationError', 401, /Invalid API key/],
      ['openai: wrong model', 'NotFoundError', 404, /"nothing"/],
      ['openai: text too long', 'BadRequestError', 400, /48 tokens/],
      ['openai: body too large', 'APIError', 413, /too large/],
      ['huggingface: body too large', 'InferenceClientProviderApiError', 413, /too large/],
      ['huggingface: 429', 'InferenceClientProviderApiError', 429, /Rate limit exceeded/],
      ['huggingface: wrong model', 'InferenceClientProviderApiError', 404, /"nothing"/],
      ['huggingface: wrong key', 'InferenceClientProviderApiError', 403, /Invalid API key/],
      ['cohere: body too large', 'CohereError', 413, /too large/],
      ['cohere: wrong key', 'UnauthorizedError', 401, /Invalid API key/],
      ['cohere: wrong model', 'NotFoundError', 404, /"nothing"/],
    ] as const)
      expect([name, calls[name]]).toEqual([name, { error, status, message: expect.stringMatching(message) }]);
  });

  test('of OpenAI and Cohere wait after a 429, as its header field says', () => {
    for (const name of ['openai: 429', 'cohere: 429'])
      expect([name, calls[name].output > 900]).toEqual([name, true]);
  });
});

test('a client that sends token arrays is told what to change', async () => {
  // As LangChain's OpenAIEmbeddings in Python does by default.
  const { status, body } = await post(`${clients.url}/v1/embeddings`, clients.key, {
    model: 'bert-mean',
    input: [[101, 2023, 102]],
  });
  expect([status, body.error.message]).toEqual([
    400,
    expect.stringContaining('check_embedding_ctx_length=False'),
  ]);
});

test.each(pages)(
  'the examples of docs/clients/%s in JavaScript and for the shell run and print an answer',
  async (page) => {
    for (const [i, code] of clients.examplesOf(page, 'js').entries()) {
      writeFileSync(join(folder, `.run/${page}-${i}.mjs`), code);
      expect(await clients.run(process.execPath, [`.run/${page}-${i}.mjs`])).toMatch(/\d/);
    }
    for (const code of clients.examplesOf(page, 'sh').filter((each) => each.includes(clients.url)))
      expect(await clients.run('sh', ['-ec', code.replaceAll('curl ', 'curl -sf ')])).toMatch(/\d/);
  },
);

test('a client that is generated from the reference compiles and makes its calls', async () => {
  const run = join(folder, '.run');
  const document = (await request(`${clients.url}/openapi.json`)).body;
  writeFileSync(join(run, 'openapi.json'), JSON.stringify(document));
  const bin = (name: string) => join(folder, 'node_modules', name);
  const node = (...args: string[]) => {
    const { status, stdout, stderr } = spawnSync(process.execPath, args, {
      cwd: folder,
      encoding: 'utf8',
    });
    expect([status, status === 0 ? '' : stdout + stderr]).toEqual([0, '']);
  };
  node(bin('openapi-typescript/bin/cli.js'), '.run/openapi.json', '-o', '.run/generated.ts');
  writeFileSync(
    join(run, 'generatedClient.ts'),
    [
      `import createClient from 'openapi-fetch';`,
      `import type { paths } from './generated.js';`,
      'const { SLUICE_URL = "", SLUICE_API_KEY = "" } = process.env;',
      'const client = createClient<paths>({ baseUrl: SLUICE_URL, headers: { "X-API-Key": SLUICE_API_KEY } });',
      'const predicted = await client.POST("/analyze", { body: { text: "A fine day", top_k: 1 } });',
      'if (!predicted.data) throw new Error(JSON.stringify(predicted.error));',
      'const label: string | undefined = predicted.data.sentiment[0]?.label;',
      'const { data: job, error } = await client.POST("/analyze_batch", { body: { texts: ["one", "two"] } });',
      'if (!job) throw new Error(JSON.stringify(error));',
      'const { data: state } = await client.GET("/jobs/{id}", { params: { path: { id: job.job_id } } });',
      'const total: number | undefined = state?.total;',
      // Calls that are not in the reference must not compile.
      '// @ts-expect-error: no such route',
      'void (() => client.GET("/nothing"));',
      '// @ts-expect-error: a text is not a number',
      'void (() => client.POST("/predict", { body: { text: 1 } }));',
      'console.log(JSON.stringify({ label, total }));',
      'export {};',
    ].join('\n'),
  );
  writeFileSync(
    join(run, 'tsconfig.json'),
    JSON.stringify({
      compilerOptions: {
        strict: true,
        target: 'ES2022',
        module: 'NodeNext',
        moduleResolution: 'NodeNext',
        skipLibCheck: true,
        types: ['node'],
        typeRoots: [join(root, 'node_modules/@types')],
        outDir: 'generated',
      },
      files: ['generatedClient.ts'],
    }),
  );
  node(bin('typescript/bin/tsc'), '-p', '.run/tsconfig.json');
  const output = await clients.run(process.execPath, ['.run/generated/generatedClient.js']);
  const { body } = await post(`${clients.url}/analyze`, clients.key, { text: 'A fine day' });
  const [best] = body.sentiment;
  expect(JSON.parse(output)).toEqual({ label: best.label, total: 2 });
}, 120_000);

describe('the examples', () => {
  test('batch.ts prints an answer, the progress, and the answers of its job', async () => {
    const tsx = join(root, 'node_modules/tsx/dist/cli.mjs');
    const output = await clients.run(process.execPath, [tsx, join(root, 'examples/batch.ts')]);
    expect(output).toMatch(/^\w+ \(0\.\d+\)\n(\d+ %\n)*100 %\n/);
    for (const text of ['I love it', 'It broke after a day', 'Does what it says'])
      expect(output).toMatch(new RegExp(`^\\w+: ${text}$`, 'm'));
    expect(output).toMatch(/422 validation_failed\n$/);
  });

  test('search.mjs prints its texts by their similarity', async () => {
    writeFileSync(join(folder, '.run/search.mjs'), readFileSync(join(root, 'examples/search.mjs')));
    const lines = (await clients.run(process.execPath, ['.run/search.mjs'])).trim().split('\n');
    const similarities = lines.map((line) => Number(line.split(' ')[0]));
    expect(lines).toHaveLength(3);
    expect(similarities).toEqual(similarities.toSorted((one, other) => other - one));
    expect(lines.join()).toContain('settings of your account');
  });
});
