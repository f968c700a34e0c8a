/** CPU and memory of processes, and what the machine does meanwhile, as Linux counts; zeros elsewhere. */
import { readdirSync, readFileSync } from 'node:fs';
import type { ProcessGroup } from './system.js';

export interface Usage {
  /** user + system of the process and its descendants, ended ones included, µs. */
  readonly cpuUs: number;
  /** Of the main thread alone, µs: where JavaScript runs. */
  readonly mainUs: number;
}

/** Linux counts in ticks of 10 ms. */
const tickUs = 10_000;

export function usageOf(group: ProcessGroup): Usage {
  let cpuUs = 0;
  const isClient = group.pid === process.pid;
  for (const pid of pidsOf(group)) {
    // What a child used is its parent's when it ends: the sum never falls. The client's children are servers.
    cpuUs += cpuOf(`/proc/${pid}/stat`, !isClient);
  }
  return { cpuUs, mainUs: cpuOf(`/proc/${group.pid}/task/${group.pid}/stat`, false) };
}

export function difference(after: Usage, before: Usage): Usage {
  return {
    cpuUs: after.cpuUs - before.cpuUs,
    mainUs: after.mainUs - before.mainUs,
  };
}

/** In memory, bytes; what processes share counts once among them where Linux tells (Pss). */
export function memoryOf(group: ProcessGroup): number {
  let kib = 0;
  for (const pid of pidsOf(group)) {
    const shared = /^Pss:\s+(\d+) kB/m.exec(read(`/proc/${pid}/smaps_rollup`));
    kib += Number((shared ?? /^VmRSS:\s+(\d+) kB/m.exec(read(`/proc/${pid}/status`)))?.[1] ?? 0);
  }
  return kib * 1024;
}

/** The client is the harness itself, whose children are servers. */
function pidsOf({ pid }: ProcessGroup): number[] {
  return pid === process.pid ? [pid] : familyOf(pid);
}

/** The process and its descendants (PostgreSQL has one per connection). */
export function familyOf(pid: number): number[] {
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

/** When the process began, in ticks since the machine did; empty: there is none (or this is not Linux). */
export function startOf(pid: number): string {
  return fieldsOf(`/proc/${pid}/stat`)[19] ?? '';
}

function cpuOf(path: string, withEnded: boolean): number {
  const [user = 0, system = 0, endedUser = 0, endedSystem = 0] = fieldsOf(path).slice(11, 15).map(Number);
  return (user + system + (withEnded ? endedUser + endedSystem : 0)) * tickUs;
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

/** Sums over all cores since the machine began, µs. */
export interface MachineTimes {
  /** Spent by this machine's own processes and interrupts. */
  readonly busyUs: number;
  /** Wanted by this machine, given to others by its host. */
  readonly stolenUs: number;
  readonly totalUs: number;
}

export function machineTimes(stat: string = read('/proc/stat')): MachineTimes {
  const [, ...fields] = (stat.split('\n')[0] ?? '').split(/\s+/);
  const numbers = fields.map(Number);
  const [user = 0, nice = 0, system = 0, idle = 0, iowait = 0, irq = 0, softirq = 0, steal = 0] = numbers;
  const busy = user + nice + system + irq + softirq;
  // Guests' time is within user and nice.
  return {
    busyUs: busy * tickUs,
    stolenUs: steal * tickUs,
    totalUs: (busy + idle + iowait + steal) * tickUs,
  };
}

/** Share of the machine's time that its host took, percent. */
export function stealPercent(before: MachineTimes, after: MachineTimes): number {
  const totalUs = after.totalUs - before.totalUs;
  return totalUs <= 0 ? 0 : (100 * Math.max(0, after.stolenUs - before.stolenUs)) / totalUs;
}
