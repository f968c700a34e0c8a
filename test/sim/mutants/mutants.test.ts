/**
 * Every planted bug still fits the code: each patch applies exactly once and leaves valid
 * JavaScript. That the simulator finds them is proved by `npm run mutants`, which takes longer.
 */
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import t from 'tap';
import { filesOf, plant } from './plant.js';
import { plantedBugs } from './table.js';

const root = new URL('../../../', import.meta.url);

t.test('every planted bug fits the compiled code exactly once', async (t) => {
  const mutated: { name: string; text: string }[] = [];
  for (const bug of plantedBugs) {
    for (const file of filesOf(bug)) {
      const source = readFileSync(new URL(file, root), 'utf8');
      const text = plant(bug, file, source);
      t.not(text, source, `${bug.name} changes ${file}`);
      mutated.push({ name: `${bug.name} in ${file}`, text });
    }
  }
  t.same(notParsed(mutated), [], 'all of them are valid JavaScript');
  t.same(notParsed([{ name: 'broken', text: 'if (' }]), ['broken'], 'what is not valid is noticed');
});

t.test('names are unique, and there are at least twenty', async (t) => {
  t.equal(new Set(plantedBugs.map(({ name }) => name)).size, plantedBugs.length);
  t.ok(plantedBugs.length >= 20, `${plantedBugs.length} planted bugs`);
});

/** Names of the texts that are no modules; parsed in one process of its own, since modules are parsed by a flag only. */
function notParsed(texts: readonly { readonly name: string; readonly text: string }[]): string[] {
  const script = `
    const { SourceTextModule } = await import('node:vm');
    const bad = [];
    let input = '';
    for await (const chunk of process.stdin) input += chunk;
    for (const { name, text } of JSON.parse(input)) {
      try { new SourceTextModule(text, { identifier: name }); } catch { bad.push(name); }
    }
    console.log(JSON.stringify(bad));`;
  const args = ['--no-warnings', '--experimental-vm-modules', '--input-type=module', '-e', script];
  const { stdout, stderr, status } = spawnSync(process.execPath, args, {
    input: JSON.stringify(texts),
    encoding: 'utf8',
    maxBuffer: 1 << 20,
  });
  if (status !== 0) throw new Error(`the parser ended with ${status}: ${stderr}`);
  return JSON.parse(stdout) as string[];
}
