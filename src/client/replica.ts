/**
 * What one node holds itself (ReplicaService), for `hansard verify`; not part of
 * the exported surface. Nothing here routes, repeats or verifies: the caller wants
 * this node's answer, as wrong as it may be.
 */
import type { HansardError } from '../common/errors.js';
import { readChannel } from './channel-responses.js';
import { readEvent } from './event-decode.js';
import { type Link, openLink } from './link.js';
import { type Method, methods } from './requests.js';
import { nobody, readServedBy } from './response-parts.js';
import { attemptOn } from './router.js';
import type { ChannelInfo, Event, ServedBy } from './types.js';
import { BackWriter } from './wire.js';
import { ProtoReader } from './wire-reader.js';

export interface ReplicaChannel {
  readonly tenant: string;
  readonly name: string;
  /** Undefined: nothing of it can be read there. Of a deleted name what is kept of it. */
  readonly info: ChannelInfo | undefined;
  readonly deleted: boolean;
  /** What is wrong with its rows; empty: nothing. */
  readonly damage: string;
}

export interface ReplicaChannelPage {
  readonly channels: readonly ReplicaChannel[];
  readonly nextPageToken: string;
  readonly servedBy: ServedBy;
}

export interface ReplicaEvents {
  /** As they came: checksums are the caller's to check, content is not decoded. */
  readonly events: readonly Event[];
  readonly damages: readonly {
    readonly firstSeq: number;
    readonly lastSeq: number;
    readonly problem: string;
  }[];
  /** 0: the channel ends here. */
  readonly nextSeq: number;
  /** Undefined: no channel of that name and uid there. */
  readonly channel: ReplicaChannel | undefined;
  readonly servedBy: ServedBy;
  /** Of the answer. */
  readonly bytes: number;
}

/** What a node's scrubber does and has found. */
export interface NodeScrub {
  readonly nodeId: number;
  readonly state: 'unspecified' | 'off' | 'waiting' | 'working';
  readonly pass: NodeScrubPass | undefined;
  readonly lastEndedUs: number;
  readonly bytes: number;
  readonly findings: number;
  readonly newest: readonly {
    readonly kind: string;
    readonly partition: number | undefined;
    readonly problem: string;
    readonly atUs: number;
  }[];
}

export interface NodeScrubPass {
  readonly startedUs: number;
  /** 0 while it goes on. */
  readonly endedUs: number;
  readonly step: number;
  readonly steps: number;
  readonly bytes: number;
  readonly findings: number;
  readonly compared: number;
  readonly notCompared: number;
}

export interface ReplicaChannelsQuery {
  readonly minAppliedIndex: number;
  /** Empty: all tenants. */
  readonly tenant: string;
  readonly prefix: string;
  readonly pageSize: number;
  readonly pageToken: string;
}

export interface ReplicaEventsQuery {
  readonly minAppliedIndex: number;
  readonly tenant: string;
  readonly channel: string;
  readonly uid: string;
  readonly fromSeq: number;
  readonly maxEvents: number;
}

export class ReplicaClient {
  readonly #link: Link;

  constructor(readonly address: string) {
    this.#link = openLink('exchange', address);
  }

  close(): void {
    this.#link.close();
  }

  channels(partition: number, query: ReplicaChannelsQuery, timeoutMs: number): Promise<ReplicaChannelPage> {
    scratch.reset();
    scratch.string(6, query.pageToken);
    scratch.uint(5, query.pageSize);
    scratch.string(4, query.prefix);
    scratch.string(3, query.tenant);
    begin(partition, query.minAppliedIndex);
    return this.#call(methods.replicaChannels, timeoutMs, readChannels);
  }

  events(partition: number, query: ReplicaEventsQuery, timeoutMs: number): Promise<ReplicaEvents> {
    scratch.reset();
    scratch.uint(7, query.maxEvents);
    scratch.uint(6, query.fromSeq);
    scratch.string(5, query.uid);
    scratch.string(4, query.channel);
    scratch.string(3, query.tenant);
    begin(partition, query.minAppliedIndex);
    return this.#call(methods.replicaEvents, timeoutMs, readEvents);
  }

  digest(
    partition: number,
    minAppliedIndex: number,
    timeoutMs: number,
  ): Promise<{ readonly digest: string; readonly servedBy: ServedBy }> {
    scratch.reset();
    begin(partition, minAppliedIndex);
    return this.#call(methods.replicaDigest, timeoutMs, readDigest);
  }

  /** `start`: begins a pass; `bytesPerSecond` 0: the node's own rate. */
  scrub(start: boolean, bytesPerSecond: number, timeoutMs: number): Promise<NodeScrub> {
    scratch.reset();
    scratch.uint(2, bytesPerSecond);
    scratch.uint(1, start ? 1 : 0);
    return this.#call(methods.scrubNode, timeoutMs, readScrub);
  }

  /** Encodes what is in `scratch`; once, to this node. */
  async #call<T>(method: Method, timeoutMs: number, read: (bytes: Uint8Array) => T): Promise<T> {
    const outcome = await attemptOn(this.#link, method, scratch.copy(), timeoutMs, read);
    if (outcome.ok) return outcome.value;
    const error: HansardError = outcome.error;
    throw error;
  }
}

// Encoding is synchronous, so one scratch buffer serves all.
const scratch = new BackWriter();

function begin(partition: number, minAppliedIndex: number): void {
  scratch.uint(2, minAppliedIndex);
  scratch.uint(1, partition);
}

