import { setTimeout as delay } from 'node:timers/promises';
import { type Answered, Client } from './client.js';
import type { Endpoint } from './load.js';

/** Results of the requests that were sent in a stretch of time. */
export interface Stretch {
  sentPerSecond: number;
  answeredPerSecond: number;
  /** Fractions of the sent requests. */
  refused: number;
  late: number;
  /** Latencies in milliseconds. */
  answered: { p50: number; p99: number };
  refusal: { p50: number; p99: number };
}

/** Requests/s in a closed loop: the peak to compare with. */
export async function peak(endpoint: Endpoint, texts: readonly string[], seconds: number): Promise<number> {
  const client = new Client(endpoint);
  const endMs = performance.now() + seconds * 1000;
  let sent = 0;
  let answered = 0;
  const one = async () => {
    while (performance.now() < endMs) {
      const { status } = await client.post({ text: texts[sent++ % texts.length] ?? '' });
      if (status === 200) answered++;
    }
  };
  await Promise.all(Array.from({ length: 64 }, one));
  client.close();
  return answered / seconds;
}

/**
 * Sends requests at a fixed rate, independent of the responses.
 * @returns a summary of every stretch of `stretchSeconds`
 */
export async function openLoop(
  endpoint: Endpoint,
  texts: readonly string[],
  { perSecond, seconds, stretchSeconds }: { perSecond: number; seconds: number; stretchSeconds: number },
): Promise<Stretch[]> {
  const client = new Client(endpoint);
  const stretches: Answered[][] = [];
  const responses: Promise<void>[] = [];
  const startMs = performance.now();
  for (let sent = 0; sent < perSecond * seconds; ) {
    await delay(2);
    const due = Math.min(perSecond * seconds, ((performance.now() - startMs) / 1000) * perSecond);
    for (; sent < due; sent++) {
      const at = Math.floor(sent / perSecond / stretchSeconds);
      const answers = stretches[at] ?? [];
      stretches[at] = answers;
      responses.push(
        client.post({ text: texts[sent % texts.length] ?? '' }).then(
          (answered) => void answers.push(answered),
          () => void answers.push({ status: 0, ms: 0 }),
        ),
      );
    }
  }
  await Promise.all(responses);
  client.close();
  return stretches.map((answers) => summaryOf(answers, stretchSeconds));
}

function summaryOf(answers: readonly Answered[], seconds: number): Stretch {
  const of = (wanted: number) => answers.filter(({ status }) => status === wanted).map(({ ms }) => ms);
  const [ok, refused, late] = [of(200), of(503), of(408)];
  if (ok.length + refused.length + late.length < answers.length)
    throw new Error('Some responses had an unexpected status');
  return {
    sentPerSecond: answers.length / seconds,
    answeredPerSecond: ok.length / seconds,
    refused: refused.length / answers.length,
    late: late.length / answers.length,
    answered: { p50: quantile(ok, 0.5), p99: quantile(ok, 0.99) },
    refusal: { p50: quantile(refused, 0.5), p99: quantile(refused, 0.99) },
  };
}

/** A quantile of numbers; NaN for an empty list. */
function quantile(numbers: readonly number[], share: number): number {
  const sorted = [...numbers].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] ?? Number.NaN;
}
