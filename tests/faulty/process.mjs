// A model process for tests: the shipped one, but for texts that carry a mark.
import { setTimeout as delay } from 'node:timers/promises';
import { loadPipeline, serve } from '@sluice/worker/model';

serve(async (message, tell) => {
  const classifier = await loadPipeline(message, tell);
  return {
    ...classifier,
    async classify(texts, topK) {
      for (const text of texts) {
        if (text.includes('«hang»')) for (;;);
        if (text.includes('«crash»')) process.kill(process.pid, 'SIGKILL');
        if (text.includes('«refuse»')) throw new Error('the model does not like it');
      }
      const slowest = texts.map((text) => Number(/«slow:(\d+)»/.exec(text)?.[1] ?? 0));
      await delay(Math.max(...slowest));
      return classifier.classify(texts, topK);
    },
  };
});
