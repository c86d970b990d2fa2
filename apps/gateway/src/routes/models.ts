import type { Admission } from '../admission/admission.js';
import { fromRedis } from '../errors/problem.js';
import type { Handlers } from './handlers.js';

interface Services {
  admission: Admission;
  /** Id and revision of the one configured model. */
  model: string;
  revision: string;
}

/** Handler of the route about the models. */
export function modelRoutes({ admission, model, revision }: Services): Pick<Handlers, 'models'> {
  return {
    async models() {
      const workers = (await fromRedis(admission.workers())).filter((worker) => worker.model === model);
      const facts = workers.find((worker) => worker.facts !== undefined)?.facts;
      return [
        {
          id: model,
          task: 'text-classification',
          labels: facts?.labels ?? null,
          max_tokens: facts?.maxTokens ?? null,
          revision: facts?.revision ?? revision,
          dtype: facts?.dtype ?? null,
          runtime: facts?.runtime ?? null,
          batching: facts?.batching ?? null,
          default: true,
          workers: workers.length,
        },
      ];
    },
  };
}
