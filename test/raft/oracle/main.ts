/** `npm run oracle -- DIR`: every script under DIR; the first difference of each that fails, then the counts. */
import { relative } from 'node:path';
import { runFile, scriptFiles } from './run.js';

const folder = process.argv[2];
if (folder === undefined) {
  console.error('usage: npm run oracle -- DIR');
  process.exit(2);
}
let passed = 0;
let failed = 0;
for (const path of scriptFiles(folder)) {
  const problem = runFile(path);
  const name = relative(folder, path) || path;
  if (problem === undefined) {
    passed++;
    console.log(`ok      ${name}`);
  } else {
    failed++;
    console.log(`not ok  ${name}\n${problem.replace(/^/gm, '    ')}`);
  }
}
console.log(`${passed} passed, ${failed} failed`);
process.exitCode = failed === 0 && passed > 0 ? 0 : 1;
