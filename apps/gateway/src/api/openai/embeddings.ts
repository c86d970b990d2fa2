import type { OpenAiRoutes } from '@sluice/contract';
import { featureExtraction, vectorSchema } from '@sluice/tasks';
import type { Context, HandlersOf } from '../../http/family.js';
import { Problem } from '../../http/problem.js';
import type { AnswerInputs } from '../../models/answerInputs.js';
import type { Catalog } from '../../models/catalog.js';
import { base64Of, numbersOf, showEach } from '../../models/jsonOutput.js';

interface Services {
  catalog: Catalog;
  answerInputs: AnswerInputs;
}

type EmbeddingsContext = Pick<Context<OpenAiRoutes['embeddings']>, 'body' | 'slot' | 'signal' | 'response'>;

/** Handlers of the routes about embeddings, which differ in their paths alone. */
export function embeddingsHandlers({
  catalog,
  answerInputs,
}: Services): Pick<HandlersOf<OpenAiRoutes>, 'embeddings' | 'embeddingsWithoutVersion'> {
  async function embeddings({ body, slot, signal, response }: EmbeddingsContext) {
    const model = catalog.forTask(body.model, featureExtraction.name);
    const isList = Array.isArray(body.input);
    const inputs: unknown[] = Array.isArray(body.input) ? body.input : [body.input];
    refuseTokens(inputs);
    const answers = await answerInputs(model, featureExtraction, {
      inputs,
      at: ['input'],
      isList,
      parameters: { truncate: false, ...(body.dimensions == null ? {} : { dimensions: body.dimensions }) },
      slot,
      signal,
      response,
    });
    const show = body.encoding_format === 'base64' ? base64Of : numbersOf;
    const vectors = await showEach(answers, ({ output }) => show(vectorSchema.parse(output)));
    const tokens = answers.reduce((sum, answer) => sum + answer.tokens, 0);
    return {
      object: 'list' as const,
      data: vectors.map((embedding, index) => ({ object: 'embedding' as const, index, embedding })),
      model: model.spec.id,
      usage: { prompt_tokens: tokens, total_tokens: tokens },
    };
  }
  return { embeddings, embeddingsWithoutVersion: embeddings };
}

/** @throws Problem `validation_failed` for token ids: they are of another model's tokenizer */
export function refuseTokens(inputs: readonly unknown[]): void {
  const [first] = inputs;
  if (typeof first !== 'number' && !(Array.isArray(first) && typeof first[0] === 'number')) return;
  throw new Problem('validation_failed', {
    errors: [
      {
        pointer: '/input',
        detail:
          "Token arrays are not accepted: send texts. With LangChain's OpenAIEmbeddings set " +
          'check_embedding_ctx_length=False',
      },
    ],
  });
}
