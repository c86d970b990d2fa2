import { type Aggregation, type Entity, softmax, tokenClassification } from '@sluice/tasks';
import * as z from 'zod';
import { tokenValuesOf } from '../sequenceModel.js';
import { type LoadTaskModel, PROBE_TEXTS, resultOf } from '../taskModel.js';
import type { EncodedRow, RowTokenizer } from '../tokenizer.js';
import { labelsOf } from './labels.js';

const [WARM_UP] = PROBE_TEXTS;
/** Names of the tensor with a vector for each token. */
const TENSORS = ['logits'];
const aggregationSchema = tokenClassification.parameters.shape.aggregation_strategy;

/** A token of the text with the scores of its labels. */
interface ScoredToken {
  token: string;
  scores: Float32Array;
  /** In Unicode characters of the text. */
  start: number;
  end: number;
  /** Whether it continues a word. */
  isSubword: boolean;
}

/** A token or a word with its best label. */
interface Labeled {
  label: string;
  score: number;
  tokens: readonly string[];
  start: number;
  end: number;
}

/** Token classification. Entities are joined as `transformers.pipelines.token_classification` of Python joins them. */
export const loadTokenClassification: LoadTaskModel = async (model) => {
  const { tokenizer } = model;
  const warmUp = await model.run([{ text: WARM_UP }], { direction: 'right', strategy: 'longest_first' });
  const labels = labelsOf(model.folder, tokenValuesOf(warmUp, TENSORS).size);
  return {
    facts: { labels },
    probes: { inputs: PROBE_TEXTS, parameters: { aggregation_strategy: 'none', ignore_labels: [] } },
    async run(rows, { truncation_direction: direction, aggregation_strategy: given }) {
      const aggregation = aggregationSchema.parse(given);
      const output = await model.run(rows, { direction, strategy: 'longest_first' });
      const { values, size } = tokenValuesOf(output, TENSORS);
      return output.rows.map((row, i) => {
        const at = (token: number) => (i * output.length + token) * size;
        const scoresOf = (token: number) => softmax(values.subarray(at(token), at(token + 1)));
        const tokens = scoredTokens(rows[i]?.text ?? '', row, scoresOf, tokenizer);
        return resultOf(row, entitiesOf(tokens, aggregation, labels, tokenizer));
      });
    },
  };
};

const offsetsSchema = z.array(z.tuple([z.number(), z.number()]));

/** The tokens of a row without special ones. */
function scoredTokens(
  text: string,
  { encoding, ids }: EncodedRow,
  scoresOf: (token: number) => Float32Array,
  tokenizer: RowTokenizer,
): ScoredToken[] {
  const characters = Array.from(text);
  const isSpecial = encoding.getSpecialTokensMask();
  const offsets = offsetsSchema.parse(encoding.getOffsets());
  return ids.flatMap((id, i): ScoredToken[] => {
    if (isSpecial[i] === 1) return [];
    const [start, end] = offsets[i] ?? [0, 0];
    const isUnknown = id === tokenizer.unknownId;
    const part = characters.slice(start, end).join('');
    const token = tokenizer.token(id);
    // A tokenizer that marks subwords shows one by the length of the mark. Otherwise a token that does not follow a space
    // counts as one.
    const isSubword = tokenizer.marksSubwords
      ? Array.from(token).length !== end - start
      : start > 0 && !characters.slice(start - 1, start + 1).includes(' ');
    return [
      {
        token: isUnknown ? part : token,
        scores: scoresOf(i),
        start,
        end,
        isSubword: !isUnknown && isSubword,
      },
    ];
  });
}

function best(scores: Float32Array): { index: number; score: number } {
  let index = 0;
  for (const [i, score] of scores.entries()) if (score > (scores[index] ?? Number.NaN)) index = i;
  return { index, score: scores[index] ?? Number.NaN };
}

/** Joins tokens to entities. */
function entitiesOf(
  tokens: readonly ScoredToken[],
  aggregation: Aggregation,
  labels: readonly string[],
  tokenizer: RowTokenizer,
): Entity[] {
  const labelOf = (index: number) => labels[index] ?? '';
  if (aggregation === 'none' || aggregation === 'simple') {
    const labeled = tokens.map(({ token, scores, start, end }): Labeled => {
      const { index, score } = best(scores);
      return { label: labelOf(index), score, tokens: [token], start, end };
    });
    return aggregation === 'simple'
      ? grouped(labeled, tokenizer)
      : labeled.map(({ label, score, tokens: [word = ''], start, end }) => ({
          entity: label,
          score,
          word,
          start,
          end,
        }));
  }
  return grouped(
    words(tokens).map((word): Labeled => {
      const { index, score } = best(wordScores(word, aggregation));
      const text = tokenizer.textOf(word.map(({ token }) => token));
      return {
        label: labelOf(index),
        score,
        tokens: [text],
        start: word[0].start,
        end: word.at(-1)?.end ?? 0,
      };
    }),
    tokenizer,
  );
}

type Word = [ScoredToken, ...ScoredToken[]];

function words(tokens: readonly ScoredToken[]): Word[] {
  const all: Word[] = [];
  for (const token of tokens) {
    const last = all.at(-1);
    if (last && token.isSubword) last.push(token);
    else all.push([token]);
  }
  return all;
}

/** The scores of a word by those of its tokens. */
function wordScores(word: Word, aggregation: 'first' | 'average' | 'max'): Float32Array {
  const [first] = word;
  switch (aggregation) {
    case 'first':
      return first.scores;
    case 'max':
      return word.reduce((top, token) => (best(token.scores).score > best(top.scores).score ? token : top))
        .scores;
    case 'average':
      return first.scores.map(
        (_, label) => word.reduce((sum, { scores }) => sum + (scores[label] ?? Number.NaN), 0) / word.length,
      );
  }
}

/** `B-PER` is the beginning of the tag `PER`. A label without such a prefix continues an entity. */
function tagOf(label: string): { tag: string; begins: boolean } {
  const [, prefix, tag] = /^([BI])-(.*)$/s.exec(label) ?? [];
  return { tag: tag ?? label, begins: prefix === 'B' };
}

/** Joins neighbors with the same tag, except where an entity begins. */
function grouped(parts: readonly Labeled[], tokenizer: RowTokenizer): Entity[] {
  const groups: [Labeled, ...Labeled[]][] = [];
  for (const part of parts) {
    const last = groups.at(-1);
    const { tag, begins } = tagOf(part.label);
    if (last && !begins && tag === tagOf(last.at(-1)?.label ?? '').tag) last.push(part);
    else groups.push([part]);
  }
  return groups.map((group) => {
    const [{ label, start }] = group;
    return {
      // Python takes what follows the first hyphen, whatever the prefix is.
      entity_group: label.replace(/^[^-]*-/, ''),
      score: group.reduce((sum, { score }) => sum + score, 0) / group.length,
      word: tokenizer.textOf(group.flatMap(({ tokens }) => tokens)),
      start,
      end: group.at(-1)?.end ?? start,
    };
  });
}
