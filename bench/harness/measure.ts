/** CPU and bytes written of processes, as Linux counts them; zeros elsewhere. */
import { readdirSync, readFileSync } from 'node:fs';
import type { ProcessGroup } from './system.js';

export interface Usage {
  /** user + system of the process and its children, µs. */
  readonly cpuUs: number;
  /** Of the main thread alone, µs: where JavaScript runs. */
  readonly mainUs: number;
  /** Handed to the disk, bytes. */
  readonly writtenBytes: number;
}

/** Linux counts in ticks of 10 ms. */
const tickUs = 10_000;

export function usageOf({ pid }: ProcessGroup): Usage {
  let cpuUs = 0;
  let writtenBytes = 0;
  // The client is the harness itself, whose children are the nodes.
  for (const each of pid === process.pid ? [pid] : family(pid)) {
    cpuUs += cpuOf(`/proc/${each}/stat`);
    writtenBytes += Number(/^write_bytes: (\d+)/m.exec(read(`/proc/${each}/io`))?.[1] ?? 0);
  }
  return { cpuUs, mainUs: cpuOf(`/proc/${pid}/task/${pid}/stat`), writtenBytes };
}

export function difference(after: Usage, before: Usage): Usage {
  return {
    cpuUs: after.cpuUs - before.cpuUs,
    mainUs: after.mainUs - before.mainUs,
    writtenBytes: after.writtenBytes - before.writtenBytes,
  };
}

/** The process and its descendants (PostgreSQL has one per connection). */
function family(pid: number): number[] {
  const children = new Map<number, number[]>();
  for (const name of list('/proc')) {
    if (!/^\d+$/.test(name)) continue;
    const parent = Number(fieldsOf(`/proc/${name}/stat`)[1] ?? 0);
    const known = children.get(parent);
    if (known === undefined) children.set(parent, [Number(name)]);
    else known.push(Number(name));
  }
  const found = [pid];
  for (let i = 0; i < found.length; i++) found.push(...(children.get(found[i] as number) ?? []));
  return found;
}

function cpuOf(path: string): number {
  const fields = fieldsOf(path);
  return (Number(fields[11] ?? 0) + Number(fields[12] ?? 0)) * tickUs;
}

/** Fields of a stat file behind the name in parentheses: state first. */
function fieldsOf(path: string): string[] {
  const text = read(path);
  return text.slice(text.lastIndexOf(')') + 2).split(' ');
}

function read(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    // Gone meanwhile, or not Linux.
    return '';
  }
}

function list(path: string): string[] {
  try {
    return readdirSync(path);
  } catch {
    return [];
  }
}

/** Load of the machine beside the measurement, in cores: all CPU used less our own. */
export function machineBusyUs(): number {
  const [, ...fields] = (read('/proc/stat').split('\n')[0] ?? '').split(/\s+/);
  const [user = 0, nice = 0, system = 0, , , irq = 0, softirq = 0, steal = 0] = fields.map(Number);
  return (user + nice + system + irq + softirq + steal) * tickUs;
}
