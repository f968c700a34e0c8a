/** Answers about durable subscriptions, from their bytes. Field numbers: proto/hansard/v1/subscription_service.proto. */
import { readTimestamp } from './content-decode.js';
import { eventTypes } from './requests.js';
import type { Writable } from './response-parts.js';
import {
  type DeadLetter,
  idles,
  type PendingChannel,
  type SubscriptionInfo,
  type SubscriptionProgress,
  type SubscriptionSelector,
  type SubscriptionSettings,
} from './subscription-types.js';
import type { EventType } from './types.js';
import { ProtoReader } from './wire-reader.js';

export function each(r: ProtoReader, take: (tag: number) => boolean): void {
  for (let tag = r.next(); tag !== 0; tag = r.next()) if (!take(tag)) r.skip();
}

export function readSubscriptionResponse(bytes: Uint8Array): SubscriptionInfo {
  const r = ProtoReader.ofCopy(bytes);
  let found: SubscriptionInfo | undefined;
  each(r, (tag) => {
    if (tag !== 10) return false;
    found = r.message(readSubscription);
    return true;
  });
  return found ?? emptyInfo();
}

export function readSubscriptionPage(bytes: Uint8Array): {
  subscriptions: SubscriptionInfo[];
  nextPageToken: string;
} {
  const r = ProtoReader.ofCopy(bytes);
  const page = { subscriptions: [] as SubscriptionInfo[], nextPageToken: '' };
  each(r, (tag) => {
    if (tag === 10) page.subscriptions.push(r.message(readSubscription));
    else if (tag === 18) page.nextPageToken = r.string();
    else return false;
    return true;
  });
  return page;
}

function emptyInfo(): Writable<SubscriptionInfo> {
  return {
    name: '',
    uid: '',
    selector: {},
    settings: {
      description: '',
      ackDeadlineMs: 0,
      maxDeliveries: 0,
      retryDelayMs: 0,
      maxPendingChannels: 0,
      paused: false,
    },
    createTimeUs: 0,
    updateTimeUs: 0,
    etag: '',
    progress: emptyProgress(),
    partition: 0,
  };
}

function readSubscription(r: ProtoReader): SubscriptionInfo {
  const info = emptyInfo();
  each(r, (tag) => {
    if (tag === 10) info.name = r.string();
    else if (tag === 18) info.uid = r.string();
    else if (tag === 26) info.selector = r.message(readSelector);
    else if (tag === 34) info.settings = r.message(readSettings);
    else if (tag === 42) info.createTimeUs = r.message(readTimestamp);
    else if (tag === 50) info.updateTimeUs = r.message(readTimestamp);
    else if (tag === 58) info.etag = r.string();
    else if (tag === 66) info.progress = r.message(readProgress);
    else if (tag === 72) info.partition = r.uint();
    else return false;
    return true;
  });
  return info;
}

function readSelector(r: ProtoReader): SubscriptionSelector {
  const channels: string[] = [];
  const types: EventType[] = [];
  let prefix = '';
  const label = { key: '', value: '' };
  each(r, (tag) => {
    if (tag === 10) channels.push(r.string());
    else if (tag === 18) prefix = r.string();
    else if (tag === 26) label.key = r.string();
    else if (tag === 34) label.value = r.string();
    else if (tag === 40) types.push(eventTypes[r.uint()] ?? 'unspecified');
    else return false;
    return true;
  });
  return {
    ...(channels.length === 0 ? {} : { channels }),
    ...(prefix === '' ? {} : { prefix }),
    ...(label.key === '' ? {} : { label }),
    ...(types.length === 0 ? {} : { types }),
  };
}

function readSettings(r: ProtoReader): Required<SubscriptionSettings> {
  const settings: Writable<Required<SubscriptionSettings>> = { ...emptyInfo().settings };
  each(r, (tag) => {
    if (tag === 10) settings.description = r.string();
    else if (tag === 18) settings.ackDeadlineMs = r.message(readDuration);
    else if (tag === 24) settings.maxDeliveries = r.uint();
    else if (tag === 42) settings.retryDelayMs = r.message(readDuration);
    else if (tag === 48) settings.maxPendingChannels = r.uint();
    else if (tag === 56) settings.paused = r.bool();
    else return false;
    return true;
  });
  return settings;
}

function readDuration(r: ProtoReader): number {
  let ms = 0;
  each(r, (tag) => {
    if (tag === 8) ms += r.uint() * 1_000;
    else if (tag === 16) ms += r.uint() / 1e6;
    else return false;
    return true;
  });
  return ms;
}

function emptyProgress(): Writable<SubscriptionProgress> {
  return {
    idle: 'delivering',
    pendingChannels: 0,
    pendingEvents: 0,
    leasedChannels: 0,
    deadLetters: 0,
    caughtUp: false,
    oldestPendingMs: 0,
    lastProgressTimeUs: 0,
    consumers: 0,
    delivered: 0,
    redelivered: 0,
    acknowledged: 0,
    deadLettered: 0,
    positions: new Map(),
  };
}

