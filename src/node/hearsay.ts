/**
 * What the other nodes told: of themselves, for as long as they are connected, and of
 * the partitions that they lead.
 */
import type { Index, NodeId, PartitionId } from '../common/ids.js';
import type { Standing } from './leader-balance.js';
import type { Gossip, ToldFault } from './peer-codec.js';
import type { NodeFault } from './types.js';

export class Hearsay {
  readonly #partitionCount: number;
  /** They stop, or their clocks are ahead. */
  readonly #unwilling = new Set<NodeId>();
  /** Their disks have less room than their reserve. */
  readonly #withFullDisks = new Set<NodeId>();
  /** The newest that they can carry out. */
  readonly #applyVersions = new Map<NodeId, number>();
  readonly #faults = new Map<NodeId, readonly ToldFault[]>();
  readonly #standings = new Map<NodeId, Standing>();
  /** Of partitions that this node holds no replica of, or one that can't tell. */
  readonly #leaders = new Map<PartitionId, NodeId>();
  /** What all members have of the log, as the leader told last. */
  readonly #keptByAll = new Map<PartitionId, { term: number; index: Index }>();

  constructor(partitionCount: number) {
    this.#partitionCount = partitionCount;
  }

  heard(from: NodeId, { unwilling, diskFull, applyVersion, faults, standing, led }: Gossip): void {
    if (unwilling) this.#unwilling.add(from);
    else this.#unwilling.delete(from);
    if (diskFull) this.#withFullDisks.add(from);
    else this.#withFullDisks.delete(from);
    this.#applyVersions.set(from, applyVersion);
    if (faults.length > 0) this.#faults.set(from, faults);
    else this.#faults.delete(from);
    if (standing !== undefined) this.#standings.set(from, standing);
    else this.#standings.delete(from);
    for (const { partition, term, keptByAll } of led) {
      if (partition >= this.#partitionCount) continue;
      const known = this.#keptByAll.get(partition);
      if (known !== undefined && (known.term > term || known.index >= keptByAll)) continue;
      this.#keptByAll.set(partition, { term, index: keptByAll });
    }
  }

  peerDown(peer: NodeId): void {
    this.#unwilling.delete(peer);
    this.#withFullDisks.delete(peer);
    this.#faults.delete(peer);
    this.#standings.delete(peer);
    // It may come back as an older build.
    this.#applyVersions.delete(peer);
    // Calls wait for the next leader to say so, instead of being sent to one that can't be reached.
    for (const [partition, leader] of this.#leaders) if (leader === peer) this.#leaders.delete(partition);
  }

  noteLeader(partition: PartitionId, leader: NodeId): void {
    this.#leaders.set(partition, leader);
  }
  leaderOf(partition: PartitionId): NodeId | undefined {
    return this.#leaders.get(partition);
  }

  /** Also an earlier leader's word holds: what a member has synced it keeps. */
  keptByAll(partition: PartitionId): Index {
    return this.#keptByAll.get(partition)?.index ?? 0;
  }

  isUnwilling(node: NodeId): boolean {
    return this.#unwilling.has(node);
  }
  hasFullDisk(node: NodeId): boolean {
    return this.#withFullDisks.has(node);
  }
  get hasFullDisks(): boolean {
    return this.#withFullDisks.size > 0;
  }
  get withFullDisks(): readonly NodeId[] {
    return [...this.#withFullDisks];
  }
  /** 0: it has not told. */
  applyVersionOf(node: NodeId): number {
    return this.#applyVersions.get(node) ?? 0;
  }

  /** Undefined: it has not told, or tells none. */
  standingOf(node: NodeId): Standing | undefined {
    return this.#standings.get(node);
  }

  /** Proposals that others have under way, as they told. */
  get proposalsElsewhere(): number {
    let sum = 0;
    for (const { proposals } of this.#standings.values()) sum += proposals;
    return sum;
  }

  faultsOf(node: NodeId): readonly ToldFault[] {
    return this.#faults.get(node) ?? [];
  }
  get faults(): readonly NodeFault[] {
    return [...this.#faults].flatMap(([nodeId, faults]) => faults.map((fault) => ({ nodeId, ...fault })));
  }
}
