import { textClassification } from '@sluice/tasks';
import type { Response } from 'express';
import { answerItems } from '../../dispatch/answerItems.js';
import { Problem } from '../../http/problem.js';
import type { Catalog } from '../../models/catalog.js';
import type { NativeHandlers } from './handlers.js';

interface Work {
  body: { text: string; model?: string | undefined; timeout_seconds?: number | undefined };
  signal: AbortSignal;
  response: Response;
}

/** Handlers of the routes that classify one text. */
export function predictionRoutes(
  catalog: Catalog,
): Pick<NativeHandlers, 'predict' | 'analyze' | 'analyzeComment'> {
  async function classify({ body, signal, response }: Work, topK: number) {
    const model = catalog.select(body.model, textClassification.name);
    const { timeoutMs } = model.spec;
    const asked = body.timeout_seconds === undefined ? timeoutMs : body.timeout_seconds * 1000;
    const [answer] = await answerItems(model.lanes, textClassification, {
      requestId: response.locals.requestId,
      inputs: [body.text],
      parameters: textClassification.parameters.parse({ top_k: topK }),
      timeoutMs: Math.min(asked, timeoutMs),
      signal,
    });
    const [top] = answer?.output ?? [];
    if (answer === undefined || top === undefined) throw new Problem('analysis_failed');
    response.locals.texts = 1;
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
