// Generates models.schema.json, the JSON Schema of models.json for editors: node scripts/modelsSchema.mjs
import { writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { modelsJsonSchema } from '@sluice/shared';

const file = fileURLToPath(new URL('../models.schema.json', import.meta.url));
writeFileSync(file, `${JSON.stringify(modelsJsonSchema(), null, 2)}\n`);
