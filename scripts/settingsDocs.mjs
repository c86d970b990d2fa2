// Writes the table of settings in docs/configuration.md and .env.example from the schema: node scripts/settingsDocs.mjs
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { settingDocs, settingsSchema } from '@sluice/shared';
import { root } from './setup.mjs';

const page = join(root, 'docs/configuration.md');
const rows = settingDocs().map(
  (row) =>
    `| \`${row.name}\` | ${row.default === '' ? '' : `\`${row.default}\``} | ${row.unit} | ${row.meaning} |`,
);
const table = ['| variable | default | unit | meaning |', '| --- | --- | --- | --- |', ...rows].join('\n');
writeFileSync(
  page,
  readFileSync(page, 'utf8').replace(
    /(<!-- settings -->\n\n)[\s\S]+?(\n\n<!-- \/settings -->)/,
    (_all, start, end) => `${start}${table}${end}`,
  ),
);

const example = join(root, '.env.example');
const [head] = readFileSync(example, 'utf8').split('\n\n', 1);
const blocks = settingDocs().map((row) => {
  // A default that depends on the machine or the operator is left empty.
  const value = settingsSchema.shape[row.name].meta().shownDefault ? '' : row.default;
  const shown = value === '' && row.default !== '' ? `; default: ${row.default}` : '';
  return `# ${row.meaning} (${row.unit}${shown})\n#${row.name}=${value}`;
});
writeFileSync(example, `${[head, ...blocks].join('\n\n')}\n`);
