import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { snippet } from '../../packages/playground/src/snippets.js';
import {
  type Body,
  ClientRig,
  examplesIn,
  float32,
  folder,
  installPython,
  pages,
  TEXTS,
} from '../clients/rig.js';
import { post, root } from '../harness.js';

/** The packages of each client; those of a sample are enough for a short run. */
const PACKAGES = {
  openai: ['openai'],
  huggingface: ['huggingface_hub'],
  cohere: ['cohere'],
  langchain: ['langchain-openai', 'langchain-huggingface', 'huggingface_hub'],
  llamaindex: ['llama-index-embeddings-text-embeddings-inference', 'llama-index-postprocessor-tei-rerank'],
};
type Client = keyof typeof PACKAGES;
const isClient = (name: string): name is Client => name in PACKAGES;

const given = (process.env.PYTHON_CLIENTS || Object.keys(PACKAGES).join()).split(',');
const chosen = given.filter(isClient);
const has = (client: Client) => chosen.includes(client);
let python: string;

let clients: ClientRig;
let calls: Record<string, Body>;
beforeAll(async () => {
  expect(chosen).toEqual(given);
  python = installPython([...chosen.flatMap((client) => PACKAGES[client]), 'requests']);
  clients = await ClientRig.start();
  calls = await clients.calls(python, ['python.py', ...chosen]);
}, 600_000);
afterAll(() => clients?.close());

/** A test for a client that this run may leave out. */
const testOf = (client: Client) => (has(client) ? test : test.skip);

const outputOf = (name: string) => {
  expect([name, calls[name]]).toEqual([name, { output: expect.anything() }]);
  return calls[name].output;
};

describe.each([
  ['openai', 'openai: embeddings'],
  ['openai', 'openai: embeddings as float'],
  ['openai', 'openai: batch'],
  ['huggingface', 'huggingface: feature_extraction'],
  ['langchain', 'langchain-openai: embed_documents'],
  ['langchain', 'langchain-huggingface: embed_documents'],
  ['llamaindex', 'llamaindex: embeddings'],
] as const)('%s', (client, name) => {
  testOf(client)(`${name} gives the vectors of the model`, async () => {
    expect(float32(outputOf(name))).toEqual(float32(await clients.outputsOf('bert-mean', TEXTS)));
  });
});

testOf('openai')('openai gives the scores of moderations and the models', async () => {
  const expected = (await clients.outputsOf('bert-multi-label', TEXTS)).map((outputs: Body) =>
    expect.objectContaining(Object.fromEntries(outputs.map(({ label, score }: Body) => [label, score]))),
  );
  expect(outputOf('openai: moderations')).toEqual(expected);
  expect(outputOf('openai: models')).toContain('bert-mean');
});

testOf('huggingface')(
  'huggingface_hub gives the labels, entities and similarities of the model',
  async () => {
    const [text = ''] = TEXTS;
    expect(outputOf('huggingface: text_classification')).toEqual(
      (await clients.outputsOf('bert-labels', [text]))[0],
    );
    expect(outputOf('huggingface: token_classification')).toEqual(
      await clients.outputsOf('bert-entities', text),
    );
    expect(outputOf('huggingface: zero_shot_classification')).toEqual(
      await clients.outputsOf('roberta-nli', text, { candidate_labels: ['a', 'b'] }),
    );
    const body = { inputs: { source_sentence: text, sentences: TEXTS.slice(1) } };
    expect(outputOf('huggingface: sentence_similarity')).toEqual(
      (await post(`${clients.url}/similarity`, clients.key, body)).body,
    );
  },
);

describe.each([
  ['cohere', 'cohere: rerank v2'],
  ['cohere', 'cohere: rerank v1'],
  ['llamaindex', 'llamaindex: rerank'],
] as const)('%s', (client, name) => {
  testOf(client)(`${name} gives the ranks of the model`, async () => {
    const [ranks] = await clients.outputsOf('roberta-rank', [{ query: TEXTS[0], texts: TEXTS }]);
    expect(outputOf(name)).toEqual(ranks);
  });
});

