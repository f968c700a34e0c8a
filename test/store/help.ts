/** What the store's tests share: a clock, seeded randomness, a store to break, entries to apply. */
import type { Test } from 'tap';
import type { Clock, Random } from '../../src/common/env.js';
import { HansardError, type Reason } from '../../src/common/errors.js';
import { silentLogger } from '../../src/common/logger.js';
import { applyEntry } from '../../src/conversation/apply.js';
import { defaultSettings } from '../../src/conversation/settings.js';
import type { ReplicatedSettings, StoredEvent } from '../../src/conversation/types.js';
import { formatStore, openStore } from '../../src/store/store.js';
import type { PartitionStore, Store } from '../../src/store/types.js';
import { madeAppend, madeEntry, madeEvent } from '../conversation/make.js';
import { ProcessIsDead, SimKv, SimKvDisk } from '../sim/sim-kv.js';

/** Turns of the real loop, time that only counts turns. */
export class TurnClock implements Clock {
  turns = 0;
  nowUs(): number {
    return 1_700_000_000_000_000 + this.turns;
  }
  monotonicMs(): number {
    return this.turns;
  }
  after(delayMs: number, fn: () => void) {
    const timer = setTimeout(fn, delayMs);
    return { cancel: () => clearTimeout(timer) };
  }
  defer(fn: () => void): void {
    setImmediate(() => {
      this.turns++;
      fn();
    });
  }
}

/** xorshift32: enough for tests, equal for equal seeds. */
export function seededRandom(seed: number): Random {
  let state = seed | 0 || 1;
  const u32 = () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return state >>> 0;
  };
  return {
    u32,
    fill: (bytes) => {
      for (let i = 0; i < bytes.length; i++) bytes[i] = u32();
    },
  };
}

export const ids = { clusterId: 'cluster-1', storeId: 'store-1' } as const;
export const confState = {
  voters: [1, 2, 3],
  votersOutgoing: [],
  learners: [],
  learnersNext: [],
  autoLeave: false,
};

export function simDisk(seed = 1, turns = 1): SimKvDisk {
  return new SimKvDisk({ clock: new TurnClock(), random: seededRandom(seed), turns });
}

/** A process begins: the disk gets a new handle. */
export function handleOf(disk: SimKvDisk): SimKv {
  disk.handle = new SimKv(disk);
  return disk.handle;
}

export async function formatted(
  disk: SimKvDisk,
  partitions = [0],
  blockBytes = 512,
  settings: Partial<ReplicatedSettings> = {},
): Promise<SimKvDisk> {
  const kv = handleOf(disk);
  await formatStore({
    kv,
    ...ids,
    blockBytes,
    settings: { ...defaultSettings, ...settings },
    partitions: partitions.map((partition) => ({ partition, confState })),
  });
  await kv.close();
  return disk;
}

export function opened(disk: SimKvDisk, cacheBytes = 256 * 1024): Promise<Store> {
  return openStore({ kv: handleOf(disk), ...ids, clock: new TurnClock(), logger: silentLogger, cacheBytes });
}

export function applyTo(partition: PartitionStore, data: Uint8Array, term = 1) {
  partition.beginEntry();
  const outcome = applyEntry(partition, { index: partition.appliedIndex + 1, term, data });
  partition.endEntry(partition.appliedIndex + 1, term);
  return outcome;
}

/** An entry that follows from its number. */
export function entryNumber(n: number): Buffer {
  const event = madeEvent(`text ${n} ${'and more '.repeat(n % 40)}`, {
    messageId: `id ${n}`,
    key: `key ${n}`,
  });
  return Buffer.from(madeEntry([madeAppend(`channel ${n % 9}`, [event])], 1_700_000_000_000_000 + n));
}

/** An event as plain data, to compare with the model's. */
export function plain(event: StoredEvent) {
  return {
    seq: event.seq,
    commitTimeUs: event.commitTimeUs,
    producerId: event.producerId,
    producerCounter: event.producerCounter,
    header: hex(event.bytes, event.headerOffset, event.headerLength),
    content: hex(event.contentBytes, event.contentOffset, event.contentLength),
  };
}

function hex(bytes: Uint8Array, offset: number, length: number): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset + offset, length).toString('hex');
}

/** A promise of a dead process: it ends in ProcessIsDead or not at all. */
export function whileDying(work: Promise<unknown>): void {
  work.catch((error: unknown) => {
    let cause = error;
    while (cause instanceof Error && cause.cause !== undefined) cause = cause.cause;
    if (!(cause instanceof ProcessIsDead)) throw error;
  });
}

export async function rejectsWith(t: Test, work: Promise<unknown>, reason: Reason): Promise<HansardError> {
  try {
    await work;
  } catch (error) {
    if (!(error instanceof HansardError)) throw error;
    t.equal(error.reason, reason, error.message);
    return error;
  }
  throw new Error(`it was to be refused with ${reason}`);
}
