/** A stopped replica's state, brought to the end of what its log has: all of it, committed or not. */
import { HansardError } from '../../common/errors.js';
import type { ReplicaId } from '../../common/ids.js';
import type { Entry } from '../../common/log-types.js';
import { changedMembership, decodePlaced } from '../../common/membership.js';
import { Applier } from '../../partition/applier.js';
import { type ConfChange, decodeConfChange } from '../../raft/conf-codec.js';
import { applyChange, restore } from '../../raft/confchange.js';
import { type Message, MessageType, message as newMessage } from '../../raft/types.js';
import type { PartitionStore } from '../../store/types.js';
import type { GroupLog } from '../../wal/types.js';

/** Entries held in memory at once, bytes. */
const stepBytes = 8 * 1024 * 1024;
const sliceBytes = 1024 * 1024;

/** Changes of members on the way that may not be committed: they are not carried out, but what they gave out is not given out again. */
export interface ChangesMet {
  count: number;
  highestId: ReplicaId;
}

export async function replayRest(store: PartitionStore, log: GroupLog): Promise<ChangesMet> {
  const met: ChangesMet = { count: 0, highestId: 0 };
  // What is sealed was committed: a log that has something else there, or ends before, has nothing to add.
  const follows = store.appliedIndex + 1 >= log.firstIndex() && log.lastIndex() > store.appliedIndex;
  if (!follows || log.term(store.appliedIndex) !== store.appliedTerm) return met;
  while (store.appliedIndex < log.lastIndex()) {
    const entries = log.entries(store.appliedIndex + 1, log.lastIndex() + 1, stepBytes);
    if (!(await log.fill(entries))) {
      const { partition } = store;
      throw new HansardError('LOG_DAMAGED', `the log of partition ${partition} has changed`, { partition });
    }
    await applyAll(store, log, entries, met);
  }
  return met;
}

function applyAll(store: PartitionStore, log: GroupLog, entries: Entry[], met: ChangesMet): Promise<void> {
  return new Promise((resolve, reject) => {
    const applier = new Applier(
      store,
      sliceBytes,
      { bytes: 0 },
      {
        fill: (missing) => log.fill(missing),
        applied() {},
        applyConfChange: (entry) => meet(store, log, entry, met),
        done: () => resolve(),
        mayApply: () => true,
        later: () => setImmediate(() => applier.pump()),
        fatal: reject,
      },
    );
    const message: Message = newMessage(MessageType.MsgStorageApply, 0);
    message.entries = entries;
    applier.push(message);
    applier.pump();
  });
}

function meet(store: PartitionStore, log: GroupLog, entry: Entry, met: ChangesMet): void {
  const change = decodeConfChange(entry.data ?? new Uint8Array(0));
  if (entry.index <= log.hardState.commit && carriedOut(store, change)) return;
  met.count++;
  const ids = [
    ...change.changes.map(({ id }) => id),
    ...(decodePlaced(change.context) ?? []).map((one) => one.replicaId),
  ];
  met.highestId = Math.max(met.highestId, ...ids);
}

const noProgress = { lastIndex: 0, maxInflightMsgs: 1, maxInflightBytes: 1 };

/** As a replica does; false: it would pass over it. */
function carriedOut(store: PartitionStore, change: ConfChange): boolean {
  const placed = decodePlaced(change.context);
  const outcome = applyChange({ ...noProgress, ...restore(store.confState, noProgress) }, change);
  if (placed === undefined || !outcome.ok) return false;
  const membership = changedMembership(store.membership, outcome.config, placed);
  if (membership === undefined) return false;
  store.setConfState(outcome.config, membership);
  return true;
}
