/** A fresh log of what can be salvaged from a damaged one, and what is lost with the rest. */
import type { Clock, Random } from '../common/env.js';
import type { HansardError } from '../common/errors.js';
import { type FaultKind, higherPlace, type LogPlace, noPlace, type ReplicaFault } from '../common/faults.js';
import type { HostedId, PartitionId } from '../common/ids.js';
import type { Logger } from '../common/logger.js';
import type { Store } from '../store/types.js';
import { type LogDevice, rebuildLog, type SegmentNotes, salvageLog } from '../wal/index.js';
import type { FaultLedger } from './fault-ledger.js';

export interface ReplaceLogOptions {
  readonly clusterId: Uint8Array;
  readonly storeId: string;
  /** Why a start refused it. */
  readonly error: HansardError;
  /** It is read, and closed. */
  readonly old: LogDevice;
  /** Empty; written, and closed. */
  readonly fresh: LogDevice;
  readonly segmentBytes: number;
  readonly clock: Clock;
  readonly random: Random;
  readonly logger: Logger;
  readonly ledger: FaultLedger;
  /** Undefined: it is lost too. */
  readonly store: Store | undefined;
  /** Replicas that are here, whatever the log says. */
  readonly hosted: readonly HostedId[];
  /** Which segments it had reached. */
  readonly noted?: SegmentNotes['noted'];
  /** Nobody knows any more what its replicas must not do. */
  readonly isRecordLost?: boolean;
}

/** The faults that the ledger must know before the fresh log takes the old one's place. */
export async function replaceLog(options: ReplaceLogOptions): Promise<ReplicaFault[]> {
  const { clusterId, storeId, error, old, clock, logger, ledger } = options;
  const nowUs = clock.nowUs();
  const faults: ReplicaFault[] = [];
  try {
    const salvaged = await salvageLog(old, { clusterId, storeId }, options.noted);
    const rebuilt = await rebuildLog(salvaged.groups, {
      clusterId,
      storeId,
      device: options.fresh,
      random: options.random,
      clock,
      segmentBytes: options.segmentBytes,
      sealed: (partition) => sealedPlace(options.store, partition),
    });
    // What is gone with its end nobody can tell, of any partition, and whatever else is damaged before it.
    const short = rebuilt.find(({ endsEarly }) => endsEarly);
    const endLost =
      salvaged.endLost || (short === undefined ? '' : `partition ${short.partition}: ${short.why}`);
    const lost = options.isRecordLost ? 'the record of faults is lost' : endLost;
    for (const { partition, replicaId, entries, ...found } of rebuilt) {
      const verdict = lost === '' ? found.verdict : 'term-or-vote-lost';
      const why = lost === '' ? found.why : lost;
      logger.info({ partition, replicaId, entries, verdict, why }, 'salvaged from the damaged log');
      if (verdict === 'whole') continue;
      // What was lost before and is not back yet counts on.
      const known = ledger.of(partition, 'log-damaged');
      const floor = known?.replicaId === replicaId ? higherPlace(known.floor, found.floor) : found.floor;
      faults.push({ ...newFault({ partition, replicaId }, verdict, why, nowUs), floor });
    }
    // Of those nothing is left that could prove anything; what stands there may be of an earlier replica.
    const isUnproven = lost !== '' || salvaged.isBlank || salvaged.lost > 0;
    for (const one of isUnproven ? options.hosted : []) {
      if (!rebuilt.some((known) => known.partition === one.partition && known.replicaId >= one.replicaId))
        faults.push(newFault(one, 'term-or-vote-lost', error.message, nowUs));
    }
    return faults;
  } finally {
    await old.close();
  }
}

export function newFault(
  { partition, replicaId }: HostedId,
  kind: FaultKind,
  why: string,
  sinceUs: number,
): ReplicaFault {
  return { partition, replicaId, kind, sinceUs, why, generation: 1, floor: noPlace };
}

function sealedPlace(store: Store | undefined, partition: PartitionId): LogPlace | undefined {
  if (store === undefined || store.setAsidePartitions().has(partition)) return undefined;
  if (!store.hosted().some((one) => one.partition === partition && !one.removed)) return undefined;
  const { sealedIndex: index, sealedTerm: term } = store.partition(partition);
  return { index, term };
}
