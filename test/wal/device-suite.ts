/** What every LogDevice promises. `settle` drives a simulated clock until the promise has settled. */
import type { Test } from 'tap';
import type { LogDevice } from '../../src/wal/device.js';

export interface DeviceUnderTest {
  readonly device: LogDevice;
  /** Another device on the same folder, after the first was closed. */
  reopen(): LogDevice;
  settle<T>(promise: Promise<T>): Promise<T>;
}

export async function deviceSuite(t: Test, make: (t: Test) => Promise<DeviceUnderTest>): Promise<void> {
  await t.test('a new segment is listed and full of zeros', async (t) => {
    const { device, settle } = await make(t);
    t.same(await settle(device.list()), []);
    await settle(device.create(7, 64 * 1024));
    await settle(device.create(3, 4096));
    t.same(await settle(device.list()), [
      { segment: 3, bytes: 4096 },
      { segment: 7, bytes: 64 * 1024 },
    ]);
    const target = device.allocate(64 * 1024).fill(1);
    t.equal(await settle(device.read(7, 0, target)), 64 * 1024);
    t.ok(target.every((byte) => byte === 0));
    await settle(device.close());
  });

  await t.test('what was written is read back, also by the next device', async (t) => {
    const { device, reopen, settle } = await make(t);
    await settle(device.create(1, 64 * 1024));
    const own = Buffer.alloc(5000, 'plain');
    const shared = device.allocate(8192);
    shared.fill('shared');
    const writes = [
      device.write(1, 4096, shared),
      device.write(1, 20_480, own),
      device.write(1, 8192, Buffer.from('later')),
    ];
    for (const write of writes) t.type(await settle(write), 'number');
    await settle(device.close());
    const next = reopen();
    const target = Buffer.alloc(8192);
    t.equal(await settle(next.read(1, 4096, target)), 8192);
    const expected = Buffer.from(shared);
    expected.write('later', 4096);
    t.ok(target.equals(expected), 'writes count in their order');
    const rest = next.allocate(100_000);
    t.equal(
      await settle(next.read(1, 20_480, rest)),
      64 * 1024 - 20_480,
      'a read ends at the end of the file',
    );
    t.ok(rest.subarray(0, 5000).equals(own));
    t.equal(await settle(next.read(1, 64 * 1024, rest)), 0);
    await settle(next.close());
  });

  await t.test('renaming keeps the bytes, removing forgets the file', async (t) => {
    const { device, settle } = await make(t);
    await settle(device.create(1, 8192));
    await settle(device.create(2, 8192));
    await settle(device.write(1, 0, Buffer.from('old')));
    await settle(device.rename(1, 9));
    await settle(device.remove(2));
    t.same(await settle(device.list()), [{ segment: 9, bytes: 8192 }]);
    const target = Buffer.alloc(3);
    await settle(device.read(9, 0, target));
    t.equal(target.toString(), 'old');
    await settle(device.write(9, 0, Buffer.from('new')));
    await settle(device.read(9, 0, target));
    t.equal(target.toString(), 'new');
    await settle(device.close());
  });

  await t.test('behind a change that failed none is made, asked for before or after', async (t) => {
    const { device, reopen, settle } = await make(t);
    const reason = (promise: Promise<unknown>): Promise<string> =>
      promise.then(
        () => 'none',
        (error: { reason?: string }) => String(error.reason),
      );
    const files = [
      { segment: 1, bytes: 8192 },
      { segment: 2, bytes: 8192 },
    ];
    for (const { segment, bytes } of files) await settle(device.create(segment, bytes));
    const together = [
      device.rename(7, 8),
      device.remove(1),
      device.rename(2, 9),
      device.write(2, 0, Buffer.from('x')),
    ];
    for (const failed of await settle(Promise.all(together.map(reason)))) t.equal(failed, 'DISK_FAILED');
    t.equal(await settle(reason(device.remove(2))), 'DISK_FAILED', 'also later');
    t.same(await settle(device.list()), files);
    await settle(device.close());
    const next = reopen();
    await settle(next.remove(2));
    t.same(await settle(next.list()), files.slice(0, 1), 'the next process begins anew');
    await settle(next.close());
  });

  await t.test('a file that is not there is an error, the device lives on', async (t) => {
    const { device, settle } = await make(t);
    const reason = (promise: Promise<unknown>): Promise<string> =>
      settle(promise).then(
        () => 'none',
        (error: { reason?: string }) => String(error.reason),
      );
    t.equal(await reason(device.read(5, 0, Buffer.alloc(1))), 'DISK_FAILED');
    t.equal(await reason(device.write(5, 0, Buffer.alloc(1))), 'DISK_FAILED');
    t.equal(await reason(device.rename(5, 6)), 'DISK_FAILED');
    t.equal(await reason(device.remove(5)), 'DISK_FAILED');
    t.same(await settle(device.list()), []);
    await settle(device.close());
  });
}
