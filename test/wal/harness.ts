/** What the log's tests share: identity, clocks, entries, and an async `write`. */
import type { Test } from 'tap';
import { entryChecksum } from '../../src/common/entry-checksum.js';
import type { Clock } from '../../src/common/env.js';
import { HansardError, type Reason } from '../../src/common/errors.js';
import type { Entry } from '../../src/common/log-types.js';
import type { LogDevice } from '../../src/wal/device.js';
import { type GroupLog, type GroupWrite, openWal, type Wal, type WalOptions } from '../../src/wal/index.js';
import type { SimClock } from '../sim/sim-clock.js';

export const identity = { clusterId: new Uint8Array(16).fill(0xc1), storeId: '0123456789abcdef' };

export const realClock: Pick<Clock, 'after' | 'monotonicMs'> = {
  after(delayMs, fn) {
    const timer = setTimeout(fn, delayMs).unref();
    return { cancel: () => clearTimeout(timer) };
  },
  monotonicMs: () => performance.now(),
};

/** Test files' own small randomness: xorshift32. */
export function seededRandom(seed: number): {
  u32(): number;
  below(n: number): number;
  fill(b: Uint8Array): void;
} {
  let state = seed | 1;
  const u32 = (): number => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return state >>> 0;
  };
  return {
    u32,
    below: (n) => u32() % n,
    fill(bytes) {
      for (let i = 0; i < bytes.length; i++) bytes[i] = u32() >>> 11;
    },
  };
}

export function open(device: LogDevice, options: Partial<WalOptions> = {}): Promise<Wal> {
  return openWal({
    device,
    ...identity,
    onFailure: (error) => {
      throw error;
    },
    clock: realClock,
    ...options,
  });
}

export function entry(partition: number, term: number, index: number, data: Uint8Array | string): Entry {
  const bytes = typeof data === 'string' ? Buffer.from(data) : data;
  const place = { term, index, type: 0, data: bytes } as const;
  return { ...place, sizeBytes: bytes.length, checksum: entryChecksum(partition, place) };
}

export function write(wal: Wal, ...writes: GroupWrite[]): Promise<void> {
  return new Promise((resolve) => wal.write(writes, resolve));
}

/** All entries of a group with their bytes, read from disk where they are not cached. */
export async function contents(log: GroupLog): Promise<{ term: number; index: number; text: string }[]> {
  if (log.lastIndex() < log.firstIndex()) return [];
  const entries = log.entries(log.firstIndex(), log.lastIndex() + 1, Number.POSITIVE_INFINITY);
  if (!(await log.fill(entries))) throw new Error('the log changed under the reader');
  return entries.map(({ term, index, data }) => ({
    term,
    index,
    text: Buffer.from(data as Uint8Array).toString(),
  }));
}

/** Checks that `promise` rejects with a HansardError of `reason`, and returns it. */
export async function refused(
  t: Test,
  promise: Promise<unknown>,
  reason: Reason,
): Promise<HansardError | undefined> {
  try {
    await promise;
  } catch (error) {
    if (!(error instanceof HansardError)) throw error;
    t.equal(error.reason, reason, error.message);
    return error;
  }
  t.fail(`expected ${reason}`);
  return undefined;
}

/** Lets simulated time pass until `promise` has settled. */
export async function settleOn<T>(clock: SimClock, promise: Promise<T>, limitMs = 60_000): Promise<T> {
  let settled = false;
  const mark = (): void => {
    settled = true;
  };
  promise.then(mark, mark);
  // Long chains of promises need more turns than the clock gives them between events.
  for (let i = 0; i < 10 && !settled; i++) {
    await clock.until(() => settled, limitMs);
    await new Promise((resolve) => setImmediate(resolve));
  }
  if (!settled) throw new Error('it did not settle');
  return promise;
}
