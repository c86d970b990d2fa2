// A model process that answers at once, so that only the queue path is measured.
import { serve } from '@sluice/worker/model';

const result = { raw: new Float32Array([1]), tokens: 3, truncated: false };
const measured = { drift: 0, msPerRun: 0.31, msPerToken: 0.052, msPerRow: 1 };
serve(async () => ({
  facts: {
    maxTokens: 512,
    runtime: 'none',
    task: { labels: ['POSITIVE'], functionToApply: 'none' },
    measured,
  },
  run: async (rows) => rows.map(() => result),
}));
