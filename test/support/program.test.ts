/** Programs for people who work on Hansard say what they take, and what was wrong. */
import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import t from 'tap';

const program = fileURLToPath(new URL('../raft/oracle/main.js', import.meta.url));
const crashes = fileURLToPath(new URL('../crash/main.js', import.meta.url));
const run = (...args: string[]) => {
  const { status, stdout, stderr } = spawnSync(process.execPath, args, { encoding: 'utf8' });
  return { status, stdout, stderr };
};

t.test('help is an answer, wrong use is none', async (t) => {
  t.match(run(program, '--help'), { status: 0, stdout: /^Usage: npm run oracle/ });
  t.match(run(program, '--nope'), { status: 2, stderr: /Unknown option '--nope'\n\nUsage/ });
  t.match(run(program, 'a', 'b'), { status: 2, stderr: /what is b\?/ });
  t.match(run(program, '/nowhere'), { status: 2, stderr: /there is no \/nowhere/ });
  t.match(run(crashes, '--states', '1.5'), { status: 2, stderr: /--states takes a whole number from 1 on/ });
});
