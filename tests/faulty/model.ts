import { fileURLToPath } from 'node:url';
import { modelSpecs, readSettings } from '@sluice/shared';
import { loadMessage } from '@sluice/worker';

/** The program of a model process whose runs of marked texts are slow, hang or crash; see process.mjs. */
export const faultyCommand = [
  process.execPath,
  fileURLToPath(new URL('process.mjs', import.meta.url)),
] as const;

/** The message that makes it load the bundled classifier. */
export function faultyLoad() {
  const [spec] = modelSpecs(readSettings({ MODEL: 'minilm-l6-sst2' }));
  if (!('folder' in spec.source)) throw new Error('The bundled model has a folder');
  return { ...loadMessage(spec, spec.source.folder), measure: false };
}

/** A run of one text. */
export const requestOf = (text: string) => ({
  rows: [{ text }],
  parameters: { truncation_direction: 'right' as const },
});
