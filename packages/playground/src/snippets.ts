/** What the page has just done. */
export type Action = OneAction | FileAction;

interface OneAction {
  kind: 'one';
  model: string;
  inputs: unknown;
  parameters: Readonly<Record<string, unknown>> | undefined;
}

interface FileAction {
  kind: 'file';
  model: string;
  parameters: Readonly<Record<string, unknown>> | undefined;
}

/** Quotes an argument for a shell. */
const shell = (text: string) => `'${text.replaceAll("'", `'\\''`)}'`;
const indented = (value: unknown, spaces: number) =>
  JSON.stringify(value, null, 2).replaceAll('\n', `\n${' '.repeat(spaces)}`);

/** A value as Python writes it. */
function python(value: unknown): string {
  if (value === true) return 'True';
  if (value === false) return 'False';
  if (value === null || value === undefined) return 'None';
  if (Array.isArray(value)) return `[${value.map(python).join(', ')}]`;
  if (typeof value === 'object')
    return `{${Object.entries(value)
      .map(([name, entry]) => `${JSON.stringify(name)}: ${python(entry)}`)
      .join(', ')}}`;
  return JSON.stringify(value);
}

/** A program as the lines of a text. */
const program = (...lines: string[]) => `${lines.join('\n')}\n`;

/** The same as code to copy. The key is not part of it, but the environment variable `SLUICE_API_KEY`. */
export function snippet(language: string, url: string, action: Action): string {
  switch (language) {
    case 'typescript':
      return typescript(url, action);
    case 'python':
      return pythonProgram(url, action);
    default:
      return curl(url, action);
  }
}

const pathOf = (model: string) => `/models/${model.split('/').map(encodeURIComponent).join('/')}`;
const bodyOf = ({ inputs, parameters }: OneAction) => ({ inputs, ...(parameters ? { parameters } : {}) });
/** The first line of an upload. */
const batchOf = ({ model, parameters }: Action) => ({
  batch: { model, ...(parameters ? { parameters } : {}) },
});

function curl(url: string, action: Action): string {
  const key = `-H "X-API-Key: $SLUICE_API_KEY"`;
  if (action.kind === 'one')
    return program(
      `curl -X POST ${url}${pathOf(action.model)} \\`,
      `  ${key} \\`,
      `  -H 'Content-Type: application/json' \\`,
      `  -d ${shell(JSON.stringify(bodyOf(action)))}`,
    );
  return program(
    '# Each line of texts.txt becomes a JSON string.',
    `(echo ${shell(JSON.stringify(batchOf(action)))}; jq -R . texts.txt) |`,
    `  curl -X POST ${url}/analyze_batch ${key} \\`,
    `    -H 'Content-Type: application/x-ndjson' --data-binary @-`,
    '',
    '# Replace JOB_ID by the job_id of the response:',
    `curl ${url}/jobs/JOB_ID ${key}`,
    `curl ${url}/jobs/JOB_ID/results ${key} -H 'Accept: application/x-ndjson'`,
  );
}

function typescript(url: string, action: Action): string {
  const { model, parameters } = action;
  const client = `const sluice = new Sluice({ url: ${JSON.stringify(url)}, apiKey: process.env.SLUICE_API_KEY ?? '' });`;
  const given = parameters ? [`  parameters: ${indented(parameters, 2)},`] : [];
  if (action.kind === 'one')
    return program(
      `import { Sluice } from '@sluice/client';`,
      '',
      client,
      `const inputs = ${indented(action.inputs, 0)};`,
      ...(parameters
        ? [`const output = await sluice.infer(${JSON.stringify(model)}, inputs, {`, ...given, '});']
        : [`const output = await sluice.infer(${JSON.stringify(model)}, inputs);`]),
      'console.log(output);',
    );
  return program(
    `import { readFile } from 'node:fs/promises';`,
    `import { Sluice } from '@sluice/client';`,
    '',
    client,
    `const texts = (await readFile('texts.txt', 'utf8')).trimEnd().split('\\n');`,
    'const { job_id } = await sluice.batch(texts, {',
    `  model: ${JSON.stringify(model)},`,
    ...given,
    '});',
    'for await (const { progress } of sluice.events(job_id)) console.log(progress);',
    'for await (const result of sluice.results(job_id)) console.log(result);',
  );
}

function pythonProgram(url: string, action: Action): string {
  const headers = 'headers = {"X-API-Key": os.environ["SLUICE_API_KEY"]}';
  if (action.kind === 'one')
    return program(
      'import os',
      '',
      'import requests',
      '',
      headers,
      `body = ${python(bodyOf(action))}`,
      `response = requests.post(${JSON.stringify(url + pathOf(action.model))}, headers=headers, json=body)`,
      'response.raise_for_status()',
      'print(response.json())',
    );
  return program(
    'import json',
    'import os',
    'import time',
    '',
    'import requests',
    '',
    `url = ${JSON.stringify(url)}`,
    headers,
    'with open("texts.txt", encoding="utf-8") as file:',
    '    texts = file.read().splitlines()',
    `lines = [${python(batchOf(action))}, *texts]`,
    'response = requests.post(',
    '    url + "/analyze_batch",',
    '    headers={**headers, "Content-Type": "application/x-ndjson"},',
    '    data="\\n".join(json.dumps(line) for line in lines),',
    ')',
    'response.raise_for_status()',
    'job_url = url + response.json()["status_url"]',
    'while (job := requests.get(job_url, headers=headers).json())["status"] in ("queued", "running"):',
    '    print(job["progress"])',
    '    time.sleep(1)',
    'results = requests.get(job_url + "/results", headers={**headers, "Accept": "application/x-ndjson"})',
    'print(results.text)',
  );
}
