/**
 * The node's record of its replicas' faults. A fault counts from the moment it is
 * found; what it allows (a snapshot in the place of the state, a vote) waits until
 * the record is synced. Kept twice (a file of its own, a fact in the database), so
 * that damage to one of them takes none of it away.
 */
import {
  encodeFaults,
  type FaultKind,
  type FaultRecord,
  noFaults,
  type ReplicaFault,
} from '../common/faults.js';
import type { HostedId, PartitionId, ReplicaId } from '../common/ids.js';

/** Keeps the bytes in all their places, synced when it resolves. Rejects: the process must end. */
export type KeepFaults = (bytes: Uint8Array) => Promise<void>;

export class FaultLedger {
  #record: FaultRecord;
  readonly #keep: KeepFaults;
  #writing: Promise<void> = Promise.resolve();
  /** Not begun yet. */
  #next: Promise<void> | undefined;

  constructor(record: FaultRecord, keep: KeepFaults) {
    this.#record = record;
    this.#keep = keep;
  }

  /** For tests, and where nothing is kept. */
  static inMemory(): FaultLedger {
    return new FaultLedger(noFaults, () => Promise.resolve());
  }

  get record(): FaultRecord {
    return this.#record;
  }

  get faults(): readonly ReplicaFault[] {
    return this.#record.faults;
  }

  of(partition: PartitionId, kind: FaultKind): ReplicaFault | undefined {
    return this.#record.faults.find((fault) => fault.partition === partition && fault.kind === kind);
  }

  /**
   * In the place of one of the same kind, unless that is of a later replica: a log may hold what is left of
   * several, and the last one is in use. It counts at once, and is synced when this resolves.
   */
  add(faults: readonly ReplicaFault[]): Promise<void> {
    const counting = new Map<string, ReplicaFault>();
    for (const fault of [...this.faults, ...faults]) {
      const key = `${fault.partition}/${fault.kind}`;
      if ((counting.get(key)?.replicaId ?? 0) <= fault.replicaId) counting.set(key, fault);
    }
    return this.update({ faults: [...counting.values()] });
  }

  clear(partition: PartitionId, kinds: readonly FaultKind[]): Promise<void> {
    const isLeft = (fault: ReplicaFault): boolean =>
      fault.partition !== partition || !kinds.includes(fault.kind);
    if (this.#record.faults.every(isLeft)) return this.#writing;
    return this.update({ faults: this.faults.filter(isLeft) });
  }

  /** Replicas that are members no more. Of each partition the latest is kept. */
  noteGone(replicas: readonly HostedId[]): Promise<void> {
    const gone = this.#goneWith(replicas);
    return gone === this.#record.gone ? this.#writing : this.update({ gone });
  }

  /** Others are in the place of the replica that lost its vote: the fault goes, and that this id is gone stays. */
  replaced(partition: PartitionId): Promise<void> {
    const fault = this.of(partition, 'term-or-vote-lost');
    if (fault === undefined) return this.#writing;
    const faults = this.faults.filter((one) => one !== fault);
    return this.update({ faults, gone: this.#goneWith([fault]) });
  }

  /** An operator has made this replica all that there is of its partition: whatever was known against it is void. */
  trusted(partition: PartitionId): Promise<void> {
    const isOther = (one: { readonly partition: PartitionId }): boolean => one.partition !== partition;
    return this.update({ faults: this.faults.filter(isOther), gone: this.#record.gone.filter(isOther) });
  }

  /** Replicas of the partition up to this id are members no more; 0: none is known. */
  goneOf(partition: PartitionId): ReplicaId {
    return this.#record.gone.find((one) => one.partition === partition)?.replicaId ?? 0;
  }

  /** The very list of the record where they bring nothing new. A start asks with all that a node ever held. */
  #goneWith(replicas: readonly HostedId[]): readonly HostedId[] {
    const { gone } = this.#record;
    const latest = new Map(gone.map(({ partition, replicaId }) => [partition, replicaId]));
    let isNews = false;
    for (const { partition, replicaId } of replicas) {
      if (replicaId <= (latest.get(partition) ?? 0)) continue;
      latest.set(partition, replicaId);
      isNews = true;
    }
    if (!isNews) return gone;
    return [...latest].sort(([a], [b]) => a - b).map(([partition, replicaId]) => ({ partition, replicaId }));
  }

  /**
   * Also where nothing changes: it is written anew. What changes while one is written shares the next: a node that loses
   * hundreds of replicas at once does not have the log wait for as many syncs.
   */
  update(change: Partial<Omit<FaultRecord, 'number'>>): Promise<void> {
    const number = this.#record.number + 1;
    const record = { ...this.#record, ...change, number };
    const faults = [...record.faults].sort((a, b) => a.partition - b.partition || (a.kind < b.kind ? -1 : 1));
    this.#record = { ...record, faults };
    if (this.#next === undefined) {
      const next = this.#writing.then(() => {
        this.#next = undefined;
        return this.#keep(encodeFaults(this.#record));
      });
      this.#next = next;
      // A failed one is told to its callers, and to all after it by the end of the process.
      this.#writing = next.catch(() => undefined);
    }
    return this.#next;
  }
}

/** For the store: rows of which generations must not be used. */
export function untrustedBy(ledger: FaultLedger): Map<PartitionId, number> {
  const untrusted = new Map<PartitionId, number>();
  for (const { partition, kind, generation } of ledger.faults)
    if (kind === 'state-damaged') untrusted.set(partition, generation);
  return untrusted;
}
