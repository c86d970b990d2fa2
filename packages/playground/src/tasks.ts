import { create } from './dom.js';

/** What a form sends to a model. */
interface Call {
  /** One input, or the list of them. */
  inputs: unknown;
  parameters: Readonly<Record<string, unknown>> | undefined;
}

/** A field of the form of a task. */
interface Field {
  name: string;
  title: string;
  hint?: string;
  kind: 'line' | 'text' | 'lines' | 'checkbox';
  example: string;
}

/** How the page shows a task: the fields of its form, and what they send. */
interface TaskForm {
  fields: readonly Field[];
  call: (value: (name: string) => string) => Call;
}

const text = (example: string): Field => ({ name: 'text', title: 'Text', kind: 'text', example });
const lines = (given: string) =>
  given
    .split('\n')
    .map((line) => line.trim())
    .filter((line) => line !== '');

const ONE_TEXT: TaskForm = {
  fields: [text('This product is amazing!')],
  call: (value) => ({ inputs: value('text'), parameters: undefined }),
};

/** The fields that a job has besides its file: parameters, which all of its texts share. */
const candidates: Field = {
  name: 'labels',
  title: 'Candidate labels',
  hint: 'separated by commas',
  kind: 'line',
  example: 'billing, shipping, praise',
};
const several: Field = {
  name: 'several',
  title: 'Several labels may apply',
  kind: 'checkbox',
  example: '',
};
const zeroShotParameters = (value: (name: string) => string) => ({
  candidate_labels: value('labels')
    .split(',')
    .map((name) => name.trim())
    .filter((name) => name !== ''),
  ...(value('several') === 'on' ? { multi_label: true } : {}),
});

const FORMS: Readonly<Record<string, TaskForm>> = {
  'zero-shot-classification': {
    fields: [text('My parcel has not arrived.'), candidates, several],
    call: (value) => ({ inputs: value('text'), parameters: zeroShotParameters(value) }),
  },
  'token-classification': {
    fields: [text('Ada Lovelace was born in London.')],
    call: (value) => ({ inputs: value('text'), parameters: undefined }),
  },
  'feature-extraction': {
    fields: [
      text('How do I reset my password?'),
      {
        name: 'sentences',
        title: 'Sentences to compare it with',
        hint: 'one on each line',
        kind: 'lines',
        example: 'I cannot log in any more.\nThe weather is lovely today.\nWhere can I change my passphrase?',
      },
    ],
    call: (value) => ({ inputs: [value('text'), ...lines(value('sentences'))], parameters: undefined }),
  },
  'text-ranking': {
    fields: [
      { name: 'query', title: 'Query', kind: 'line', example: 'What is the capital of France?' },
      {
        name: 'texts',
        title: 'Texts to rank',
        hint: 'one on each line',
        kind: 'lines',
        example: 'Berlin is in Germany.\nParis is the capital of France.\nBread is baked.',
      },
    ],
    call: (value) => ({
      inputs: { query: value('query'), texts: lines(value('texts')) },
      parameters: undefined,
    }),
  },
};

export const formOf = (task: string): TaskForm => FORMS[task] ?? ONE_TEXT;

/** The parameters that a job of this task needs, and its fields; a job of a task without an entry needs none. */
export const jobFormOf = (task: string): TaskForm =>
  task === 'zero-shot-classification'
    ? {
        fields: [candidates, several],
        call: (value) => ({ inputs: undefined, parameters: zeroShotParameters(value) }),
      }
    : { fields: [], call: () => ({ inputs: undefined, parameters: undefined }) };

/** Whether the inputs of a task are plain texts, so that a file of texts makes a job. */
export const takesTexts = (task: string): boolean => task !== 'text-ranking';

/** Puts fields into a container, with an example in each. */
export function showFields(container: HTMLElement, fields: readonly Field[], prefix: string): void {
  container.replaceChildren(
    ...fields.map((field) => {
      const id = `${prefix}-${field.name}`;
      const attributes = { id, name: field.name };
      const hint = field.hint === undefined ? [] : [' ', create('small', {}, field.hint)];
      if (field.kind === 'checkbox') {
        const box = create('input', { ...attributes, type: 'checkbox' });
        return create('div', { class: 'choice' }, create('label', { for: id }, box, ` ${field.title}`));
      }
      const control =
        field.kind === 'line'
          ? create('input', { ...attributes, required: '' })
          : create('textarea', { ...attributes, required: '' });
      control.value = field.example;
      return create('div', { class: 'field' }, create('label', { for: id }, field.title, ...hint), control);
    }),
  );
}
