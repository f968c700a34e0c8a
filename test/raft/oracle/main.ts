/** `npm run oracle -- DIR`: every script under DIR; the first difference of each that fails, then the counts. */
import { statSync } from 'node:fs';
import { relative } from 'node:path';
import { programOf } from '../../support/program.js';
import { runFile, scriptFiles } from './run.js';

const usage = `Usage: npm run oracle -- DIR

Runs etcd raft's interaction scripts under DIR through the bare core: a line for each, and where one fails its first difference.

Prints "N passed, N failed"; exit 0 if all passed and there were some, 1 if not, 2 for wrong use.`;

const { positionals, wrongUse } = programOf(usage, {}, 1);
const folder = positionals[0] ?? wrongUse('give the folder with the scripts');
if (statSync(folder, { throwIfNoEntry: false }) === undefined) wrongUse(`there is no ${folder}`);
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
