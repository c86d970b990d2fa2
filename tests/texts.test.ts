import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { MESSAGE_VERSION, queueName, repliesSchema } from '@sluice/shared';
import { Queue } from 'bullmq';
import { type App, bundledSpec, post, Rig, until } from './harness.js';

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
  'of the maximum length': 'é'.repeat(10_000),
  'one word of 10,000 letters': 'a'.repeat(10_000),
  'spaces between two letters': `a${' '.repeat(9_998)}b`,
  NUL: 'fine\u0000 fine',
  'control characters': '\u0001\u001b[31m\u007f\u0085fine',
  'right to left': 'هذا المنتج رائع \u202e and fine \u202c',
  'emoji sequences': '👩‍👩‍👧‍👦🏳️‍🌈👍🏽 fine',
  'combining marks': `fine ${'\u0301'.repeat(2_000)}`,
  'special tokens of the tokenizer': '[CLS] fine [SEP] [PAD] [PAD] [MASK] [UNK] [SEP]',
  'only padding tokens': '[PAD] [PAD] [PAD]',
  noncharacters: '\u{10ffff}\u{fffe}\ufeff',
  'markup and templates': '<script>alert(1)</script> {{7*7}} $(id) %s%n',
};
const refused: Record<string, string> = {
  'half a surrogate pair': 'fine \ud83d',
  '10,000 spaces': ' '.repeat(10_000),
};

test('hostile texts are answered or refused, and do not change the scores of others', async () => {
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

test('malformed queue entries are moved to failed, and the work continues', async () => {
  for (const lane of ['interactive', 'bulk'] as const) {
    const name = queueName(bundledSpec, lane);
    const queue = new Queue(name, { connection: rig.redis, prefix: '{sluice}' });
    const malformed: unknown[] = [
      {},
      null,
      'text',
      7,
      { v: 99 },
      { v: MESSAGE_VERSION, gatewayId: '', items: [] },
      { v: MESSAGE_VERSION, jobId: '../..', chunk: -1 },
    ];
    for (const [i, data] of malformed.entries())
      await queue.add('malformed', data, { jobId: `malformed-${i}` });
    // Written without BullMQ: invalid JSON, invalid options, no record at all.
    const at = (part: string) => `{sluice}:${name}:${part}`;
    await rig.redis.hset(at('torn'), { name: 'x', data: '{"v": 2, "te', opts: '{}', timestamp: '1' });
    await rig.redis.hset(at('odd'), { name: 'x', data: '{}', opts: 'odd', timestamp: '1' });
    await rig.redis.hset(at('none'), { name: 'x', data: '{}', opts: 'null', timestamp: '1' });
    await rig.redis.set(at('text'), 'not a hash');
    await rig.redis.lpush(at('wait'), 'torn', 'odd', 'none', 'text', 'nobody');
    await queue.add('malformed', {}, { jobId: 'last' });
    await until('all are moved to failed', async () => {
      const { failed, wait, active } = await queue.getJobCounts('failed', 'wait', 'active');
      return (failed ?? 0) >= malformed.length + 5 && wait === 0 && active === 0;
    });
    await queue.close();
  }
  expect((await post(`${url}/predict`, key, { text: 'fine' })).status).toBe(200);
  expect((await post(`${url}/analyze_batch`, key, { texts: ['fine'] })).status).toBe(202);
  expect(worker.child.exitCode).toBeNull();
});

test('a malformed item fails alone: the others in its message are answered', async () => {
  const stream = '{sluice}:replies:test';
  await rig.redis.xadd(stream, '*', 'opened', '1');
  const queue = new Queue(queueName(bundledSpec, 'interactive'), {
    connection: rig.redis,
    prefix: '{sluice}',
  });
  const item = (id: string, input: unknown, parameters: unknown) => ({
    id,
    input,
    parameters,
    deadlineMs: Date.now() + 60_000,
  });
  const items = [item('a', 7, {}), item('b', 'fine', { top_k: 'all' }), item('c', 'fine', { top_k: 1 })];
  await queue.add('items', { v: MESSAGE_VERSION, gatewayId: 'test', unansweredRows: items.length, items });
  const outcomes = new Map<string, string>();
  await until('all are answered', async () => {
    for (const [, [, bytes]] of await rig.redis.xrangeBuffer(stream, '-', '+')) {
      for (const { id, outcome } of repliesSchema.safeParse(bytes).data?.replies ?? [])
        outcomes.set(id, outcome.kind);
    }
    return outcomes.size === 3;
  });
  expect(Object.fromEntries(outcomes)).toEqual({ a: 'failed', b: 'failed', c: 'answer' });
  await queue.close();
});
