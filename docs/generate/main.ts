/** `npm run docs:api`: writes docs/api.md anew; `--check` only tells whether it is as it should be. */
import { readFileSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { apiPage } from './api.js';

const root = fileURLToPath(new URL('../../..', import.meta.url));
const file = `${root}docs/api.md`;
const { text, missing } = apiPage(
  `${root}proto`,
  readFileSync(`${root}docs/generate/api.template.md`, 'utf8'),
);
for (const name of missing) console.error(`${name} has no comment`);
if (missing.length > 0) process.exitCode = 1;
if (process.argv.includes('--check')) {
  if (readFileSync(file, 'utf8') !== text) {
    console.error('docs/api.md is not what the protos say: run `npm run docs:api`');
    process.exitCode = 1;
  }
} else {
  writeFileSync(file, text);
  console.log('docs/api.md is written');
}
