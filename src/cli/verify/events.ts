/**
 * One replica's events of a channel, page by page: each is checked by itself and
 * leaves a hash, by which replicas are compared. A page is all that is held.
 */
import { createHash } from 'node:crypto';
import type { ReplicaEvents } from '../../client/replica.js';
import type { Event } from '../../client/types.js';
import { xxh64, xxh64Seeded } from '../../common/hash.js';
import type { Ranges } from './finding.js';
import type { Reading } from './listing.js';
import type { VerifiedNode } from './replica.js';

/** At this applied index the replica has no such channel (any more). */
export interface Gone {
  readonly goneAt: number;
}

/** By seq; where there is none, the event could not be read, and that is told. */
export type Hashes = ReadonlyMap<number, bigint>;

export interface ChannelRead {
  readonly partition: number;
  readonly tenant: string;
  readonly channel: string;
  readonly uid: string;
  /** What all replicas must have applied. */
  readonly minAppliedIndex: number;
  readonly firstSeq: number;
  /** The head that is compared up to: all replicas have it at `minAppliedIndex`. */
  readonly headSeq: number;
}

export interface ReadCounts {
  events: number;
  bytes: number;
}

export class EventCursor {
  readonly node: VerifiedNode;
  readonly #read: ChannelRead;
  readonly #reading: Reading;
  readonly #ranges: Ranges;
  readonly #counts: ReadCounts;
  /** What comes next from the replica. */
  #next: number;
  /** Read, but beyond the window that was asked for. */
  #ahead = new Map<number, bigint>();
  #lastTimeUs = 0;
  /** Up to the head of the replica's own record. */
  readonly #own = { messages: 0, lastMessageSeq: 0, lastTimeUs: 0, unread: 0 };

  constructor(read: ChannelRead, reading: Reading, ranges: Ranges, counts: ReadCounts) {
    this.node = reading.node;
    this.#read = read;
    this.#reading = reading;
    this.#ranges = ranges;
    this.#counts = counts;
    this.#next = read.firstSeq;
  }

  /** Hashes of the events up to `toSeq`, from where the last window ended. */
  async window(toSeq: number): Promise<Hashes | Gone> {
    const hashes = this.#ahead;
    this.#ahead = new Map();
    while (this.#next <= toSeq) {
      const page = await this.#page(toSeq);
      if (page.channel === undefined) return { goneAt: page.servedBy.appliedIndex };
      this.#take(page, hashes);
    }
    for (const [seq, hash] of hashes) {
      if (seq <= toSeq) continue;
      this.#ahead.set(seq, hash);
      hashes.delete(seq);
    }
    return hashes;
  }

