import * as z from 'zod';
import type { Catalog } from '../../models/catalog.js';
import type { NativeHandlers } from './handlers.js';

/** What clients see of the facts that a model reports for its task. */
const shownFacts = z.object({
  labels: z.array(z.string()).optional(),
  dimensions: z.number().optional(),
});

/** Handler of the route about the models. */
export function modelRoutes(catalog: Catalog, maxTextChars: number): Pick<NativeHandlers, 'models'> {
  return {
    async models() {
      await catalog.refresh();
      return catalog.entries.map((entry) => {
        const { id, aliases, task, revision } = entry.spec;
        const reports = entry.reports();
        const [report] = reports;
        const { labels, dimensions } = shownFacts.parse(entry.facts() ?? {});
        return {
          id,
          aliases: [...aliases],
          task,
          parameters: z.toJSONSchema(entry.task.parameters, { io: 'input' }),
          labels: labels ?? null,
          dimensions: dimensions ?? null,
          max_tokens: report?.maxTokens ?? null,
          max_text_chars: maxTextChars,
          revision: report?.revision ?? revision,
          dtype: report?.dtype ?? null,
          runtime: report?.runtime ?? null,
          batching: report?.batching ?? null,
          drift: report?.drift ?? null,
          default: entry === catalog.defaultFor(task),
          workers: reports.length,
          error: report ? null : (entry.error() ?? null),
        };
      });
    },
  };
}
