/** `npm run linearizability -- DIR`: judges every history under a folder, and compares with the known verdicts. */
import fs from 'node:fs';
import { judgeDefaults, judgeFolder } from './judge.js';

const usage = `Usage: npm run linearizability -- DIR [--json] [--time-limit SECONDS]

Judges every history under DIR (the forms of ../shared/oracles/linearizability):
  *.log                  a register; verdicts.tsv beside it holds its verdict
  *-ok.txt, *-bad.txt    texts with get, put and append
and of channels, at every read level (test/linearizability/README.md):
  *-ok.jsonl, *-bad.jsonl

--json                   one JSON object a history instead of a line
--time-limit SECONDS     for one history; beyond it the verdict is "unknown" (${judgeDefaults.timeLimitMs / 1_000})

Prints "N passed, N failed"; exit 0 if all passed, 1 if not, 2 for wrong use.`;

function main(argv: readonly string[]): number {
  let folder: string | undefined;
  let json = false;
  let { timeLimitMs } = judgeDefaults;
  for (let i = 0; i < argv.length; i++) {
    const word = argv[i] as string;
    if (word === '--help' || word === '-h') {
      console.log(usage);
      return 0;
    }
    if (word === '--json') json = true;
    else if (word === '--time-limit') timeLimitMs = Number(argv[++i]) * 1_000;
    else if (word.startsWith('-') || folder !== undefined) return wrongUse(`what is ${word}?`);
    else folder = word;
  }
  if (folder === undefined) return wrongUse('give the folder with the histories');
  if (!(timeLimitMs > 0)) return wrongUse('--time-limit takes a number of seconds above 0');
  if (!fs.statSync(folder, { throwIfNoEntry: false })?.isDirectory())
    return wrongUse(`${folder} is no folder`);

  let passed = 0;
  let failed = 0;
  for (const judged of judgeFolder(folder, { timeLimitMs })) {
    const isRight = judged.found === judged.expected;
    if (isRight) passed++;
    else failed++;
    if (json) console.log(JSON.stringify({ ...judged, passed: isRight }));
    else {
      const line = `${isRight ? 'ok  ' : 'FAIL'} ${judged.file}: ${judged.found}, ${judged.operations} operations, ${judged.ms.toFixed(0)} ms`;
      console.log(isRight ? line : `${line}; expected ${judged.expected}. ${judged.detail}`);
    }
  }
  console.log(json ? JSON.stringify({ passed, failed }) : `${passed} passed, ${failed} failed`);
  return failed === 0 ? 0 : 1;
}

function wrongUse(problem: string): number {
  console.error(`${problem}\n\n${usage}`);
  return 2;
}

try {
  process.exitCode = main(process.argv.slice(2));
} catch (error) {
  console.error(error instanceof Error ? error.message : error);
  process.exitCode = 2;
}
