import { spawn } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import t from 'tap';
import type { HansardError } from '../../src/common/errors.js';
import { DiskWatch, openDiskDevice, startWatchdog } from '../../src/wal/index.js';
import { QuickDisk, quickDiskDefaults } from '../../src/wal/quick-disk.js';
import { SimClock, SimRandom } from '../sim/sim-clock.js';
import { SimDisk } from '../sim/sim-disk.js';
import { deviceSuite } from './device-suite.js';
import { settleOn } from './harness.js';

t.test('the real disk', (t) =>
  deviceSuite(t, async (t) => {
    const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'hansard-device-'));
    t.teardown(() => fs.rmSync(directory, { recursive: true, force: true }));
    return {
      device: openDiskDevice({ directory }),
      reopen: () => openDiskDevice({ directory }),
      settle: (promise) => promise,
    };
  }),
);

/** Whatever the machine's disk is like: small writes are made by the caller's thread. */
const alwaysQuick = {
  ...quickDiskDefaults,
  meanMs: Number.MAX_VALUE,
  slowMs: Number.MAX_VALUE,
};

t.test('the real disk, quick enough to be written without its worker', (t) =>
  deviceSuite(t, async (t) => {
    const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'hansard-device-'));
    t.teardown(() => fs.rmSync(directory, { recursive: true, force: true }));
    return {
      device: openDiskDevice({ directory, quick: alwaysQuick }),
      reopen: () => openDiskDevice({ directory, quick: alwaysQuick }),
      settle: (promise) => promise,
    };
  }),
);

t.test('a name that means another file is never written through the old one', async (t) => {
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'hansard-device-'));
  t.teardown(() => fs.rmSync(directory, { recursive: true, force: true }));
  let device = openDiskDevice({ directory, quick: alwaysQuick });
  const text = (segment: number): string =>
    fs
      .readFileSync(path.join(directory, `log-${String(segment).padStart(16, '0')}.seg`), 'latin1')
      .slice(0, 3);
  await device.create(1, 8192);
  await device.create(2, 8192);
  await device.write(1, 0, Buffer.from('one'));
  await device.write(2, 0, Buffer.from('two'));
  await device.rename(1, 3);
  await device.write(3, 0, Buffer.from('3rd'));
  await device.create(1, 8192);
  await device.write(1, 0, Buffer.from('new'));
  t.same([text(1), text(2), text(3)], ['new', 'two', '3rd']);
  await device.remove(2);
  const refused = await device.write(2, 0, Buffer.from('...')).then(
    () => 'none',
    (error: HansardError) => error.reason,
  );
  t.equal(refused, 'DISK_FAILED');
  await device.close();
  device = openDiskDevice({ directory, quick: alwaysQuick });
  await device.create(2, 8192);
  await device.write(2, 0, Buffer.from('2nd'));
  t.same([text(1), text(2), text(3)], ['new', '2nd', '3rd']);
  await device.close();
});

t.test('small writes go past the worker only while syncs are quick', (t) => {
  const disk = new QuickDisk({ bytesMax: 100, meanMs: 1, slowMs: 10, writesAfterSlow: 3 });
  t.notOk(disk.suits(50), 'nothing is known of it yet');
  for (let i = 0; i < 20; i++) disk.took(50, 0.1);
  t.ok(disk.suits(100));
  t.notOk(disk.suits(101), 'a large one has work that the worker is worth');
  disk.took(5_000, 90);
  t.ok(disk.suits(50), 'a large one says nothing about small ones');
  disk.took(50, 30);
  for (let i = 0; i < 3; i++) {
    t.notOk(disk.suits(50), 'it stood still: not at once again');
    disk.took(50, 0.1);
  }
  t.ok(disk.suits(50));
  for (let i = 0; i < 20; i++) disk.took(50, 2);
  t.notOk(disk.suits(50), 'slow, all of them');
  t.end();
});

t.test('the simulated disk', (t) =>
  deviceSuite(t, async () => {
    const clock = new SimClock();
    const disk = new SimDisk({ clock, random: new SimRandom(1) });
    return {
      device: disk.device(),
      reopen: () => disk.device(),
      settle: (promise) => settleOn(clock, promise),
    };
  }),
);

t.test('half-made segments are removed, not listed', async (t) => {
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'hansard-device-'));
  t.teardown(() => fs.rmSync(directory, { recursive: true, force: true }));
  fs.writeFileSync(path.join(directory, 'log-0000000000000004.seg.new'), 'x');
  fs.writeFileSync(path.join(directory, 'unrelated'), 'x');
  const device = openDiskDevice({ directory });
  t.same(await device.list(), []);
  t.same(fs.readdirSync(directory), ['unrelated']);
  await device.close();
});

t.test('the simulated disk loses what was not synced', async (t) => {
  const fates = new Set<string>();
  for (let seed = 1; seed <= 60; seed++) {
    const clock = new SimClock();
    const disk = new SimDisk({ clock, random: new SimRandom(seed) });
    const device = disk.device();
    await settleOn(clock, device.create(1, 8192));
    await settleOn(clock, device.write(1, 0, Buffer.alloc(2048, 'a')));
    disk.failNext('sync');
    await settleOn(
      clock,
      device.write(1, 0, Buffer.alloc(2048, 'b')).catch(() => {}),
    );
    t.equal(disk.bytes(1).toString('latin1', 0, 2048), 'b'.repeat(2048), 'reads back clean');
    // The next process's: the one that failed writes nothing more.
    await settleOn(clock, disk.device().write(1, 4096, Buffer.from('c')));
    disk.losePower();
    const left = disk.bytes(1).toString('latin1', 0, 2048);
    fates.add(left === 'a'.repeat(2048) ? 'lost' : left === 'b'.repeat(2048) ? 'kept' : 'torn');
    t.match(left, /^((a{512})|(b{512}))+$/, 'by whole sectors');
    t.equal(disk.bytes(1).toString('latin1', 4096, 4097), 'c', 'what was synced stays');
  }
  t.same([...fates].sort(), ['kept', 'lost', 'torn']);
});

t.test('the watchdog ends a process whose disk hangs, and no other', async (t) => {
  const memory = new SharedArrayBuffer(8);
  const watch = new DiskWatch(memory, 1);
  const child = spawn(process.execPath, ['-e', 'setTimeout(() => {}, 600000)'], { stdio: 'ignore' });
  t.teardown(() => child.kill('SIGKILL'));
  const ended = new Promise<string>((resolve) =>
    child.once('exit', (_, signal) => resolve(signal ?? 'none')),
  );
  const watchdog = startWatchdog({ memory, stallMs: 2_000, pid: child.pid as number });
  const busyUntil = performance.now() + 2_600;
  while (performance.now() < busyUntil) {
    watch.enter();
    await new Promise((resolve) => setTimeout(resolve, 5));
    watch.leave();
  }
  t.equal(child.exitCode ?? child.signalCode, null, 'many short operations are no stall');
  watch.enter();
  t.equal(await ended, 'SIGKILL');
  await watchdog.stop();
});