function readChannels(bytes: Uint8Array): ReplicaChannelPage {
  const r = new ProtoReader(bytes);
  const channels: ReplicaChannel[] = [];
  let nextPageToken = '';
  let servedBy = nobody;
  for (let tag = r.next(); tag !== 0; tag = r.next()) {
    if (tag === 10) channels.push(r.message(readReplicaChannel));
    else if (tag === 18) nextPageToken = r.string();
    else if (tag === 26) servedBy = r.message(readServedBy);
    else r.skip();
  }
  return { channels, nextPageToken, servedBy };
}

function readReplicaChannel(r: ProtoReader): ReplicaChannel {
  let info: ChannelInfo | undefined;
  let deleted = false;
  let damage = '';
  let tenant = '';
  let name = '';
  for (let tag = r.next(); tag !== 0; tag = r.next()) {
    if (tag === 10) info = r.message(readChannel);
    else if (tag === 16) deleted = r.bool();
    else if (tag === 26) damage = r.string();
    else if (tag === 34) tenant = r.string();
    else if (tag === 42) name = r.string();
    else r.skip();
  }
  return { tenant: info?.tenant ?? tenant, name: info?.name ?? name, info, deleted, damage };
}

function readEvents(bytes: Uint8Array): ReplicaEvents {
  // One copy for all events of the page: they go together.
  const r = ProtoReader.ofCopy(bytes);
  const events: Event[] = [];
  const damages: ReplicaEvents['damages'][number][] = [];
  let nextSeq = 0;
  let channel: ReplicaChannel | undefined;
  let servedBy = nobody;
  for (let tag = r.next(); tag !== 0; tag = r.next()) {
    if (tag === 10) events.push(r.message(readAsItCame));
    else if (tag === 18) damages.push(r.message(readDamage));
    else if (tag === 24) nextSeq = r.uint();
    else if (tag === 34) channel = r.message(readReplicaChannel);
    else if (tag === 42) servedBy = r.message(readServedBy);
    else r.skip();
  }
  return { events, damages, nextSeq, channel, servedBy, bytes: bytes.length };
}

function readAsItCame(r: ProtoReader): Event {
  return readEvent(r, true);
}

function readDamage(r: ProtoReader): ReplicaEvents['damages'][number] {
  const damage = { firstSeq: 0, lastSeq: 0, problem: '' };
  for (let tag = r.next(); tag !== 0; tag = r.next()) {
    if (tag === 8) damage.firstSeq = r.uint();
    else if (tag === 16) damage.lastSeq = r.uint();
    else if (tag === 26) damage.problem = r.string();
    else r.skip();
  }
  return damage;
}

function readDigest(bytes: Uint8Array): { digest: string; servedBy: ServedBy } {
  const r = new ProtoReader(bytes);
  let digest = '';
  let servedBy = nobody;
  for (let tag = r.next(); tag !== 0; tag = r.next()) {
    if (tag === 10) digest = r.string();
    else if (tag === 18) servedBy = r.message(readServedBy);
    else r.skip();
  }
  return { digest, servedBy };
}

const scrubStates = ['unspecified', 'off', 'waiting', 'working'] as const;

function readScrub(bytes: Uint8Array): NodeScrub {
  const r = new ProtoReader(bytes);
  const scrub = { nodeId: 0, lastEndedUs: 0, bytes: 0, findings: 0 };
  let state: NodeScrub['state'] = 'unspecified';
  let pass: NodeScrubPass | undefined;
  const newest: NodeScrub['newest'][number][] = [];
  for (let tag = r.next(); tag !== 0; tag = r.next()) {
    if (tag === 8) scrub.nodeId = r.uint();
    else if (tag === 16) state = scrubStates[r.uint()] ?? 'unspecified';
    else if (tag === 26) pass = r.message(readScrubPass);
    else if (tag === 32) scrub.lastEndedUs = r.uint();
    else if (tag === 40) scrub.bytes = r.uint();
    else if (tag === 48) scrub.findings = r.uint();
    else if (tag === 58) newest.push(r.message(readScrubFinding));
    else r.skip();
  }
  return { ...scrub, state, pass, newest };
}

function readScrubPass(r: ProtoReader): NodeScrubPass {
  const numbers = new Array<number>(9).fill(0);
  for (let tag = r.next(); tag !== 0; tag = r.next()) {
    // All fields are varints, numbered from 1.
    if ((tag & 7) === 0 && tag >> 3 < numbers.length) numbers[tag >> 3] = r.uint();
    else r.skip();
  }
  const at = (field: number): number => numbers[field] as number;
  return {
    startedUs: at(1),
    endedUs: at(2),
    step: at(3),
    steps: at(4),
    bytes: at(5),
    findings: at(6),
    compared: at(7),
    notCompared: at(8),
  };
}

function readScrubFinding(r: ProtoReader): NodeScrub['newest'][number] {
  let kind = '';
  let partition = 0;
  let hasPartition = false;
  let problem = '';
  let atUs = 0;
  for (let tag = r.next(); tag !== 0; tag = r.next()) {
    if (tag === 10) kind = r.string();
    else if (tag === 16) partition = r.uint();
    else if (tag === 26) problem = r.string();
    else if (tag === 32) atUs = r.uint();
    else if (tag === 40) hasPartition = r.bool();
    else r.skip();
  }
  return { kind, partition: hasPartition ? partition : undefined, problem, atUs };
}
