import { cohereRoutesFor } from './cohere.js';
import { huggingFaceRoutesFor } from './huggingface.js';
import { openAiRoutesFor } from './openai.js';
import type { Bounds } from './prediction.js';
import type { Route } from './route.js';
import { teiModelRoutesFor, teiRoutesFor } from './tei.js';

/** The routes of all families besides Sluice's own, by unique names, for the document. */
export function familyRoutesFor(bounds: Bounds): Readonly<Record<string, Route>> {
  const prefixed = (prefix: string, routes: Readonly<Record<string, Route>>) =>
    Object.fromEntries(Object.entries(routes).map(([name, route]) => [`${prefix}_${name}`, route]));
  return {
    ...prefixed('huggingFace', huggingFaceRoutesFor(bounds)),
    ...prefixed('tei', teiRoutesFor(bounds)),
    ...prefixed('teiModel', teiModelRoutesFor(bounds)),
    ...prefixed('openAi', openAiRoutesFor(bounds)),
    ...prefixed('rerank', cohereRoutesFor(bounds)),
  };
}
