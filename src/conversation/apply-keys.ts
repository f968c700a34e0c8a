/** Keys chosen by the application, by which a repeated message is recognised. */
import type { ChannelId, Seq, TimeUs } from '../common/ids.js';
import { type AppendedRecord, keyDigestBytes } from './append-command.js';
import { refuse } from './refuse.js';
import type { Appended, ApplyState, ChannelState, KeyRecord, Refused } from './types.js';

/**
 * Which events of a batch repeat, by their key, an event of the channel or an
 * earlier one of the batch. `seqOf` is 0 for a new event, its seq for a repeat,
 * and -(place + 1) for the repeat of an event of the same batch.
 */
export class Repeats {
  readonly refusal: Refused | undefined;
  count = 0;
  readonly #seqOf: Seq[];
  #commitTimeUs: TimeUs = 0;

  constructor(
    state: ApplyState,
    channel: ChannelState | undefined,
    bytes: Buffer,
    records: readonly AppendedRecord[],
  ) {
    const seqOf: Seq[] = [];
    this.#seqOf = seqOf;
    const placeOf = records.length > 1 ? new Map<string, number>() : undefined;
    for (let i = 0; i < records.length; i++) {
      const { key, keyDigestOffset } = records[i] as AppendedRecord;
      seqOf.push(0);
      if (key === undefined) continue;
      const known = channel === undefined ? undefined : liveKey(state, channel.id, key);
      const place = known === undefined ? placeOf?.get(key) : undefined;
      if (known === undefined && place === undefined) {
        placeOf?.set(key, i);
        continue;
      }
      const digest = known?.contentDigest ?? digestAt(bytes, records[place as number] as AppendedRecord);
      if (!equalAt(bytes, keyDigestOffset, digest)) {
        this.refusal = refuse('DUPLICATE_KEY_DIFFERENT_CONTENT', 'the key was used with other content', {
          key,
          position: i,
          ...(known === undefined ? {} : { seq: known.seq }),
        });
        return;
      }
      this.count++;
      seqOf[i] = known?.seq ?? -((place as number) + 1);
      if (known !== undefined) this.#commitTimeUs = Math.max(this.#commitTimeUs, known.commitTimeUs);
    }
  }

  isRepeat(place: number): boolean {
    return this.#seqOf[place] !== 0;
  }

  /** The event at `place` was given its seq. */
  stored(place: number, seq: Seq): void {
    this.#seqOf[place] = seq;
  }

  /**
   * The answer to a batch with repeats. `commitTimeUs`: of the events that are new;
   * without, the whole batch was there already.
   */
  answer(channel: ChannelState, commitTimeUs?: TimeUs): Appended {
    const seqs = this.#seqOf.map((seq) => (seq < 0 ? (this.#seqOf[-seq - 1] as Seq) : seq));
    const dense = isDense(seqs);
    return {
      kind: 'appended',
      firstSeq: dense ? (seqs[0] as Seq) : 0,
      count: seqs.length,
      commitTimeUs: commitTimeUs ?? this.#commitTimeUs,
      seqs: dense ? undefined : seqs,
      duplicate: commitTimeUs === undefined,
      channelUid: channel.uid,
    };
  }
}

/**
 * The record of a key that still counts. The horizon is replicated and only
 * rises, so that a longer retention never brings back keys that some replicas
 * have dropped and others not yet.
 */
export function liveKey(state: ApplyState, channelId: ChannelId, key: string): KeyRecord | undefined {
  const record = state.key(channelId, key);
  return record === undefined || record.commitTimeUs < state.meta.keyHorizonUs ? undefined : record;
}

/** Not shared with the entry, which may be large and is dropped sooner. */
export function copyOfDigest(bytes: Buffer, record: AppendedRecord): Uint8Array {
  return new Uint8Array(digestAt(bytes, record));
}

function digestAt(bytes: Buffer, record: AppendedRecord): Uint8Array {
  return bytes.subarray(record.keyDigestOffset, record.keyDigestOffset + keyDigestBytes);
}

function equalAt(bytes: Buffer, offset: number, digest: Uint8Array): boolean {
  if (digest.length !== keyDigestBytes) return false;
  for (let i = 0; i < keyDigestBytes; i++) if (bytes[offset + i] !== digest[i]) return false;
  return true;
}

function isDense(seqs: readonly Seq[]): boolean {
  for (let i = 1; i < seqs.length; i++) if (seqs[i] !== (seqs[0] as Seq) + i) return false;
  return true;
}
