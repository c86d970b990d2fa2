import { setTimeout as delay } from 'node:timers/promises';
import { keyIdOf } from '@sluice/shared';
import { Answers, sentences } from './answers.js';
import type { Checker } from './checker.js';
import { Client, DEADLINE_MS } from './client.js';
import type { FaultRecord } from './faults.js';
import type { Fleet } from './fleet.js';
import { Jobs } from './jobs.js';
import { LIMITS, LimitChecks, type LimitedUnit } from './limits.js';
import { OpenAiBatches } from './openaiBatches.js';
import { Random } from './random.js';
import { Usage } from './usage.js';
import { Webhooks } from './webhooks.js';

/**
 * All clients: interactive requests, requests with many inputs, jobs with webhooks, batches of the OpenAI family, and two keys whose clients
 * send more than their limits allow.
 */
export class Traffic {
  #fleet: Fleet;
  #checker: Checker;
  #random = new Random(0);
  #running = false;
  #loops: Promise<void>[] = [];
  /** Requests and jobs that continue after their loop has moved on. */
  #following = new Set<Promise<void>>();
  #usage: Usage;
  #client: Client;
  #answers: Answers;
  #jobs: Jobs;
  #batches: OpenAiBatches;
  #webhooks: Webhooks;
  #limits: Record<LimitedUnit, LimitChecks>;
  #keys: { main: string } & Record<LimitedUnit, string> = { main: '', requests: '', texts: '' };

