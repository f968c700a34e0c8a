/** One name on all replicas of its partition: the record, then every event, a window at a time. */
import type { Event } from '../../client/types.js';
import { xxh64 } from '../../common/hash.js';
import {
  type ChannelRead,
  EventCursor,
  fieldsOf,
  type Gone,
  type Hashes,
  hex64,
  type ReadCounts,
} from './events.js';
import { type Finding, Ranges } from './finding.js';
import { type Reading, readRecord } from './listing.js';
import { NodeDown, ReplicaUnusable, type VerifiedNode } from './replica.js';
import { groupBy, settle } from './settle.js';

/** Events whose hashes are held for each replica. */
const windowEvents = 500;
/** A channel that is deleted or made anew under our reading is begun again so often. */
const attemptsMax = 20;

export interface ChannelTask {
  readonly partition: number;
  readonly tenant: string;
  readonly channel: string;
  readonly readings: readonly Reading[];
  readonly counts: ReadCounts;
  readonly report: (finding: Finding) => void;
}

/** Never rejects because of a node or a replica: those are findings. Rejects NodeDown where the last one is gone. */
export async function verifyChannel(task: ChannelTask): Promise<void> {
  const { partition, tenant, channel, report } = task;
  const told = new Set<string>();
  const tell = (finding: Omit<Finding, 'partition' | 'tenant' | 'channel'>): void => {
    const whole = { ...finding, partition, tenant, channel };
    const key = JSON.stringify([whole.kind, whole.node, whole.problem]);
    if (!told.has(key)) report(whole);
    told.add(key);
  };
  const again = async (node: VerifiedNode, minAppliedIndex: number): Promise<Reading | undefined> =>
    usable(node, tell, () => readRecord(node, partition, tenant, channel, minAppliedIndex));
  let readings = task.readings;
  for (let attempt = 1; ; attempt++) {
    const readable = readings.filter((reading) => isReadable(reading, tell));
    if (readable.length === 0) return;
    const settled = await settle(readable, again);
    for (const finding of settled.findings) tell(finding);
    const [first] = settled.readings;
    if (settled.settled && (first?.entry === undefined || first.entry.deleted)) return;
    const gone = settled.settled ? await verifyEvents(task, settled.readings, tell) : undefined;
    if (settled.settled && gone === undefined) return;
    if (!settled.settled || attempt === attemptsMax) {
      tell({
        kind: 'unsettled',
        problem: `it was deleted, made anew or changed at each of ${attempt} attempts`,
      });
      return;
    }
    const from = gone?.goneAt ?? 0;
    const nodes = settled.readings.map(({ node }) => node);
    readings = (await Promise.all(nodes.map((node) => again(node, from)))).filter(
      (each) => each !== undefined,
    );
  }
}

type Tell = (finding: Omit<Finding, 'partition' | 'tenant' | 'channel'>) => void;

function isReadable({ node, entry }: Reading, tell: Tell): boolean {
  if (entry === undefined || entry.damage === '') return true;
  tell({ kind: 'channel-damaged', node: node.nodeId, problem: entry.damage });
  return entry.info !== undefined;
}

/** What `call` gives; undefined where the node or its replica fails, which is told unless it is the whole node. */
async function usable<T>(node: VerifiedNode, tell: Tell, call: () => Promise<T>): Promise<T | undefined> {
  try {
    return await call();
  } catch (error) {
    // The whole node: told once, for all of its partitions.
    if (error instanceof NodeDown) return undefined;
    if (!(error instanceof ReplicaUnusable)) throw error;
    tell({ kind: error.kind, node: node.nodeId, problem: error.message, ...error.details });
    return undefined;
  }
}

