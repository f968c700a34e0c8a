/**
 * All partitions, several at a time: in each, all names of all replicas side by
 * side, several at a time. Nothing that a node does ends it early; what could not
 * be verified is a finding like what is wrong.
 */

import { verifyChannel } from './channel.js';
import type { ReadCounts } from './events.js';
import type { Finding } from './finding.js';
import { Listing, type Reading, type Scope, sortKey } from './listing.js';
import { NodeDown, ReplicaUnusable, sleep, type VerifiedNode } from './replica.js';
import { groupBy } from './settle.js';

export interface VerifyTarget {
  readonly nodes: ReadonlyMap<number, VerifiedNode>;
  readonly partitions: readonly { readonly partition: number; readonly nodeIds: readonly number[] }[];
}

export interface VerifyOptions extends Scope {
  /** Partitions at a time. */
  readonly parallel: number;
  /** Compare digests of whole replicas, too. */
  readonly digests: boolean;
}

export interface VerifySummary extends ReadCounts {
  partitions: number;
  partitionsDone: number;
  /** Replicas whose channels were read to the end. */
  replicas: number;
  /** Names that are in use or were. */
  channels: number;
  findings: number;
  /** Partitions whose replicas had the same digest at the same index. */
  digestsEqual: number;
  /** Partitions that changed too often for their digests to be compared. */
  digestsSkipped: number;
}

/** Channels of a partition at a time: hides the round trips of many small ones. */
const channelsAtOnce = 8;
const digestAttempts = 5;
const digestPauseMs = 200;

export class Verifier {
  readonly summary: VerifySummary;
  readonly #down = new Set<number>();

  constructor(
    readonly target: VerifyTarget,
    readonly options: VerifyOptions,
    readonly onFinding: (finding: Finding) => void,
  ) {
    this.summary = {
      partitions: target.partitions.length,
      partitionsDone: 0,
      replicas: 0,
      channels: 0,
      events: 0,
      bytes: 0,
      findings: 0,
      digestsEqual: 0,
      digestsSkipped: 0,
    };
  }

  async run(): Promise<VerifySummary> {
    const partitions = [...this.target.partitions];
    const worker = async (): Promise<void> => {
      for (let next = partitions.shift(); next !== undefined; next = partitions.shift()) {
        await this.#partition(next.partition, next.nodeIds);
        this.summary.partitionsDone++;
      }
    };
    await Promise.all(Array.from({ length: this.options.parallel }, worker));
    return this.summary;
  }

