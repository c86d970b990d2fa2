import type { Outcome } from '@sluice/shared';
import type { Response } from 'express';
import type { Admission } from '../admission/admission.js';
import type { Dispatcher } from '../dispatch/dispatcher.js';
import { Problem } from '../errors/problem.js';
import type { Handlers } from './handlers.js';

interface Services {
  admission: Admission;
  dispatcher: Dispatcher;
  requestTimeoutSeconds: number;
}

interface Work {
  body: { text: string; timeout_seconds?: number | undefined };
  signal: AbortSignal;
  response: Response;
}

/** Handlers of the routes that run the model on one text. */
export function predictionRoutes({
  admission,
  dispatcher,
  requestTimeoutSeconds,
}: Services): Pick<Handlers, 'predict' | 'analyze' | 'analyzeComment'> {
  async function analyze({ body, signal, response }: Work, topK: number) {
    const timeoutMs = (body.timeout_seconds ?? requestTimeoutSeconds) * 1000;
    await admission.ensureWorker();
    admission.admit(timeoutMs);
    const answer = answerOf(await dispatcher.submit({ text: body.text, topK, timeoutMs, signal }));
    response.locals.texts = 1;
    return answer;
  }

  return {
    async predict(work) {
      const { top, truncated } = await analyze(work, 1);
      return {
        text: work.body.text,
        sentiment: top.label.toLowerCase(),
        confidence: top.score,
        status: 'success',
        requests_remaining: work.place.remaining,
        ...truncated,
      };
    },
    async analyze(work) {
      const { labels, truncated } = await analyze(work, work.body.top_k);
      return { sentiment: labels, ...truncated };
    },
    async analyzeComment(work) {
      const { top, truncated } = await analyze(work, 1);
      return { sentiment: top.label, ...truncated };
    },
  };
}

function answerOf(outcome: Outcome) {
  if (outcome.kind === 'timed_out') throw new Problem('analysis_timed_out');
  const [top] = outcome.kind === 'answer' ? outcome.labels : [];
  if (outcome.kind === 'failed' || top === undefined) throw new Problem('analysis_failed');
  return { top, labels: outcome.labels, truncated: outcome.truncated ? ({ truncated: true } as const) : {} };
}
