import type { Command } from 'commander';
import { connect, print } from './terminal.js';

/** Adds `predict`. */
export function addPredictCommand(program: Command): void {
  const predict = program
    .command('predict')
    .description('one answer')
    .argument('<text>')
    .option('--model <id>', 'a configured model; without it, the default')
    .action(async (text: string, { model }: { model?: string }) => {
      const answer = await (await connect()).predict(text, model === undefined ? {} : { model });
      print(predict, answer, () => `${answer.sentiment}  ${answer.confidence}`);
    });
}