export function readProgress(r: ProtoReader): SubscriptionProgress {
  const progress = emptyProgress();
  const positions = new Map<number, number>();
  progress.positions = positions;
  each(r, (tag) => {
    if (tag === 8) progress.idle = idles[r.uint()] ?? 'delivering';
    else if (tag === 16) progress.pendingChannels = r.uint();
    else if (tag === 24) progress.pendingEvents = r.uint();
    else if (tag === 32) progress.leasedChannels = r.uint();
    else if (tag === 40) progress.deadLetters = r.uint();
    else if (tag === 48) progress.caughtUp = r.bool();
    else if (tag === 58) progress.oldestPendingMs = r.message(readDuration);
    else if (tag === 66) progress.lastProgressTimeUs = r.message(readTimestamp);
    else if (tag === 72) progress.consumers = r.uint();
    else if (tag === 80) progress.delivered = r.uint();
    else if (tag === 88) progress.redelivered = r.uint();
    else if (tag === 96) progress.acknowledged = r.uint();
    else if (tag === 104) progress.deadLettered = r.uint();
    else if (tag === 114) positions.set(...r.message(readPosition));
    else return false;
    return true;
  });
  return progress;
}

function readPosition(r: ProtoReader): [number, number] {
  const entry: [number, number] = [0, 0];
  each(r, (tag) => {
    if (tag === 8) entry[0] = r.uint();
    else if (tag === 16) entry[1] = r.uint();
    else return false;
    return true;
  });
  return entry;
}

export function readPendingPage(bytes: Uint8Array): { items: PendingChannel[]; nextPageToken: string } {
  return readItems(bytes, (r) => {
    const replayedSeqs: number[] = [];
    const pending: Writable<PendingChannel> = {
      channel: '',
      acknowledgedSeq: 0,
      takenSeq: 0,
      deliveries: 0,
      consumerId: '',
      deliveredSeq: 0,
      deadlineUs: 0,
      retryTimeUs: 0,
      error: '',
      replayedSeqs,
      sinceUs: 0,
    };
    each(r, (tag) => {
      if (tag === 10) pending.channel = r.string();
      else if (tag === 16) pending.acknowledgedSeq = r.uint();
      else if (tag === 24) pending.takenSeq = r.uint();
      else if (tag === 32) pending.deliveries = r.uint();
      else if (tag === 42) pending.consumerId = r.string();
      else if (tag === 48) pending.deliveredSeq = r.uint();
      else if (tag === 58) pending.deadlineUs = r.message(readTimestamp);
      else if (tag === 66) pending.retryTimeUs = r.message(readTimestamp);
      else if (tag === 74) pending.error = r.string();
      else if (tag === 80) replayedSeqs.push(r.uint());
      else if (tag === 90) pending.sinceUs = r.message(readTimestamp);
      else return false;
      return true;
    });
    return pending;
  });
}

export function readDeadLetterPage(bytes: Uint8Array): { items: DeadLetter[]; nextPageToken: string } {
  return readItems(bytes, (r) => {
    const letter: Writable<DeadLetter> = { channel: '', seq: 0, deliveries: 0, timeUs: 0, error: '' };
    each(r, (tag) => {
      if (tag === 10) letter.channel = r.string();
      else if (tag === 16) letter.seq = r.uint();
      else if (tag === 24) letter.deliveries = r.uint();
      else if (tag === 34) letter.timeUs = r.message(readTimestamp);
      else if (tag === 42) letter.error = r.string();
      else return false;
      return true;
    });
    return letter;
  });
}

function readItems<T>(bytes: Uint8Array, read: (r: ProtoReader) => T): { items: T[]; nextPageToken: string } {
  const r = ProtoReader.ofCopy(bytes);
  const page = { items: [] as T[], nextPageToken: '' };
  each(r, (tag) => {
    if (tag === 10) page.items.push(r.message(read));
    else if (tag === 18) page.nextPageToken = r.string();
    else return false;
    return true;
  });
  return page;
}

export function readCount(bytes: Uint8Array): number {
  const r = ProtoReader.ofCopy(bytes);
  let count = 0;
  each(r, (tag) => {
    if (tag !== 8) return false;
    count = r.uint();
    return true;
  });
  return count;
}

export function readLost(bytes: Uint8Array): number[] {
  return readLeases(ProtoReader.ofCopy(bytes));
}

export function readLeases(r: ProtoReader): number[] {
  const leases: number[] = [];
  each(r, (tag) => {
    if (tag !== 8) return false;
    leases.push(r.uint());
    return true;
  });
  return leases;
}
