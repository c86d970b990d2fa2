import type { OpenAiRoutes } from '@sluice/contract';
import type { HandlersOf } from '../../http/family.js';
import type { Catalog } from '../../models/catalog.js';

/** Handlers of the routes about models. An alias is listed as a separate model. */
export function openAiModels(
  catalog: Catalog,
  startedAt: Date,
): Pick<HandlersOf<OpenAiRoutes>, 'openAiModels' | 'openAiModel'> {
  const modelOf = (id: string) => ({
    id,
    object: 'model' as const,
    created: Math.floor(startedAt.getTime() / 1000),
    owned_by: 'sluice',
  });
  return {
    async openAiModels() {
      return { object: 'list' as const, data: catalog.names.map(({ name }) => modelOf(name)) };
    },
    async openAiModel({ params }) {
      catalog.named(params.id);
      return modelOf(params.id);
    },
  };
}