async function verifyEvents(
  { partition, tenant, channel, counts, report }: ChannelTask,
  readings: readonly Reading[],
  tell: Tell,
): Promise<Gone | undefined> {
  const infos = readings.flatMap(({ entry }) => (entry?.info === undefined ? [] : [entry.info]));
  const read: ChannelRead = {
    partition,
    tenant,
    channel,
    uid: infos[0]?.uid ?? '',
    minAppliedIndex: Math.max(...readings.map(({ at }) => at)),
    firstSeq: Math.min(...infos.map(({ firstSeq }) => firstSeq)),
    headSeq: Math.max(...infos.map(({ headSeq }) => headSeq)),
  };
  const ranges = new Ranges(report);
  try {
    let cursors = readings.map((reading) => new EventCursor(read, reading, ranges, counts));
    for (let from = read.firstSeq; from <= read.headSeq; from += windowEvents) {
      const to = Math.min(read.headSeq, from + windowEvents - 1);
      const windows = await Promise.all(
        cursors.map(async (cursor) => ({
          cursor,
          hashes: await usable(cursor.node, tell, () => cursor.window(to)),
        })),
      );
      const there = windows.flatMap(({ cursor, hashes }) =>
        hashes === undefined ? [] : [{ cursor, hashes }],
      );
      const gone = there.find(({ hashes }) => 'goneAt' in hashes)?.hashes as Gone | undefined;
      if (gone !== undefined) return gone;
      const compared = there.map(({ cursor, hashes }) => ({ node: cursor.node, hashes: hashes as Hashes }));
      await compare(read, from, to, compared, ranges);
      cursors = there.map(({ cursor }) => cursor);
    }
    for (const cursor of cursors) {
      for (const problem of cursor.problemsOfRecord()) {
        tell({ kind: 'count-differs', node: cursor.node.nodeId, ...problem });
      }
    }
    return undefined;
  } finally {
    ranges.end();
  }
}

interface Compared {
  readonly node: VerifiedNode;
  readonly hashes: Hashes;
}

async function compare(
  read: ChannelRead,
  from: number,
  to: number,
  replicas: readonly Compared[],
  ranges: Ranges,
): Promise<void> {
  // One word for it, and the fields of the first event, for each run of differing ones.
  let described = 0;
  for (let seq = from; seq <= to; seq++) {
    const first = replicas[0]?.hashes.get(seq);
    if (replicas.every(({ hashes }) => hashes.get(seq) === first)) continue;
    const readable = replicas.filter(({ hashes }) => hashes.has(seq));
    const groups = groupBy(readable, ({ hashes }) => String(hashes.get(seq)));
    const [largest = [], second] = groups;
    if (second === undefined) continue;
    const isMajority = largest.length > second.length;
    const right = isMajority ? largest[0]?.node : undefined;
    for (const { node } of groups.slice(isMajority ? 1 : 0).flat()) {
      // Only the first event of a range is shown, and only so many are fetched for it.
      const details =
        described++ < describedMax ? await differences(read, seq, node, right ?? largest[0]?.node) : {};
      const problem = isMajority
        ? 'the event differs from that of most replicas'
        : 'replicas have different events here, and no majority has the same';
      const { partition, tenant, channel } = read;
      ranges.add(
        { kind: 'event-differs', node: node.nodeId, partition, tenant, channel, problem, ...details },
        seq,
      );
    }
  }
}

/** Events that are fetched again in a window, to say in what they differ. */
const describedMax = 10;

async function differences(
  read: ChannelRead,
  seq: number,
  node: VerifiedNode,
  other: VerifiedNode | undefined,
): Promise<{ expected?: string; found?: string }> {
  if (other === undefined || other === node) return {};
  const [mine, theirs] = await Promise.all([oneEvent(read, seq, node), oneEvent(read, seq, other)]);
  if (mine === undefined || theirs === undefined) return {};
  const [found, expected] = [described(mine), described(theirs)];
  const fields = Object.keys(found).filter((field) => found[field] !== expected[field]);
  if (fields.length === 0) return {};
  const show = (event: Record<string, unknown>): string =>
    fields.map((field) => `${field} ${JSON.stringify(event[field])}`).join(' ');
  return { expected: `${show(expected)} (node ${other.nodeId})`, found: show(found) };
}

function described(event: Event): Record<string, unknown> {
  const { contentBytes } = event;
  // Beside the checksum that is stored with it, what the content hashes to.
  return {
    ...fieldsOf(event),
    content_bytes: contentBytes.length,
    content_hashes_to: hex64(xxh64(contentBytes)),
  };
}

async function oneEvent(read: ChannelRead, seq: number, node: VerifiedNode): Promise<Event | undefined> {
  const { partition, tenant, channel, uid, minAppliedIndex } = read;
  const query = { minAppliedIndex, tenant, channel, uid, fromSeq: seq, maxEvents: 1 };
  try {
    return (await node.events(partition, query)).events.find((event) => event.seq === seq);
  } catch (error) {
    // It was there a moment ago; the finding stands without its details.
    if (error instanceof NodeDown || error instanceof ReplicaUnusable) return undefined;
    throw error;
  }
}
