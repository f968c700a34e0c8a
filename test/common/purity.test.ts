/**
 * The rule that keeps raft/ and conversation/ without clock, chance, promises and
 * I/O is one that can fail: each of these is refused there, and only there.
 */
import { ESLint } from 'eslint';
import t from 'tap';

const forbidden = [
  'export const now = () => Date.now();',
  'export const now = () => new Date();',
  'export const chance = () => Math.random();',
  "export const chance = () => Math['random']();",
  'export const later = (fn: () => void) => setTimeout(fn, 1);',
  'export const later = (fn: () => void) => queueMicrotask(fn);',
  'export const later = () => Promise.resolve();',
  'export async function later() {}',
  'export const now = () => performance.now();',
  'export const setting = () => process.env.X;',
  'export const now = () => globalThis.Date.now();',
  "import fs from 'node:fs'; export const read = fs.readFileSync;",
  "import { Level } from 'level'; export const open = Level;",
  "export const load = () => import('../wal/wal.js');",
  'export const order = (a: string, b: string) => a.localeCompare(b);',
];

t.test('what the cores may not know is refused in them', async (t) => {
  // Type-aware rules need files of the project; these snippets are of none.
  const eslint = new ESLint({
    overrideConfig: [
      {
        files: ['src/**/*.ts'],
        languageOptions: { parserOptions: { projectService: false } },
        rules: { '@typescript-eslint/no-floating-promises': 'off' },
      },
    ],
  });
  for (const code of forbidden) {
    for (const folder of ['raft', 'conversation']) {
      const [result] = await eslint.lintText(code, { filePath: `src/${folder}/snippet.ts` });
      t.ok((result?.errorCount ?? 0) > 0, `${folder}: ${code}`);
    }
    const [elsewhere] = await eslint.lintText(code, { filePath: 'src/node/snippet.ts' });
    t.equal(elsewhere?.errorCount, 0, `elsewhere: ${code}`);
  }
  const fine =
    "import { assert } from '../common/errors.js'; export const f = (a: number) => assert(a > 0, 'x');";
  const [result] = await eslint.lintText(fine, { filePath: 'src/raft/snippet.ts' });
  t.equal(result?.errorCount, 0, 'what they may know passes');
});
