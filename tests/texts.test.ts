import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { queueName } from '@sluice/shared';
import { Queue } from 'bullmq';
import { type App, post, Rig, until } from './harness.js';

let rig: Rig;
let url: string;
let key: string;
let worker: App;
beforeAll(async () => {
  rig = await Rig.start();
  const [gateway, started] = await Promise.all([rig.gateway(), rig.worker()]);
  url = gateway.url;
  worker = started;
  key = await rig.key();
});
afterAll(() => rig.close());

const answered: Record<string, string> = {
  'one character': 'x',
  'as long as a text may be': 'é'.repeat(10_000),
  'one word of 10,000 letters': 'a'.repeat(10_000),
  'spaces between two letters': `a${' '.repeat(9_998)}b`,
  NUL: 'fine\u0000 fine',
  'control characters': '\u0001\u001b[31m\u007f\u0085fine',
  'right to left': 'هذا المنتج رائع \u202e and fine \u202c',
  'emoji sequences': '👩‍👩‍👧‍👦🏳️‍🌈👍🏽 fine',
  'combining marks': `fine ${'\u0301'.repeat(2_000)}`,
  'the tokens that the tokenizer means something by': '[CLS] fine [SEP] [PAD] [PAD] [MASK] [UNK] [SEP]',
  'nothing but padding': '[PAD] [PAD] [PAD]',
  'no characters': '\u{10ffff}\u{fffe}\ufeff',
  'markup and templates': '<script>alert(1)</script> {{7*7}} $(id) %s%n',
};
const refused: Record<string, string> = {
  'half a surrogate pair': 'fine \ud83d',
  '10,000 spaces': ' '.repeat(10_000),
};

test("hostile texts are answered or refused, and change nobody else's score by a bit", async () => {
  const plain = Array.from(
    { length: 24 },
    (_, i) => `plain sentence ${'very '.repeat(i % 7)}good, number ${i}`,
  );
  const ask = async (text: string) => (await post(`${url}/analyze`, key, { text, top_k: 2 })).body.sentiment;
  const alone = new Map<string, unknown>();
  for (const text of [...plain, ...Object.values(answered)]) {
    const labels = await ask(text);
    expect(labels).toHaveLength(2);
    alone.set(text, labels);
  }
  for (const text of Object.values(refused))
    expect((await post(`${url}/predict`, key, { text })).status).toBe(422);
  for (let round = 0; round < 3; round++) {
    const together = await Promise.all(
      [...alone.keys()]
        .sort(() => (round % 2 ? -1 : 1))
        .map(async (text) => [text, await ask(text)] as const),
    );
    for (const [text, labels] of together) expect(labels).toEqual(alone.get(text));
  }
});

test('rubbish that somebody puts into the queues is moved to failed, and the work goes on', async () => {
  for (const lane of ['interactive', 'bulk'] as const) {
    const name = queueName('minilm-l6-sst2', lane);
    const queue = new Queue(name, { connection: rig.redis, prefix: '{sluice}' });
    const rubbish: unknown[] = [
      {},
      null,
      'text',
      7,
      { v: 99 },
      { v: 2, gatewayId: '', texts: [] },
      { v: 1, jobId: '../..', chunk: -1 },
      { __proto__: null, texts: [{ id: 'a', text: 7 }] },
    ];
    for (const [i, data] of rubbish.entries()) await queue.add('rubbish', data, { jobId: `rubbish-${i}` });
    // Past BullMQ: no JSON, options that are none, no record at all.
    const at = (part: string) => `{sluice}:${name}:${part}`;
    await rig.redis.hset(at('torn'), { name: 'x', data: '{"v": 2, "te', opts: '{}', timestamp: '1' });
    await rig.redis.hset(at('odd'), { name: 'x', data: '{}', opts: 'odd', timestamp: '1' });
    await rig.redis.hset(at('none'), { name: 'x', data: '{}', opts: 'null', timestamp: '1' });
    await rig.redis.set(at('text'), 'no record');
    await rig.redis.lpush(at('wait'), 'torn', 'odd', 'none', 'text', 'nobody');
    await queue.add('rubbish', {}, { jobId: 'last' });
    await until('all have failed', async () => (await queue.getFailedCount()) >= rubbish.length + 5, 15_000);
    expect(await queue.getJobCounts('wait', 'active')).toEqual({ wait: 0, active: 0 });
    await queue.close();
  }
  expect((await post(`${url}/predict`, key, { text: 'fine' })).status).toBe(200);
  expect((await post(`${url}/analyze_batch`, key, { texts: ['fine'] })).status).toBe(202);
  expect(worker.child.exitCode).toBeNull();
});
