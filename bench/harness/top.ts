/**
 * What a CPU profile's time went to, by function (self time).
 *
 *     node dist/bench/harness/top.js FILE.cpuprofile [rows, default 40] [units, for µs each]
 */
import { readFileSync } from 'node:fs';

interface Profile {
  readonly nodes: readonly {
    readonly id: number;
    readonly callFrame: { readonly functionName: string; readonly url: string; readonly lineNumber: number };
    readonly children?: readonly number[];
  }[];
  readonly samples: readonly number[];
  readonly timeDeltas: readonly number[];
}

const [file = '', rows = '40', units = ''] = process.argv.slice(2);
const profile = JSON.parse(readFileSync(file, 'utf8')) as Profile;
const self = new Map<number, number>();
let total = 0;
profile.samples.forEach((id, i) => {
  const us = Math.max(0, profile.timeDeltas[i] ?? 0);
  self.set(id, (self.get(id) ?? 0) + us);
  total += us;
});
const byName = new Map<string, number>();
const byFile = new Map<string, number>();
for (const { id, callFrame } of profile.nodes) {
  const us = self.get(id) ?? 0;
  const path = callFrame.url.replace(/^.*\/(dist\/src|node_modules)\//, '').replace(/^file:\/\//, '');
  const name = `${callFrame.functionName || '(anonymous)'} ${path}:${callFrame.lineNumber + 1}`;
  byName.set(name, (byName.get(name) ?? 0) + us);
  byFile.set(path || callFrame.functionName, (byFile.get(path || callFrame.functionName) ?? 0) + us);
}
const show = (title: string, map: Map<string, number>, count: number): void => {
  console.log(`\n${title} (${(total / 1e6).toFixed(1)} s)`);
  for (const [name, us] of [...map].sort((a, b) => b[1] - a[1]).slice(0, count)) {
    const each = units === '' ? '' : `${(us / Number(units)).toFixed(2).padStart(8)} us `;
    console.log(`${((us / total) * 100).toFixed(1).padStart(6)} % ${each} ${name}`);
  }
};
// With all that a function called; one that calls itself counts once.
const inclusive = new Map<string, number>();
const nodes = new Map(profile.nodes.map((node) => [node.id, node]));
const nameOf = ({ callFrame }: Profile['nodes'][number]): string =>
  `${callFrame.functionName || '(anonymous)'} ${callFrame.url.replace(/^.*\/(dist\/src|node_modules)\//, '')}:${callFrame.lineNumber + 1}`;
const children = new Set(profile.nodes.flatMap((node) => node.children ?? []));
const visit = (id: number, above: Set<string>): number => {
  const node = nodes.get(id) as Profile['nodes'][number];
  const name = nameOf(node);
  const first = !above.has(name);
  if (first) above.add(name);
  let us = self.get(id) ?? 0;
  for (const child of node.children ?? []) us += visit(child, above);
  if (first) {
    above.delete(name);
    inclusive.set(name, (inclusive.get(name) ?? 0) + us);
  }
  return us;
};
for (const { id } of profile.nodes) if (!children.has(id)) visit(id, new Set());
show('with what it called', inclusive, Number(rows) * 2);
show('by function', byName, Number(rows));
show('by file', byFile, Number(rows));
