/**
 * Do the replicas have the same channel behind a name? They are read one after
 * the other while clients write, so a difference alone proves nothing. What does:
 * a name's version (uid, deleted or not, etag) never comes back once it has
 * passed. A replica that shows one version at applied indexes a and c has it at
 * every index between; one that shows another version at b, a ≤ b ≤ c, is at odds
 * with it, whatever is going on. Otherwise they are read again.
 */
import type { ChannelInfo } from '../../client/types.js';
import type { Finding } from './finding.js';
import type { Reading } from './listing.js';
import type { VerifiedNode } from './replica.js';
import { sleep } from './replica.js';

/** A channel that changes between each two of so many readings is told as unsettled. */
const readingsMax = 40;
/** Between readings, ms: a channel that is changed in a loop is caught between two changes. */
const pauseMaxMs = 50;

/** From which index to which a replica is known to have had this version. */
interface Held {
  readonly reading: Reading;
  readonly version: string;
  readonly since: number;
  readonly until: number;
}

export interface Settled {
  /** Of replicas that agree on the version; the largest such group. */
  readonly readings: readonly Reading[];
  readonly findings: readonly Omit<Finding, 'partition' | 'tenant' | 'channel'>[];
  /** False: it never stood still. */
  readonly settled: boolean;
}

/** `again` reads the record of one replica at an index or later; undefined: that replica drops out. */
export async function settle(
  first: readonly Reading[],
  again: (node: VerifiedNode, minAppliedIndex: number) => Promise<Reading | undefined>,
): Promise<Settled> {
  let held = first.map(hold);
  for (let round = 1; ; round++) {
    if (new Set(held.map(({ version }) => version)).size <= 1) return agreed(held);
    if (isConflict(held)) return divided(held);
    if (round === readingsMax) return { readings: [], findings: [], settled: false };
    if (round > 2) await sleep(Math.random() * Math.min(pauseMaxMs, 2 ** round));
    const index = Math.max(...held.map(({ until }) => until));
    const next = await Promise.all(held.map(({ reading }) => again(reading.node, index)));
    held = next.flatMap((reading, i) => (reading === undefined ? [] : [holdOn(held[i] as Held, reading)]));
  }
}

function hold(reading: Reading): Held {
  return { reading, version: versionOf(reading), since: reading.at, until: reading.at };
}

function holdOn(before: Held, reading: Reading): Held {
  const now = hold(reading);
  return now.version === before.version ? { ...now, since: before.since } : now;
}

function versionOf({ entry }: Reading): string {
  if (entry === undefined) return 'absent';
  return `${entry.deleted ? 'deleted' : 'there'} ${entry.info?.etag}`;
}

/** Two versions at one index. */
function isConflict(held: readonly Held[]): boolean {
  return held.some((a) =>
    held.some((b) => a.version !== b.version && a.since <= b.until && b.since <= a.until),
  );
}

function divided(held: readonly Held[]): Settled {
  const groups = groupBy(held, ({ version }) => version);
  const [largest = [], second] = groups;
  const isMajority = second === undefined || largest.length > second.length;
  const findings = groups.slice(isMajority ? 1 : 0).flatMap((group) =>
    group.map(({ reading }) => ({
      kind: 'channel-differs' as const,
      node: reading.node.nodeId,
      problem: 'replicas have different channels behind this name',
      expected: isMajority ? describe(largest[0]?.reading) : 'the same on all replicas',
      found: describe(reading),
    })),
  );
  const rest = agreed(largest);
  return { ...rest, findings: [...findings, ...rest.findings] };
}

/** Of one version: then all that only a new version changes must be the same too. */
function agreed(held: readonly Held[]): Settled {
  const readings = held.map(({ reading }) => reading);
  const groups = groupBy(readings, fieldsOf);
  const [largest = [], second] = groups;
  if (second === undefined) return { readings, findings: [], settled: true };
  const isMajority = largest.length > second.length;
  const findings = groups.slice(isMajority ? 1 : 0).flatMap((group) =>
    group.map((reading) => ({
      kind: 'channel-differs' as const,
      node: reading.node.nodeId,
      problem: "the channel's own fields differ from those of other replicas under the same etag",
      expected: isMajority ? fieldsOf(largest[0] as Reading) : 'the same on all replicas',
      found: fieldsOf(reading),
    })),
  );
  return { readings, findings, settled: true };
}

/** What no event changes. */
function fieldsOf({ entry }: Reading): string {
  const info: Partial<ChannelInfo> = entry?.info ?? {};
  const {
    uid,
    title,
    class: channelClass,
    labels,
    participants,
    createTimeUs,
    updateTimeUs,
    firstSeq,
  } = info;
  const kept = entry?.deleted ? { headSeq: info.headSeq } : {};
  const sorted = Object.entries(labels ?? {}).sort();
  return JSON.stringify({
    uid,
    title,
    class: channelClass,
    labels: sorted,
    participants,
    createTimeUs,
    updateTimeUs,
    firstSeq,
    ...kept,
  });
}

function describe(reading: Reading | undefined): string {
  const { entry, at } = reading ?? {};
  if (entry === undefined) return `no such channel at applied index ${at}`;
  const { uid, etag, headSeq } = entry.info ?? {};
  return entry.deleted
    ? `channel ${uid}, deleted, head ${headSeq}, at applied index ${at}`
    : `channel ${uid}, etag ${etag}, head ${headSeq}, at applied index ${at}`;
}

/** Largest first. */
export function groupBy<T>(items: readonly T[], keyOf: (item: T) => string): T[][] {
  const groups = new Map<string, T[]>();
  for (const item of items) {
    const key = keyOf(item);
    const group = groups.get(key);
    if (group === undefined) groups.set(key, [item]);
    else group.push(item);
  }
  return [...groups.values()].sort((a, b) => b.length - a.length);
}
