// A model process for tests: the shipped one, except for texts with a mark.
import { appendFileSync, existsSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { loadModel, serve } from '../../apps/worker/bundle/model/index.js';

// Files in DATA_DIR make processes fail, since a model process inherits no variable for it.
const at = (name) => join(process.env.DATA_DIR ?? '/nowhere', name);

serve(async (message, onRun) => {
  // A file with milliseconds makes every run take so long.
  const slowMs = existsSync(at('slow')) ? Number(readFileSync(at('slow'), 'utf8')) : 0;
  const model = await loadModel(message, onRun, (run) => async (rows, parameters) => {
    await delay(slowMs);
    return run(rows, parameters);
  });
  if (existsSync(at('kill-while-loading'))) {
    rmSync(at('kill-while-loading'));
    process.kill(process.pid, 'SIGKILL');
  }
  return {
    ...model,
    async run(rows, parameters) {
      const texts = rows.map(({ text }) => text);
      if (existsSync(at('runs'))) appendFileSync(at('runs'), `${texts.length}\n`);
      for (const text of texts) {
        if (text.includes('«hang»')) for (;;);
        if (text.includes('«crash»')) process.kill(process.pid, 'SIGKILL');
        if (text.includes('«refuse»')) throw new Error(`The model refuses this text: ${text}`);
        // As a process that is killed from outside, twice.
        for (const file of ['kill-1', 'kill-2']) {
          if (!text.includes('«unlucky»') || !existsSync(at(file))) continue;
          rmSync(at(file));
          process.kill(process.pid, 'SIGKILL');
        }
      }
      const delays = texts.map((text) => Number(/«slow:(\d+)»/.exec(text)?.[1] ?? 0));
      await delay(Math.max(...delays));
      const results = await model.run(rows, parameters);
      return results.map((result, i) => {
        if (texts[i].includes('«nan»')) return { ...result, raw: result.raw.map(() => Number.NaN) };
        if (texts[i].includes('«large»')) return { ...result, raw: new Float32Array(500_000) };
        return result;
      });
    },
  };
});
