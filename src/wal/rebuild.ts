/**
 * A fresh log in the place of a damaged one: all that could be salvaged, with terms,
 * votes and the starts of the partitions' logs, synced before anybody relies on it.
 * The old segments are the caller's to move aside; nothing here touches them.
 */
import type { Clock, Random } from '../common/env.js';
import { HansardError } from '../common/errors.js';
import { higherPlace, isAtLeast, type LogPlace } from '../common/faults.js';
import type { PartitionId, ReplicaId } from '../common/ids.js';
import type { LogDevice } from './device.js';
import { formatWal } from './format-wal.js';
import type { LogIdentity } from './replay.js';
import type { SalvagedGroup, SalvageVerdict } from './salvage.js';
import type { GroupLog, GroupWrite, Wal } from './types.js';
import { openWal } from './wal.js';

/** Entries copied at once, bytes. */
const copyBytes = 1024 * 1024;

export interface RebuildOptions extends LogIdentity {
  /** Of the new log, empty. Closed by this. */
  readonly device: LogDevice;
  readonly random: Random;
  readonly clock: Pick<Clock, 'after' | 'monotonicMs'>;
  readonly segmentBytes: number;
  /** What the store has sealed of a partition; undefined: its state is not to be used. */
  sealed(partition: PartitionId): LogPlace | undefined;
}

export interface Rebuilt {
  readonly partition: PartitionId;
  readonly replicaId: ReplicaId;
  readonly verdict: SalvageVerdict;
  readonly floor: LogPlace;
  readonly why: string;
  readonly entries: number;
  /** The store has sealed more than the log, by all that it says, ever had: its end is lost, with what others had there. */
  readonly endsEarly: boolean;
}

export async function rebuildLog(
  groups: readonly SalvagedGroup[],
  options: RebuildOptions,
): Promise<Rebuilt[]> {
  const { device, random, clock, segmentBytes, clusterId, storeId } = options;
  const ids = { clusterId, storeId };
  await formatWal(device, { ...ids, random, segmentBytes });
  let fail: (error: unknown) => void = () => {};
  const failed = new Promise<never>((_, reject) => {
    fail = reject;
  });
  failed.catch(() => undefined);
  const wal = await openWal({ ...ids, device, clock, segmentBytes, onFailure: (error) => fail(error) });
  try {
    const rebuilt: Rebuilt[] = [];
    for (const group of groups) {
      const work = rebuild(wal, group, options.sealed(group.group.partition));
      work.catch(() => undefined);
      rebuilt.push(await Promise.race([work, failed]));
    }
    return rebuilt;
  } finally {
    await wal.close();
  }
}

async function rebuild(wal: Wal, salvaged: SalvagedGroup, sealed: LogPlace | undefined): Promise<Rebuilt> {
  const { group } = salvaged;
  const { partition, replicaId, hardState } = group;
  let { verdict, floor, why } = salvaged;
  let endsEarly = false;
  const log = wal.addGroup(partition, replicaId);
  let from = { index: group.baseIndex, term: group.baseTerm };
  let to = group.lastIndex();
  if (sealed !== undefined && sealed.index >= from.index) {
    const isThere = sealed.index <= to && group.term(sealed.index) === sealed.term;
    // What is sealed was in the log: one that never came as far has lost its end, unnoticed until now.
    const isKnown = isThere || (verdict === 'log-damaged' && isAtLeast(floor, sealed));
    if (!isKnown) {
      // Where votes may be lost anyway nothing is known of how far it came.
      endsEarly = verdict !== 'term-or-vote-lost';
      verdict = 'term-or-vote-lost';
      why = `the store holds up to ${sealed.index}, the log ends at ${to}`;
    }
    from = sealed;
    if (!isThere) to = sealed.index;
  } else if (from.index > salvaged.sealed.index && (from.index > group.commit || from.term === 0)) {
    // Whoever reads a log takes what it begins behind for committed. Entries that are lost, and of which
    // nothing says that, must not be what it begins behind: others may stand in their place by now.
    floor = higherPlace(floor, { index: to, term: group.term(to) as number });
    if (verdict === 'whole') {
      verdict = 'log-damaged';
      why = `entries up to ${from.index} are lost`;
    }
    from = salvaged.sealed;
    to = from.index;
  }
  if (from.index > 0) log.reset(from.index, from.term);
  const { term, vote } = hardState;
  const commit = Math.max(from.index, Math.min(hardState.commit, to));
  await written(wal, { partition, hardState: { term, vote, commit }, entries: [] });
  for (let lo = from.index + 1; lo <= to; ) {
    const entries = group.entries(lo, to + 1, copyBytes);
    if (!(await group.fill(entries))) throw new HansardError('LOG_DAMAGED', 'the salvaged log has changed');
    await written(wal, { partition, entries });
    log.releaseCache(to);
    lo += entries.length;
  }
  return { partition, replicaId, verdict, floor, why, entries: countOf(log), endsEarly };
}

function written(wal: Wal, write: GroupWrite): Promise<void> {
  return new Promise((resolve) => wal.write([write], resolve));
}

function countOf(log: GroupLog): number {
  return log.lastIndex() - log.firstIndex() + 1;
}