  #report(finding: Finding): void {
    this.summary.findings++;
    this.onFinding(finding);
  }

  /** What `call` gives; undefined where the node or its replica fails, which is told. */
  async #of<T>(partition: number, node: VerifiedNode, call: () => Promise<T>): Promise<T | undefined> {
    try {
      return await call();
    } catch (error) {
      if (error instanceof NodeDown) this.#isDown(node);
      else if (error instanceof ReplicaUnusable) {
        const { kind, message, details } = error;
        this.#report({ kind, node: node.nodeId, partition, problem: message, ...details });
      } else throw error;
      return undefined;
    }
  }

  #isDown(node: VerifiedNode): void {
    if (this.#down.has(node.nodeId)) return;
    this.#down.add(node.nodeId);
    const held = this.target.partitions.filter(({ nodeIds }) => nodeIds.includes(node.nodeId)).length;
    const problem = `${node.address} does not answer: its replicas of ${held} partitions are not verified, or not to the end`;
    this.#report({ kind: 'node-unreachable', node: node.nodeId, problem, found: node.down?.message });
  }

  async #partition(partition: number, nodeIds: readonly number[]): Promise<void> {
    const nodes = nodeIds.flatMap((nodeId) => this.target.nodes.get(nodeId) ?? []);
    if (nodes.length === 0) {
      const problem = 'the map of partitions names no replica that could be asked';
      this.#report({ kind: 'replica-missing', partition, problem });
    }
    const applied = await this.#each(partition, nodes, (node) => node.appliedIndex(partition));
    if (applied.length === 0) return;
    // What any replica has now, all must show.
    const index = Math.max(...applied.map(({ value }) => value));
    const listings = applied.map(({ node }) => new Listing(node, partition, index, this.options));
    const sound = await this.#channels(partition, listings);
    this.summary.replicas += sound.length;
    // A node may have gone down within a channel, where nobody tells it.
    for (const { node } of applied) if (node.down !== undefined) this.#isDown(node);
    if (this.options.digests && sound.length > 0) await this.#digests(partition, sound, index);
  }

  async #each<T>(
    partition: number,
    nodes: readonly VerifiedNode[],
    call: (node: VerifiedNode) => Promise<T>,
  ): Promise<{ node: VerifiedNode; value: T }[]> {
    const values = await Promise.all(nodes.map((node) => this.#of(partition, node, () => call(node))));
    return values.flatMap((value, i) =>
      value === undefined ? [] : [{ node: nodes[i] as VerifiedNode, value }],
    );
  }

  /** Merges the listings; gives the nodes that could be listed to the end. */
  async #channels(partition: number, all: readonly Listing[]): Promise<VerifiedNode[]> {
    let listings = all;
    const running = new Set<Promise<void>>();
    try {
      for (;;) {
        // Boxed: undefined is a listing that failed, an empty box one that has ended.
        const heads = await Promise.all(
          listings.map((listing) =>
            this.#of(partition, listing.node, async () => ({ entry: await listing.peek() })),
          ),
        );
        const live = listings.flatMap((listing, i) => {
          const head = heads[i];
          return head === undefined ? [] : [{ listing, entry: head.entry }];
        });
        listings = live.map(({ listing }) => listing);
        const keys = live.flatMap(({ entry }) => (entry === undefined ? [] : [sortKey(entry)]));
        const [key] = keys.sort(Buffer.compare);
        if (key === undefined) return listings.map(({ node }) => node);
        const readings: Reading[] = live.map(({ listing, entry }) => {
          const isThis = entry !== undefined && sortKey(entry).equals(key);
          if (isThis) listing.take();
          return { node: listing.node, entry: isThis ? entry : undefined, at: listing.at };
        });
        const check = this.#channel(partition, readings).finally(() => running.delete(check));
        running.add(check);
        if (running.size >= channelsAtOnce) await Promise.race(running);
      }
    } finally {
      await Promise.all(running);
    }
  }

  async #channel(partition: number, readings: readonly Reading[]): Promise<void> {
    const named = readings.find(({ entry }) => entry !== undefined)?.entry;
    if (named === undefined) return;
    this.summary.channels++;
    const { tenant, name: channel } = named;
    const report = (finding: Finding): void => this.#report(finding);
    await verifyChannel({ partition, tenant, channel, readings, counts: this.summary, report });
  }

  /** Only what is of one index can be compared: a partition that is written to all the time is left out. */
  async #digests(partition: number, all: readonly VerifiedNode[], from: number): Promise<void> {
    let nodes = all;
    let index = from;
    for (let attempt = 1; attempt <= digestAttempts; attempt++) {
      const digests = await this.#each(partition, nodes, (node) => digestOf(node, partition, index));
      const found: Digest[] = [];
      for (const { node, value } of digests) {
        if ('digest' in value) found.push({ node, ...value });
        if ('damage' in value)
          this.#report({ kind: 'digest-damaged', node: node.nodeId, partition, problem: value.damage });
      }
      // Those that fail or are damaged are told and drop out; the others are still to be compared.
      nodes = digests.flatMap(({ node, value }) => ('damage' in value ? [] : [node]));
      if (nodes.length === 0) return;
      index = Math.max(index, ...found.map(({ at }) => at));
      const isOfOneIndex = found.length === nodes.length && found.every(({ at }) => at === index);
      if (isOfOneIndex) return this.#compare(partition, found, all.length);
      await sleep(digestPauseMs * attempt);
    }
    this.summary.digestsSkipped++;
  }

  #compare(partition: number, digests: readonly Digest[], replicas: number): void {
    const [largest = [], second] = groupBy(digests, ({ digest }) => digest);
    if (second === undefined) {
      if (digests.length === replicas) this.summary.digestsEqual++;
      return;
    }
    const isMajority = largest.length > second.length;
    for (const { node, digest, at } of isMajority
      ? digests.filter((each) => !largest.includes(each))
      : digests) {
      this.#report({
        kind: 'digest-differs',
        node: node.nodeId,
        partition,
        problem: `the replica as a whole (events, producers, keys, message ids) differs at applied index ${at}`,
        expected: isMajority ? largest[0]?.digest : 'the same on all replicas',
        found: digest,
      });
    }
  }
}

interface Digest {
  readonly node: VerifiedNode;
  readonly digest: string;
  readonly at: number;
}

type Digested =
  | { readonly digest: string; readonly at: number }
  | { readonly damage: string }
  /** The partition changed meanwhile: what looks like damage may be a deleted channel. */
  | { readonly changed: true };

async function digestOf(node: VerifiedNode, partition: number, index: number): Promise<Digested> {
  const before = await node.appliedIndex(partition);
  try {
    const { digest, servedBy } = await node.digest(partition, index);
    return { digest, at: servedBy.appliedIndex };
  } catch (error) {
    if (!(error instanceof ReplicaUnusable) || error.kind !== 'channel-damaged') throw error;
    const after = await node.appliedIndex(partition);
    return before === after && before >= index ? { damage: error.message } : { changed: true };
  }
}
