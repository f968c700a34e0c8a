// What failed in a tap test file, from its output: shown once more where the whole
// suite ends, since a log that was cut keeps its end.

/** Lines of one failure's diagnosis that are told. */
const diagnosisLines = 10;
/** Where the failure stands in the file is in its stack; the rest quotes the test's own text. */
const told = (key) => !['at', 'compare', 'source', 'stack', 'tapCaught'].includes(key);

const indentOf = (line) => line.length - line.trimStart().length;

/** An assertion, but no subtest's own line, which repeats what is inside it. */
export const isLeaf = (line) => /^ *(not )?ok \d+/.test(line) && !/ # time=/.test(line);
export const isSkip = (line) => / # (SKIP|TODO)/i.test(line);
const isFailure = (line) => isLeaf(line) && /^ *not ok/.test(line) && !isSkip(line);

/** Each with the names of the tests around it. */
export function failuresIn(text) {
  const lines = text.split('\n');
  const tests = [];
  const failures = [];
  for (const [at, line] of lines.entries()) {
    const level = indentOf(line) / 4;
    const subtest = /^ *# Subtest: (.*)/.exec(line);
    if (subtest !== null) tests.splice(level, tests.length, subtest[1]);
    if (!isFailure(line)) continue;
    const name = line.replace(/^ *not ok \d+( - )?/, '');
    failures.push({
      name: [...tests.slice(0, level), name].join(' > '),
      diagnosis: diagnosis(lines, at + 1),
    });
  }
  return failures;
}

/** The difference first; where it failed last. */
function diagnosis(lines, from) {
  if (lines[from]?.trim() !== '---') return [];
  const indent = indentOf(lines[from]);
  const blocks = new Map();
  let block = [];
  for (let at = from + 1; at < lines.length && lines[at].trim() !== '...'; at++) {
    const line = lines[at].slice(indent).trimEnd();
    const key = /^(\w+):/.exec(line)?.[1];
    if (key !== undefined) {
      block = [];
      blocks.set(key, block);
    }
    if (line !== '') block.push(line);
  }
  const rest = [...blocks].filter(([key]) => told(key) && key !== 'diff').flatMap(([, block]) => block);
  const place = blocks.get('stack') ?? blocks.get('at') ?? [];
  const kept = [...(blocks.get('diff') ?? []), ...rest].slice(0, diagnosisLines - 2);
  return [...kept, ...place.slice(0, 2)];
}
