import { textClassification } from '@sluice/tasks';
import type { Response } from 'express';
import { Problem } from '../../http/problem.js';
import type { Slot } from '../../limits/rateLimit.js';
import type { AnswerInputs } from '../../models/answerInputs.js';
import type { Catalog } from '../../models/catalog.js';
import type { NativeHandlers } from './handlers.js';

interface Work {
  body: { text: string; model?: string | undefined; timeout_seconds?: number | undefined };
  slot: Slot;
  signal: AbortSignal;
  response: Response;
}

/** Handlers of the routes that classify one text. */
export function predictionRoutes(
  catalog: Catalog,
  answerInputs: AnswerInputs,
): Pick<NativeHandlers, 'predict' | 'analyze' | 'analyzeComment'> {
  async function classify({ body, slot, signal, response }: Work, topK: number) {
    const model = catalog.select(body.model, textClassification.name);
    const [answer] = await answerInputs(model, textClassification, {
      inputs: [body.text],
      at: ['text'],
      isList: false,
      parameters: { top_k: topK },
      timeoutSeconds: body.timeout_seconds,
      slot,
      signal,
      response,
    });
    const [top] = answer?.output ?? [];
    if (answer === undefined || top === undefined) throw new Problem('analysis_failed');
    const truncated = answer.truncated ? ({ truncated: true } as const) : {};
    return { top, labels: answer.output, truncated };
  }

  return {
    async predict(work) {
      const { top, truncated } = await classify(work, 1);
      return {
        text: work.body.text,
        sentiment: top.label.toLowerCase(),
        confidence: top.score,
        status: 'success',
        requests_remaining: work.slot.remaining,
        ...truncated,
      };
    },
    async analyze(work) {
      const { labels, truncated } = await classify(work, work.body.top_k);
      return { sentiment: [...labels], ...truncated };
    },
    async analyzeComment(work) {
      const { top, truncated } = await classify(work, 1);
      return { sentiment: top.label, ...truncated };
    },
  };
}
