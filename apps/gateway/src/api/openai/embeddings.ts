import type { OpenAiRoutes } from '@sluice/contract';
import { featureExtraction, vectorSchema } from '@sluice/tasks';
import { pointer } from '../../http/body.js';
import type { Context, HandlersOf } from '../../http/family.js';
import { Problem } from '../../http/problem.js';
import type { AnswerInputs } from '../../models/answerInputs.js';
import type { Catalog } from '../../models/catalog.js';
import { base64Of, type EncodingFormat, numbersOf, showEach } from '../../models/jsonOutput.js';

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
    const vectors = answers.map(({ output }) => vectorSchema.parse(output));
    const tokens = answers.reduce((sum, answer) => sum + answer.tokens, 0);
    return embeddingsAnswer(model.spec.id, vectors, tokens, body.encoding_format ?? 'float');
  }
  return { embeddings, embeddingsWithoutVersion: embeddings };
}

/** The body of a response with embeddings. Vectors take long to write as decimals, so other requests go on in between. */
export async function embeddingsAnswer(
  model: string,
  vectors: readonly Float32Array[],
  tokens: number,
  format: EncodingFormat,
) {
  const embeddings = await showEach(vectors, (vector) =>
    format === 'base64' ? base64Of(vector) : numbersOf(vector),
  );
  return {
    object: 'list' as const,
    data: embeddings.map((embedding, index) => ({ object: 'embedding' as const, index, embedding })),
    model,
    usage: { prompt_tokens: tokens, total_tokens: tokens },
  };
}

/** @throws Problem `validation_failed` for token ids: they are of another model's tokenizer */
export function refuseTokens(inputs: readonly unknown[], at: readonly string[] = ['input']): void {
  const [first] = inputs;
  if (typeof first !== 'number' && !(Array.isArray(first) && typeof first[0] === 'number')) return;
  throw new Problem('validation_failed', {
    errors: [
      {
        pointer: pointer(at),
        detail:
          "Token arrays are not accepted: send texts. With LangChain's OpenAIEmbeddings set " +
          'check_embedding_ctx_length=False',
      },
    ],
  });
}
