import type { TeiModelRoutes, TeiRoutes } from '@sluice/contract';
import { featureExtraction, textClassification, textRanking, vectorSchema } from '@sluice/tasks';
import type { Response } from 'express';
import * as z from 'zod';
import { check } from '../../http/body.js';
import type { HandlersOf } from '../../http/family.js';
import { Problem } from '../../http/problem.js';
import type { Slot } from '../../limits/rateLimit.js';
import type { AnswerInputs } from '../../models/answerInputs.js';
import type { Catalog, CatalogEntry } from '../../models/catalog.js';
import { parseInput, parseParameters } from '../../models/inputs.js';
import { numbersOf, showEach } from '../../models/jsonOutput.js';
import { similarities } from '../../models/similarities.js';
import type { Tokenizers } from '../../models/tokenizers.js';
import { infoOf } from './info.js';

interface Services {
  routes: TeiRoutes;
  catalog: Catalog;
  tokenizers: Tokenizers;
  answerInputs: AnswerInputs;
  /** Maximum number of inputs of a request. */
  maxInputs: number;
  maxTextChars: number;
  version: string;
}

/** The parts of a request that an operation needs, on either path. */
interface Work<Body> {
  body: Body;
  /** Of a path that names a model. */
  params?: { id: string } | undefined;
  slot: Slot;
  signal: AbortSignal;
  response: Response;
}

type BodyOf<Name extends Exclude<keyof TeiRoutes, 'info'>> = z.infer<TeiRoutes[Name]['body']>;

/** Characters of all texts of a request for tokens, since the response has an object for each token. */
const MAX_TOKENIZED_CHARS = 100_000;
/** Texts of a request for a vector of each token: the response has hundreds of vectors for a text. */
const MAX_EMBED_ALL = 32;

const invalid = (pointer: string, detail: string) =>
  new Problem('validation_failed', { errors: [{ pointer, detail }] });

/** A request of one or many texts. */
function listOf(given: unknown): { inputs: unknown[]; isList: boolean } {
  const isList = Array.isArray(given);
  const inputs: unknown[] = isList ? given : [given];
  const [first] = inputs;
  if (typeof first === 'number' || (Array.isArray(first) && typeof first[0] === 'number'))
    throw invalid('/inputs', 'Token ids are not accepted: send texts');
  return { inputs, isList };
}

const textsSchema = z.union([z.tuple([z.string()]), z.tuple([z.string(), z.string()])]);

/** Inputs of `/predict`, where `["a", "b"]` is one pair, and `[["a"], ["b", "c"]]` a list of a text and a pair. */
function predictInputs(given: unknown): { inputs: unknown[]; isList: boolean } {
  const inputOf = (value: unknown): unknown => {
    const [text, pair] = textsSchema.safeParse(value).data ?? [];
    return pair === undefined ? text : { text, text_pair: pair };
  };
  if (!Array.isArray(given)) return { inputs: [given], isList: false };
  if (!given.some(Array.isArray)) {
    const input = inputOf(given);
    if (input === undefined)
      throw invalid(
        '/inputs',
        'A flat list is one text or one pair of texts; send a list of lists for many inputs',
      );
    return { inputs: [input], isList: false };
  }
  return {
    isList: true,
    inputs: given.map((value, i) => {
      const input = inputOf(value);
      if (input === undefined) throw invalid(`/inputs/${i}`, 'must be a list of one or two texts');
      return input;
    }),
  };
}

/** The parameters that all tasks share. */
const truncationOf = (given: {
  truncate?: boolean | null | undefined;
  truncation_direction: 'left' | 'right';
}) => ({ truncate: given.truncate ?? false, truncation_direction: given.truncation_direction });

const promptOf = ({ prompt_name: name }: { prompt_name?: string | null | undefined }) =>
  name == null ? {} : { prompt_name: name };