  constructor(fleet: Fleet, checker: Checker) {
    this.#fleet = fleet;
    this.#checker = checker;
    this.#usage = new Usage(fleet, checker);
    this.#client = new Client(fleet, checker, this.#usage);
    this.#answers = new Answers(checker);
    this.#jobs = new Jobs(this.#client, checker, this.#answers);
    this.#batches = new OpenAiBatches(this.#client, checker, this.#answers);
    this.#webhooks = new Webhooks(checker);
    this.#limits = {
      requests: new LimitChecks(checker, 'requests'),
      texts: new LimitChecks(checker, 'texts'),
    };
  }

  /** Whether no fault is in progress, so that every request must be answered with 200. */
  set quiet(quiet: boolean) {
    this.#client.quiet = quiet;
  }

  /** Creates the keys, and asks for the answer of each text alone. */
  async prepare(): Promise<void> {
    const hook = await this.#webhooks.listen();
    const high = [{ limit: 1_000_000, windowSeconds: 60 }];
    const limitOf = (unit: LimitedUnit) => [
      { limit: LIMITS[unit].limit, windowSeconds: LIMITS[unit].windowMs / 1_000, unit },
    ];
    this.#keys = {
      main: await this.#fleet.key({ limits: high }),
      requests: await this.#fleet.key({ limits: limitOf('requests') }),
      texts: await this.#fleet.key({ limits: limitOf('texts') }),
    };
    const jobsKey = await this.#fleet.key({ limits: high, webhookUrl: hook });
    await this.#fleet.setWebhookSecret(keyIdOf(jobsKey) ?? '', this.#webhooks.secret);
    Object.assign(this.#jobs, { key: jobsKey, hook });
    this.#batches.key = jobsKey;
    for (const text of sentences) {
      const [predicted, embedded] = [
        await this.#work(this.#random, '/predict', this.#keys.main, { text }),
        await this.#work(this.#random, '/embed', this.#keys.main, { inputs: [text] }),
      ];
      for (const { status } of [predicted, embedded])
        if (status !== 200) throw new Error(`Preparation failed: a request with one text got ${status}`);
      this.#answers.learn(text, predicted.body, embedded.body[0]);
    }
    this.#answers.verifyDifferent();
  }

  /**
   * Starts the clients of a seed.
   * @param faults the faults of the seed; the list grows while the seed runs
   */
  start(random: Random, faults: readonly FaultRecord[]): void {
    this.#random = random;
    this.#client.faults = faults;
    this.#running = true;
    const loop = (client: (random: Random) => Promise<void>) => {
      const own = random.fork();
      const run = async () => {
        while (this.#running) await client(own);
      };
      this.#loops.push(run());
    };
    loop((own) => this.#predict(own));
    loop((own) => this.#embed(own));
    for (let i = 0; i < 2; i++) loop((own) => this.#submit(own));
    loop(async (own) => {
      await this.#batches.create(own);
      await delay(own.int(500, 2_500));
    });
    loop((own) => this.#burst(own, 'requests'));
    loop((own) => this.#burst(own, 'texts'));
  }

  /** Ends the clients, and checks all guarantees that were made to them. */
  async finish(): Promise<void> {
    this.#running = false;
    await Promise.all(this.#loops.splice(0));
    await Promise.all(this.#following);
    const random = this.#random;
    await this.#batches.check(random);
    await this.#webhooks.check([...this.#jobs.withWebhook, ...this.#batches.created], this.#batches.unsure);
    await this.#jobs.check(random);
    await this.#jobs.eraseAll(random, this.#batches.jobIds);
    this.#batches.clear();
    for (const limit of Object.values(this.#limits)) limit.check(this.#client.faults);
    await this.#usage.check();
  }

  close(): void {
    this.#webhooks.close();
  }

  #work(random: Random, path: string, key: string, body: unknown, deadlineMs?: number) {
    const isLimited = key === this.#keys.requests || key === this.#keys.texts;
    return this.#client.work(random, { path, key, body, isLimited, ...(deadlineMs ? { deadlineMs } : {}) });
  }

  #follow(following: Promise<void>): void {
    const followed = following.catch((error: unknown) =>
      this.#checker.violate('wrong-output', `an answer cannot be read: ${error}`),
    );
    this.#following.add(followed);
    void followed.finally(() => this.#following.delete(followed));
  }

  /** Sends a request without waiting for the answer to the one before, so that a paused gateway holds up no other. */
  async #predict(random: Random): Promise<void> {
    this.#follow(this.#predictOne(random.fork(), 'main'));
    await delay(random.int(80, 200));
  }

  async #predictOne(random: Random, key: 'main' | 'requests'): Promise<void> {
    const text = random.pick(sentences);
    const received = await this.#work(random, '/predict', this.#keys[key], { text });
    if (key === 'requests') this.#limits.requests.record(received, 1);
    else this.#checker.recordInteractive(received);
    if (received.status === 200) this.#answers.checkClassification(text, received.body, 'POST /predict');
  }

  async #embed(random: Random): Promise<void> {
    // More than 128 inputs use the bulk lane.
    const isLarge = random.chance(0.1);
    const count = isLarge ? random.int(130, 160) : random.int(2, 16);
    await this.#embedMany(random, 'main', count, isLarge ? DEADLINE_MS.bulk : DEADLINE_MS.interactive);
    await delay(random.int(100, 500));
  }

  async #embedMany(random: Random, key: 'main' | 'texts', count: number, deadlineMs: number): Promise<void> {
    const texts = Array.from({ length: count }, () => random.pick(sentences));
    const received = await this.#work(random, '/embed', this.#keys[key], { inputs: texts }, deadlineMs);
    if (key === 'texts') this.#limits.texts.record(received, count);
    if (received.status !== 200) return;
    if (received.body.length !== count)
      this.#checker.violate('wrong-output', `${received.body.length} vectors for ${count} inputs`);
    for (const [i, text] of texts.entries()) this.#answers.checkVector(text, received.body[i], 'POST /embed');
  }

  async #submit(random: Random): Promise<void> {
    const followToItsEnd = await this.#jobs.submit(random);
    if (followToItsEnd === undefined) return;
    this.#follow(followToItsEnd());
    await delay(random.int(300, 1_500));
  }

  /** Requests as fast as possible for a while, and then none for a while, so that windows fill at any time. */
  async #burst(random: Random, unit: LimitedUnit): Promise<void> {
    const untilMs = performance.now() + random.int(300, 2_500);
    const client = async (own: Random) => {
      while (performance.now() < untilMs) {
        if (unit === 'requests') await this.#predictOne(own, 'requests');
        else await this.#embedMany(own, 'texts', own.int(1, 12), DEADLINE_MS.interactive);
        await delay(30);
      }
    };
    await Promise.all([client(random.fork()), client(random.fork()), client(random.fork())]);
    await delay(random.int(0, 2_500));
  }
}