  #page(toSeq: number): Promise<ReplicaEvents> {
    const { partition, tenant, channel, uid, minAppliedIndex } = this.#read;
    return this.node.events(partition, {
      minAppliedIndex,
      tenant,
      channel,
      uid,
      fromSeq: this.#next,
      maxEvents: toSeq - this.#next + 1,
    });
  }

  /** Always gets on, whatever the page holds. */
  #take(page: ReplicaEvents, hashes: Map<number, bigint>): void {
    const { headSeq } = this.#read;
    const before = this.#next;
    this.#counts.bytes += page.bytes;
    for (const { firstSeq, lastSeq, problem } of page.damages) {
      const [from, to] = [Math.max(firstSeq, this.#read.firstSeq), Math.min(lastSeq, headSeq)];
      if (from <= to) this.#unread('events-damaged', problem, from, to);
    }
    const isDamaged = (seq: number): boolean =>
      page.damages.some(({ firstSeq, lastSeq }) => seq >= firstSeq && seq <= lastSeq);
    const missing = (toSeq: number, found: string): void => {
      for (; this.#next <= toSeq; this.#next++) {
        if (isDamaged(this.#next)) continue;
        const { minAppliedIndex } = this.#read;
        const problem = `an event is missing that was there at applied index ${minAppliedIndex}`;
        this.#unread('events-missing', problem, this.#next, this.#next, found);
      }
    };
    for (const event of page.events) {
      if (event.seq < this.#next || event.seq > headSeq) continue;
      missing(event.seq - 1, `event ${event.seq} in its place`);
      this.#check(event);
      hashes.set(event.seq, hashOf(event));
      this.#next = event.seq + 1;
    }
    // The page covers all up to where the next one begins.
    if (page.nextSeq > this.#next) missing(Math.min(headSeq, page.nextSeq - 1), 'nothing');
    else if (page.nextSeq === 0) missing(headSeq, `the channel's end at ${page.channel?.info?.headSeq}`);
    if (this.#next === before) missing(headSeq, 'a page without it');
  }

  #check(event: Event): void {
    const { seq, commitTimeUs } = event;
    this.#counts.events++;
    const node = this.node.nodeId;
    const of = { partition: this.#read.partition, tenant: this.#read.tenant, channel: this.#read.channel };
    if (commitTimeUs < this.#lastTimeUs) {
      const problem = 'the commit time is earlier than that of the event before';
      const [expected, found] = [`${timeText(this.#lastTimeUs)} or later`, timeText(commitTimeUs)];
      this.#ranges.add({ kind: 'time-falls', node, ...of, problem, expected, found }, seq);
    }
    this.#lastTimeUs = Math.max(this.#lastTimeUs, commitTimeUs);
    if (!event.erased) {
      const actual = xxh64(event.contentBytes);
      if (actual !== event.checksum) {
        const problem = 'the content does not match its xxh64';
        const [expected, found] = [hex64(event.checksum), hex64(actual)];
        this.#ranges.add({ kind: 'checksum-mismatch', node, ...of, problem, expected, found }, seq);
      }
      const commitment = createHash('sha256').update(event.salt).update(event.contentBytes).digest();
      if (!commitment.equals(event.commitment)) {
        const problem = 'SHA-256(salt ‖ content) is not the commitment';
        const [expected, found] = [Buffer.from(event.commitment).toString('hex'), commitment.toString('hex')];
        this.#ranges.add({ kind: 'commitment-mismatch', node, ...of, problem, expected, found }, seq);
      }
    }
    if (seq > (this.#reading.entry?.info?.headSeq ?? 0)) return;
    this.#own.lastTimeUs = commitTimeUs;
    if (!isMessage(event)) return;
    this.#own.messages++;
    this.#own.lastMessageSeq = seq;
  }

  #unread(
    kind: 'events-damaged' | 'events-missing',
    problem: string,
    from: number,
    to: number,
    found?: string,
  ): void {
    const { partition, tenant, channel } = this.#read;
    const finding = { kind, node: this.node.nodeId, partition, tenant, channel, problem, found };
    this.#ranges.add(finding, from, to);
    this.#own.unread += to - from + 1;
  }

  /** All is read: does the replica's own record of the channel say the same? */
  problemsOfRecord(): { readonly problem: string; readonly expected: string; readonly found: string }[] {
    const info = this.#reading.entry?.info;
    // What could not be read can not be counted, and is told already.
    if (info === undefined || this.#own.unread > 0) return [];
    const { messages, lastMessageSeq, lastTimeUs } = this.#own;
    const activityUs = lastTimeUs > 0 ? lastTimeUs : info.createTimeUs;
    const rows = [
      ['message_count', String(messages), String(info.messageCount)],
      ['last_message_seq', String(lastMessageSeq), String(info.lastMessageSeq)],
      ['activity_time', timeText(activityUs), timeText(info.activityTimeUs)],
    ] as const;
    return rows
      .filter(([, expected, found]) => expected !== found)
      .map(([field, expected, found]) => ({
        problem: `${field} of the channel does not match its events`,
        expected,
        found,
      }));
  }
}

/** As the server counts them: MESSAGE_COMPLETED, _CREATED, _STARTED. */
function isMessage({ type }: Event): boolean {
  return type === 'message-completed' || type === 'message-created' || type === 'message-started';
}

/** Of all that the event says. */
function hashOf(event: Event): bigint {
  return xxh64Seeded(event.contentBytes, xxh64(Buffer.from(JSON.stringify(Object.values(fieldsOf(event))))));
}

/** By its name in the API. */
export function fieldsOf(event: Event): Record<string, string | number | boolean> {
  return {
    type: event.type,
    commit_time: timeText(event.commitTimeUs),
    producer_id: event.producerId,
    producer_counter: event.producerCounter,
    actor: event.actor,
    subject: event.subject,
    target_seq: event.targetSeq,
    message_id: event.messageId,
    key: event.key,
    batch_position: event.batchPosition,
    erased: event.erased,
    content_xxh64: hex64(event.checksum),
    commitment: Buffer.from(event.commitment).toString('hex'),
    salt: Buffer.from(event.salt).toString('hex'),
  };
}

export function hex64(value: bigint): string {
  return value.toString(16).padStart(16, '0');
}

function timeText(timeUs: number): string {
  // Beyond what a Date can be: damaged.
  if (timeUs > 8.64e18) return `${timeUs} µs`;
  const seconds = new Date(Math.floor(timeUs / 1e6) * 1000).toISOString().slice(0, 19);
  return `${seconds}.${String(timeUs % 1e6).padStart(6, '0')}Z`;
}