/** Handlers of the operations of text-embeddings-inference. */
export function teiOperations({
  routes,
  catalog,
  tokenizers,
  answerInputs,
  maxInputs,
  maxTextChars,
  version,
}: Services) {
  const modelFor = (params: { id: string } | undefined, task: CatalogEntry['spec']['task']) =>
    catalog.forTask(params?.id, task);

  /** The vectors of texts. */
  async function vectors(
    { params, slot, signal, response }: Work<unknown>,
    inputs: { inputs: readonly unknown[]; isList: boolean; at: readonly string[] },
    parameters: object,
  ) {
    const answers = await answerInputs(modelFor(params, featureExtraction.name), featureExtraction, {
      ...inputs,
      parameters,
      slot,
      signal,
      response,
    });
    return answers.map(({ output }) => output);
  }

  async function embed(work: Work<BodyOf<'embed'>>) {
    const { body } = work;
    const outputs = await vectors(
      work,
      { ...listOf(body.inputs), at: ['inputs'] },
      {
        ...truncationOf(body),
        ...promptOf(body),
        normalize: body.normalize,
        ...(body.dimensions == null ? {} : { dimensions: body.dimensions }),
      },
    );
    return showEach(outputs, (output) => numbersOf(vectorSchema.parse(output)));
  }

  async function embedAll(work: Work<BodyOf<'embedAll'>>) {
    const { body } = work;
    const list = listOf(body.inputs);
    if (list.inputs.length > MAX_EMBED_ALL)
      throw invalid('/inputs', `The list has ${list.inputs.length} texts; the maximum is ${MAX_EMBED_ALL}`);
    const parameters = { ...truncationOf(body), ...promptOf(body), pooling: 'none' };
    const outputs = await vectors(work, { ...list, at: ['inputs'] }, parameters);
    return showEach(outputs, (output) => [output].flat().map(numbersOf));
  }

  async function similarity(work: Work<BodyOf<'similarity'>>) {
    const { inputs, parameters } = work.body;
    const { source_sentence: source, sentences } = inputs;
    const outputs = await vectors(
      work,
      { inputs: [source, ...sentences], isList: true, at: ['inputs'] },
      parameters ? { ...truncationOf(parameters), ...promptOf(parameters) } : { truncate: false },
    );
    return similarities(outputs.map((output) => vectorSchema.parse(output)));
  }

  async function rerank({ body, params, slot, signal, response }: Work<BodyOf<'rerank'>>) {
    const { query, texts } = body;
    const [answer] = await answerInputs(modelFor(params, textRanking.name), textRanking, {
      inputs: [{ query, texts }],
      at: [],
      isList: false,
      parameters: { ...truncationOf(body), raw_scores: body.raw_scores },
      slot,
      signal,
      response,
    });
    return (answer?.output ?? []).map(({ index, score }) => ({
      index,
      ...(body.return_text ? { text: texts[index] } : {}),
      score,
    }));
  }

  async function predict({ body, params, slot, signal, response }: Work<BodyOf<'predict'>>) {
    const list = predictInputs(body.inputs);
    const answers = await answerInputs(modelFor(params, textClassification.name), textClassification, {
      ...list,
      at: ['inputs'],
      parameters: { ...truncationOf(body), ...(body.raw_scores ? { function_to_apply: 'none' } : {}) },
      slot,
      signal,
      response,
    });
    const predictions = answers.map(({ output }) => output.map(({ score, label }) => ({ score, label })));
    return list.isList ? predictions : (predictions[0] ?? []);
  }

  async function tokenize({ body, params }: Pick<Work<BodyOf<'tokenize'>>, 'body' | 'params'>) {
    const model = params ? catalog.named(params.id) : catalog.entries[0];
    const list = listOf(body.inputs);
    if (list.inputs.length > maxInputs)
      throw invalid('/inputs', `The list has ${list.inputs.length} texts; the maximum is ${maxInputs}`);
    const texts = list.inputs.map((text, i) => {
      const parsed = parseInput(featureExtraction, text, maxTextChars);
      if ('input' in parsed) return parsed.input;
      throw invalid(`/inputs${list.isList ? `/${i}` : ''}`, parsed.refusal.detail);
    });
    if (texts.length === 0) throw invalid('/inputs', 'The list is empty');
    if (texts.reduce((sum, text) => sum + text.length, 0) > MAX_TOKENIZED_CHARS)
      throw invalid('/inputs', `The texts together have more than ${MAX_TOKENIZED_CHARS} characters`);
    const read = await promptedBy(model, body.prompt_name ?? undefined);
    const tokenizer = await tokenizers.of(model.spec);
    const tokens = [];
    for (const text of texts) tokens.push(await tokenizer.tokens(read(text), body.add_special_tokens));
    return tokens;
  }

  /**
   * Puts a prompt of an embedding model before a text, as a request for its vector would.
   * @throws Problem `no_worker` while the prompts are not known; `validation_failed`
   */
  async function promptedBy(
    model: CatalogEntry,
    name: string | undefined,
  ): Promise<(text: string) => string> {
    if (model.spec.task !== featureExtraction.name) {
      if (name !== undefined) throw invalid('/prompt_name', 'The model has no prompts');
      return (text) => text;
    }
    await model.lanes.interactive.admission.requireWorker();
    const facts = featureExtraction.facts.safeParse(model.facts()).data;
    if (facts === undefined) throw new Problem('no_worker');
    const parameters = parseParameters(
      featureExtraction,
      promptOf({ prompt_name: name }),
      facts,
      maxTextChars,
    );
    return (text) => featureExtraction.rows(text, parameters, facts)[0]?.text ?? text;
  }

  async function info({ params }: { params?: { id: string } | undefined }) {
    return infoOf(params ? catalog.named(params.id) : catalog.entries[0], maxInputs, version);
  }

  /** What the first model gives, or the first one for the task that the body fits. */
  async function root(work: Work<BodyOf<'root'>>) {
    if (work.body.inputs === undefined && work.body.texts !== undefined)
      return rerank({ ...work, body: check(routes.rerank.body, work.body) });
    const fits: readonly string[] = [featureExtraction.name, textClassification.name];
    const model = catalog.entries.find(({ spec }) => fits.includes(spec.task));
    return model?.spec.task === textClassification.name
      ? predict({ ...work, body: check(routes.predict.body, work.body) })
      : embed({ ...work, body: check(routes.embed.body, work.body) });
  }

  const operations = { embed, embedAll, similarity, rerank, predict, tokenize, info };
  return {
    ofFirst: { ...operations, root } satisfies HandlersOf<TeiRoutes>,
    ofNamed: operations satisfies HandlersOf<TeiModelRoutes>,
  };
}
