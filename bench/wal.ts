/**
 * Synced batches per second and the speed of replay, of the log alone.
 *   node dist/bench/wal.js [folder] [seconds]
 */

import { randomFillSync } from 'node:crypto';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { entryChecksum } from '../src/common/entry-checksum.js';
import type { Entry } from '../src/common/log-types.js';
import { formatWal, openDiskDevice, openWal, type Wal } from '../src/wal/index.js';
import { difference, usageOf } from './harness/measure.js';

const parent = process.argv[2] ?? os.tmpdir();
const seconds = Number(process.argv[3] ?? 2);
const identity = { clusterId: new Uint8Array(16).fill(7), storeId: '00000000000000ab' };
const clock = {
  after(delayMs: number, fn: () => void) {
    const timer = setTimeout(fn, delayMs).unref();
    return { cancel: () => clearTimeout(timer) };
  },
  monotonicMs: () => performance.now(),
};
const self = { name: 'log', pid: process.pid };
const fail = (error: Error): void => {
  throw error;
};

const directory = fs.mkdtempSync(path.join(parent, 'hansard-bench-wal-'));
try {
  const device = openDiskDevice({ directory });
  await formatWal(device, { ...identity, random: { u32: () => 0, fill: (bytes) => randomFillSync(bytes) } });
  await device.close();
  await measure('1 entry of 200 B, one at a time', 1, 200, 1);
  await measure('64 groups, 1 entry of 12 KB each, two calls in flight', 64, 12_000, 2);
  await measureReplay();
} finally {
  fs.rmSync(directory, { recursive: true });
}

async function open(): Promise<Wal> {
  const device = openDiskDevice({ directory });
  return openWal({ device, ...identity, onFailure: fail, clock, maxLogBytes: 4 * 2 ** 30 });
}

async function measure(name: string, groups: number, bytes: number, inFlight: number): Promise<void> {
  const wal = await open();
  const data = Buffer.alloc(bytes, 'conversation ');
  for (let p = 0; p < groups; p++) if (wal.group(p) === undefined) wal.addGroup(p, p + 1);
  const next = wal.groups().map((group) => group.lastIndex() + 1);
  const before = wal.stats();
  const cpu = process.cpuUsage();
  const startMs = performance.now();
  let written = 0;
  const endMs = startMs + seconds * 1000;
  const writer = (): Promise<void> =>
    new Promise((resolve) => {
      const step = (): void => {
        if (performance.now() >= endMs || written > 2 ** 30) {
          resolve();
          return;
        }
        wal.write(
          next.slice(0, groups).map((index, partition) => {
            next[partition] = index + 1;
            const entry: Entry = { term: 1, index, type: 0, sizeBytes: bytes, data };
            const checksum = entryChecksum(partition, { ...entry, data });
            return {
              partition,
              hardState: { term: 1, vote: 1, commit: index - 1 },
              entries: [{ ...entry, checksum }],
            };
          }),
          step,
        );
        written += groups * bytes;
      };
      step();
    });
  await Promise.all(Array.from({ length: inFlight }, writer));
  const tookMs = performance.now() - startMs;
  const used = process.cpuUsage(cpu);
  const after = wal.stats();
  const batches = after.batches - before.batches;
  print(`${name}:`);
  print(`  ${rate(batches, tookMs)} batches/s, ${rate(written / 1e6, tookMs)} MB/s of payload`);
  print(`  ${((used.user + used.system) / batches).toFixed(0)} µs of CPU a batch, all threads`);
  await wal.close();
}

async function measureReplay(): Promise<void> {
  const before = usageOf(self);
  const wal = await open();
  const { cpuUs, mainUs } = difference(usageOf(self), before);
  const { bytes, durationMs, entries } = wal.stats().replay;
  print(
    `replay: ${(bytes / 1e6).toFixed(0)} MB, ${entries} entries in ${durationMs.toFixed(0)} ms: ${rate(bytes / 1e6, durationMs)} MB/s; ` +
      `${(cpuUs / 1000).toFixed(0)} ms of CPU, ${(mainUs / 1000).toFixed(0)} of it the main thread's: ${rate(bytes / 1e6, mainUs / 1000)} MB/s`,
  );
  await wal.close();
}

function rate(count: number, ms: number): string {
  return ((count / ms) * 1000).toFixed(0);
}

function print(line: string): void {
  process.stdout.write(`${line}\n`);
}