describe.each([
  ['openai', 'openai: wrong key', 'AuthenticationError', /Invalid API key/],
  ['openai', 'openai: wrong model', 'NotFoundError', /"nothing"/],
  ['openai', 'openai: text too long', 'BadRequestError', /48 tokens/],
  ['openai', 'openai: body too large', 'APIStatusError', /too large/],
  ['huggingface', 'huggingface: body too large', 'HfHubHTTPError', /too large/],
  ['huggingface', 'huggingface: 429', 'HfHubHTTPError', /Rate limit exceeded/],
  ['cohere', 'cohere: body too large', 'ApiError', /too large/],
  ['huggingface', 'huggingface: wrong key', 'HfHubHTTPError', /Invalid API key/],
  ['huggingface', 'huggingface: wrong model', 'HfHubHTTPError', /"nothing"/],
  ['cohere', 'cohere: wrong key', 'UnauthorizedError', /Invalid API key/],
  ['cohere', 'cohere: wrong model', 'NotFoundError', /nothing/],
] as const)('%s', (client, name, error, message) => {
  testOf(client)(`${name} raises ${error} with our text`, () => {
    expect(calls[name]).toMatchObject({ error, message: expect.stringMatching(message) });
  });
});

testOf('llamaindex')('llama-index raises an error for a wrong key, which is not always ours', () => {
  // Its clients do not look at the status of a response.
  expect(calls['llamaindex: embeddings with a wrong key']).toHaveProperty('error');
  expect(calls['llamaindex: rerank with a wrong key']).toHaveProperty('error');
});

test.each([
  ['openai', 'openai: 429'],
  ['cohere', 'cohere: 429'],
] as const)('%s waits after a 429, as its header field says', (client, name) => {
  // A run without this client has no such call.
  expect(has(client) ? outputOf(name) : Number.POSITIVE_INFINITY).toBeGreaterThan(900);
});

/** The client of a module that an example imports. */
const CLIENT_OF: Readonly<Record<string, Client>> = {
  openai: 'openai',
  huggingface_hub: 'huggingface',
  cohere: 'cohere',
  langchain_openai: 'langchain',
  langchain_huggingface: 'langchain',
  llama_index: 'llamaindex',
};

/** The examples whose clients this run has, as page and number. */
const examples = pages.flatMap((page) =>
  examplesIn(page, 'python').flatMap((code, i) => {
    const modules = [...code.matchAll(/^(?:from|import) (\w+)/gm)].map(([, name = '']) => name);
    return modules.every((name) => chosen.some((client) => client === CLIENT_OF[name]))
      ? [[page, i] as const]
      : [];
  }),
);

test.each(examples)(
  'the example of docs/clients/%s with the number %i runs in Python and prints an answer',
  async (page, i) => {
    writeFileSync(join(folder, `.run/${page}-${i}.py`), clients.examplesOf(page, 'python')[i] ?? '');
    expect(await clients.run(python, [`.run/${page}-${i}.py`])).toMatch(/\d/);
  },
);

test('examples/sentiment.py runs and prints its answers', async () => {
  const output = await clients.run(python, [join(root, 'examples/sentiment.py')]);
  expect(output.trim().split('\n')).toEqual([
    expect.stringMatching(/^\w+ [\d.]+$/),
    expect.stringMatching(/^a \w+$/),
    expect.stringMatching(/^b \w+$/),
  ]);
});

describe('the Python of the playground', () => {
  const model = 'minilm-l6-sst2';

  test('gives the output for an input', async () => {
    const inputs = 'It\'s "fine" \\ 不错 👍';
    const parameters = { top_k: 1 };
    const code = snippet('python', clients.url, { kind: 'one', model, inputs, parameters });
    const output = await clients.run(python, [
      '-c',
      code.replace('print(response.json())', 'print(response.text)'),
    ]);
    expect(JSON.parse(output)).toEqual(await clients.outputsOf(model, inputs, parameters));
  });

  test('gives the results of a file', async () => {
    writeFileSync(join(folder, 'texts.txt'), TEXTS.map((text) => `${text}\n`).join(''));
    const code = snippet('python', clients.url, { kind: 'file', model, parameters: undefined });
    const lines = (await clients.run(python, ['-c', code])).trim().split('\n');
    const results = lines.filter((line) => line.startsWith('{')).map((line) => JSON.parse(line));
    expect(results.map(({ text }) => text)).toEqual(TEXTS);
  });
});
