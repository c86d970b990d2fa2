import { text as textOf } from 'node:stream/consumers';
import { json } from '@sluice/shared';
import type { Command } from 'commander';
import * as z from 'zod';
import { jsonObject } from './batch.js';
import { UsageError } from './cliError.js';
import { connect, print } from './terminal.js';

/** Adds `predict`. */
export function addPredictCommand(program: Command): void {
  const predict = program
    .command('predict')
    .description('run a model on one input')
    .argument('<input>', 'the text, or JSON for a model whose input is not a text, or - for standard input')
    .option('--model <id>', 'id or alias of a configured model (default: the first text classifier)')
    .option('--parameters <json>', "parameters of the model's task, such as '{\"top_k\": 2}'", jsonObject)
    .action(
      async (
        argument: string,
        { model, parameters }: { model?: string; parameters?: Record<string, unknown> },
      ) => {
        const sluice = await connect();
        const given = argument === '-' ? await textOf(process.stdin) : argument;
        if (model === undefined && parameters === undefined) {
          const answer = await sluice.predict(given);
          print(predict, answer, () => `${answer.sentiment}  ${answer.confidence}`);
          return;
        }
        const models = await sluice.models();
        const used = models.find(({ id, aliases, task, default: isDefault }) =>
          model === undefined
            ? isDefault && task === 'text-classification'
            : id === model || aliases.includes(model),
        );
        const ids = models.map(({ id }) => id).join(', ');
        if (used === undefined) throw new UsageError(`Set --model to one of: ${ids}`);
        const input = used.task === 'text-ranking' ? parseInput(given) : given;
        const output = await sluice.infer(used.id, input, parameters === undefined ? {} : { parameters });
        print(predict, output, () => JSON.stringify(output));
      },
    );
}

function parseInput(text: string): unknown {
  const parsed = json(z.unknown()).safeParse(text);
  if (parsed.success) return parsed.data;
  throw new UsageError('The input of this model is JSON: {"query": "…", "texts": ["…"]}');
}
