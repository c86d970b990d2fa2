import { create } from './dom.js';

interface Scored {
  label: string;
  score: number;
}

const percent = (share: number) => `${(100 * share).toFixed(1)} %`;

/** Horizontal bars, each with its name and value. */
export function bars(entries: readonly { name: string; share: number; value: string }[]): HTMLElement {
  return create(
    'dl',
    { class: 'bars' },
    ...entries.map(({ name, share, value }) => {
      const bar = create('div', { class: 'bar' });
      bar.style.width = `${100 * Math.min(1, Math.max(0, share))}%`;
      const track = create('dd', { class: 'track', 'aria-hidden': 'true' }, bar);
      return create('div', {}, create('dt', {}, name), track, create('dd', { class: 'value' }, value));
    }),
  );
}

/** Labels with scores; those of a regression are numbers of any size. */
function labels(output: readonly Scored[]): HTMLElement {
  const areShares = output.every(({ score }) => score >= 0 && score <= 1);
  return bars(
    output.map(({ label, score }) => ({
      name: label,
      share: areShares ? score : 0,
      value: areShares ? percent(score) : score.toFixed(4),
    })),
  );
}

interface Entity {
  entity_group?: string;
  entity?: string;
  score: number;
  start: number;
  end: number;
}

/** A text with its entities marked. Their positions count Unicode characters. */
function marked(text: string, entities: readonly Entity[]): HTMLElement {
  if (entities.length === 0) return create('p', {}, 'No entities found.');
  const characters = Array.from(text);
  const slice = (start: number, end: number) => characters.slice(start, end).join('');
  const paragraph = create('p');
  let done = 0;
  for (const { start, end, score, entity_group, entity } of entities) {
    if (start < done) continue;
    const kind = entity_group ?? entity ?? '';
    paragraph.append(
      slice(done, start),
      create('mark', { title: percent(score) }, slice(start, end), create('small', {}, kind)),
    );
    done = end;
  }
  paragraph.append(slice(done, characters.length));
  return paragraph;
}

/** Texts in order, the best first. */
function ranked(entries: readonly { text: string; score: number }[], what: string): HTMLElement {
  return create(
    'ol',
    { class: 'ranked' },
    ...entries.map(({ text, score }) =>
      create('li', {}, text, ' ', create('span', { class: 'quiet value' }, `${what} ${score.toFixed(4)}`)),
    ),
  );
}

/** Cosine similarity of two vectors. */
function similarity(one: readonly number[], other: readonly number[]): number {
  let dot = 0;
  let oneSquare = 0;
  let otherSquare = 0;
  for (const [i, value] of one.entries()) {
    const otherValue = other[i] ?? 0;
    dot += value * otherValue;
    oneSquare += value * value;
    otherSquare += otherValue * otherValue;
  }
  return dot / Math.sqrt(oneSquare * otherSquare);
}

/** Shows the output of a model as it fits its task. */
export function outcome(task: string, inputs: unknown, output: unknown): HTMLElement {
  switch (task) {
    case 'text-classification':
    case 'zero-shot-classification':
      // The output for one input of a classifier is a list with one list of labels.
      return labels(
        (Array.isArray((output as unknown[])[0]) ? (output as unknown[])[0] : output) as Scored[],
      );
    case 'token-classification':
      return marked(String(inputs), output as Entity[]);
    case 'text-ranking': {
      const { texts } = inputs as { texts: string[] };
      const ranks = output as { index: number; score: number }[];
      return ranked(
        ranks.map(({ index, score }) => ({ text: texts[index] ?? '', score })),
        'score',
      );
    }
    case 'feature-extraction': {
      const [first = [], ...others] = output as number[][];
      const [, ...sentences] = inputs as string[];
      const nearest = others
        .map((vector, i) => ({ text: sentences[i] ?? '', score: similarity(first, vector) }))
        .sort((one, other) => other.score - one.score);
      return create(
        'div',
        {},
        create('p', {}, `Each text has a vector of ${first.length} numbers. Sentences, most similar first:`),
        ranked(nearest, 'similarity'),
      );
    }
    default:
      return create('pre', {}, JSON.stringify(output, null, 2));
  }
}

/** What a result counts as in the chart of a job: the best label, the kinds of entities, or that there is an output. */
export function kindsOf(task: string, output: unknown): string[] {
  if (task === 'text-classification' || task === 'zero-shot-classification') {
    const [best] = output as Scored[];
    return [best?.label ?? 'no label'];
  }
  if (task === 'token-classification') {
    const kinds = (output as Entity[]).map(({ entity_group, entity }) => entity_group ?? entity ?? '');
    return kinds.length === 0 ? ['no entity'] : [...new Set(kinds)];
  }
  return ['output'];
}

/** An output in one cell of a table. */
export function cellOf(task: string, output: unknown): string {
  if (task === 'text-classification' || task === 'zero-shot-classification') {
    const [best] = output as Scored[];
    return best === undefined ? '' : `${best.label} (${best.score.toFixed(4)})`;
  }
  if (task === 'feature-extraction') return `a vector of ${(output as number[]).length} numbers`;
  return JSON.stringify(output);
}
