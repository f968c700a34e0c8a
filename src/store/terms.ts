/**
 * The index by which channels of a label or participant are found: one row for
 * each channel and term, written when a checkpoint seals a channel whose labels or
 * participants have changed, so that an append costs nothing here. A term's bytes
 * delimit themselves; behind them comes the channel's name, so that the channels of
 * a term lie in the order of their names.
 */
import type { ChannelState } from '../conversation/types.js';
import { after, asBuffer, kindRange, nameKey, nameOfKey, type Place, RowKind } from './keys.js';
import { openChannelRow, type PartitionState } from './partition-state.js';
import type { SealBatch } from './seal-batch.js';

const TermKind = { label: 1, participant: 2 } as const;

/** What a listing asks for. */
export interface ChannelFilter {
  readonly label?: readonly [string, string] | undefined;
  readonly participant?: string | undefined;
}

export function labelTerm(name: string, value: string): Buffer {
  return termBytes(TermKind.label, name, value);
}

export function participantTerm(id: string): Buffer {
  return termBytes(TermKind.participant, id);
}

/** The term by which a filter is looked up; undefined: it lets everything through. */
export function termOf({ label, participant }: ChannelFilter): Buffer | undefined {
  if (participant !== undefined) return participantTerm(participant);
  return label === undefined ? undefined : labelTerm(label[0], label[1]);
}

export function matches(channel: ChannelState, { label, participant }: ChannelFilter): boolean {
  return (
    (label === undefined ||
      channel.labels.some(([name, value]) => name === label[0] && value === label[1])) &&
    (participant === undefined || channel.participants.some(({ id }) => id === participant))
  );
}

/** Key of a term's row for a channel. */
export function termKey(place: Place, tenant: string, term: Uint8Array, name: string): Buffer {
  return nameKey(RowKind.term, place, Buffer.concat([Buffer.from(`${tenant}\0`), term, Buffer.from(name)]));
}

/** Rows of a term whose channels' names begin with `prefix`, from the name `from` on. */
export function termRange(place: Place, tenant: string, term: Uint8Array, prefix: string, from: string) {
  const gte = termKey(place, tenant, term, from);
  return { gte, lt: after(termKey(place, tenant, term, prefix)) };
}

/** The channel's name in a row's key. */
export function nameOfTermKey(key: Uint8Array, tenant: string, term: Uint8Array): string {
  return asBuffer(nameOfKey(key)).toString('utf8', Buffer.byteLength(tenant) + 1 + term.length);
}

/** Every term of a channel, once. */
export function termsOf(channel: ChannelState): Map<string, Buffer> {
  const terms = new Map<string, Buffer>();
  const add = (term: Buffer) => terms.set(term.toString('latin1'), term);
  for (const [name, value] of channel.labels) add(labelTerm(name, value));
  for (const { id } of channel.participants) add(participantTerm(id));
  return terms;
}

/** Whether `sealTerms` has anything to do: for most channels that are sealed again it has not. */
export function termsChanged(before: ChannelState | undefined, now: ChannelState | undefined): boolean {
  return !(isBare(before) && isBare(now)) && !sameTerms(before, now);
}

/** Brings the index from what was sealed of a name to what is now; gives by how many rows it grows. */
export async function sealTerms(
  place: Place,
  before: ChannelState | undefined,
  now: ChannelState | undefined,
  out: SealBatch,
): Promise<number> {
  const channel = now ?? before;
  if (channel === undefined) return 0;
  const old = before === undefined ? new Map<string, Buffer>() : termsOf(before);
  const fresh = now === undefined ? new Map<string, Buffer>() : termsOf(now);
  let grown = 0;
  for (const [text, term] of fresh) {
    if (old.has(text)) continue;
    const key = termKey(place, channel.tenant, term, channel.name);
    const pause = out.put(key, out.row());
    if (pause !== undefined) await pause;
    grown++;
  }
  for (const [text, term] of old) {
    if (fresh.has(text)) continue;
    out.del(termKey(place, channel.tenant, term, channel.name));
    grown--;
  }
  return grown;
}

/**
 * Makes the index of a database that an earlier program sealed: once, in its next
 * checkpoint. Gives the number of rows.
 */
export async function indexAll(state: PartitionState, out: SealBatch): Promise<number> {
  const iterator = state.shared.kv.iterator(kindRange(RowKind.channel, state.place));
  let count = 0;
  try {
    for (;;) {
      const rows = await iterator.next(64);
      if (rows.length === 0) return count;
      for (const [key, row] of rows) {
        const channel = openChannelRow(key, row);
        if (!channel.deleted) count += await sealTerms(state.place, undefined, channel.state, out);
        const pause = out.spent(row.length);
        if (pause !== undefined) await pause;
      }
    }
  } finally {
    await iterator.close();
  }
}

function isBare(channel: ChannelState | undefined): boolean {
  return channel === undefined || (channel.labels.length === 0 && channel.participants.length === 0);
}

function sameTerms(a: ChannelState | undefined, b: ChannelState | undefined): boolean {
  if (a === undefined || b === undefined) return false;
  return (
    a.labels.length === b.labels.length &&
    a.participants.length === b.participants.length &&
    a.labels.every(([name, value], i) => name === b.labels[i]?.[0] && value === b.labels[i]?.[1]) &&
    a.participants.every(({ id }, i) => id === b.participants[i]?.id)
  );
}

function termBytes(kind: number, ...texts: string[]): Buffer {
  const parts: Buffer[] = [Buffer.of(kind)];
  for (const text of texts) {
    const bytes = Buffer.from(text);
    parts.push(Buffer.of(bytes.length >>> 8, bytes.length & 0xff), bytes);
  }
  return Buffer.concat(parts);
}
