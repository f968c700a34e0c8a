/**
 * Sealing keys and message ids: the tail's become a run; runs of like size merge
 * four to one, so that their number stays bounded; a run of keys that are all
 * expired goes as a whole.
 */
import type { Kv } from '../common/env.js';
import type { ChannelId, TimeUs } from '../common/ids.js';
import { type Place, RowKind, type RunKind, RunPart, readU64BE, runKey } from './keys.js';
import { compareEntries, type RunEntry } from './run-entry.js';
import { type Run, RunWriter, readChunk } from './runs.js';
import type { SealBatch } from './seal-batch.js';
import type { RunInfo } from './state-codec.js';

/** Runs that make a merge, at least. */
const fanIn = 4;
/** Smaller runs count as this large: they are equally cheap to merge. */
const smallRunBytes = 64 * 1024;
/** Larger ones are left alone: a merge goes into one batch, and keys' runs are to expire whole. */
export const mergedBytesMax = 16 * 1024 * 1024;
/** Sorted natively at once; a pause may come between. */
const sortedAtOnce = 1024;

/** What merges leave out. */
export interface Dropped {
  /** Keys put before. */
  readonly floorUs: TimeUs;
  /** Keys and message ids of deleted channels. */
  isEnded(channelId: ChannelId): boolean;
}

export interface SealedRuns {
  /** In force after this checkpoint, oldest first. */
  readonly runs: Run[];
  /** No longer in force; their rows stay until the next checkpoint (see `retired`). */
  readonly retired: Run[];
}

/** What a checkpoint does to the runs of one kind. */
export async function sealRuns(
  kv: Kv,
  place: Place,
  out: SealBatch,
  kind: RunKind,
  before: readonly Run[],
  entries: RunEntry[],
  dropped: Dropped,
  takeNumber: () => number,
): Promise<SealedRuns> {
  const expired = before.filter((run) => kind === RowKind.keyRun && run.info.maxTimeUs < dropped.floorUs);
  const old = before.filter((run) => !expired.includes(run));
  const retired = [...expired];
  // Merges first, of what is in the database: what is written in this batch can't be read back yet.
  let runs = old;
  const sources = mergeable(old);
  if (sources !== undefined) {
    const writer = new RunWriter(kind, place, takeNumber(), out);
    await mergeInto(writer, kv, place, sources, dropped, out);
    const merged = await writer.finish();
    const at = old.indexOf(sources[0] as Run);
    runs = [
      ...old.slice(0, at),
      ...(merged === undefined ? [] : [merged]),
      ...old.slice(at + sources.length),
    ];
    retired.push(...sources);
  }
  if (entries.length > 0) {
    const writer = new RunWriter(kind, place, takeNumber(), out);
    for (const entry of await sortInSlices(entries, out)) {
      const pause = writer.add(entry);
      if (pause !== undefined) await pause;
    }
    const fresh = await writer.finish();
    if (fresh !== undefined) runs = [...runs, fresh];
  }
  return { runs, retired };
}

/**
 * Neighbours in age, `fanIn` or more, none of which is half of the whole: so an
 * entry is rewritten about log(size) times, and only few runs are left over.
 * Neighbours alone, so that "the newer run wins" stays true.
 */
function mergeable(runs: readonly Run[]): Run[] | undefined {
  for (let from = 0; from + fanIn <= runs.length; from++) {
    let bytes = 0;
    let largest = 0;
    for (let to = from; to < runs.length; to++) {
      const size = Math.max((runs[to] as Run).info.bytes, smallRunBytes);
      bytes += size;
      largest = Math.max(largest, size);
      if (bytes > mergedBytesMax) break;
      if (to - from + 1 >= fanIn && bytes >= 2 * largest) return runs.slice(from, to + 1);
    }
  }
  return undefined;
}

async function mergeInto(
  writer: RunWriter,
  kv: Kv,
  place: Place,
  sources: readonly Run[],
  dropped: Dropped,
  out: SealBatch,
): Promise<void> {
  const cursors = sources.map((run) => new RunCursor(kv, place, run));
  for (const cursor of cursors) await cursor.load();
  for (;;) {
    let least: RunEntry | undefined;
    for (const cursor of cursors) {
      const entry = cursor.entry;
      if (entry === undefined) continue;
      // On a tie the later cursor, the newer run, wins.
      if (least === undefined || compareEntries(entry, least) <= 0) least = entry;
    }
    if (least === undefined) return;
    for (const cursor of cursors) {
      if (cursor.entry !== undefined && compareEntries(cursor.entry, least) === 0) await cursor.advance();
    }
    if (writer.kind === RowKind.keyRun && least.timeUs < dropped.floorUs) continue;
    if (dropped.isEnded(readU64BE(least.bytes, least.keyAt))) continue;
    const pause = writer.add(least) ?? out.spent(64);
    if (pause !== undefined) await pause;
  }
}

/** Walks a run's entries chunk by chunk. */
class RunCursor {
  #entries: RunEntry[] = [];
  #at = 0;
  #nextChunk = 0;
  constructor(
    readonly kv: Kv,
    readonly place: Place,
    readonly run: Run,
  ) {}

  get entry(): RunEntry | undefined {
    return this.#entries[this.#at];
  }

  advance(): Promise<void> | undefined {
    this.#at++;
    return this.#at < this.#entries.length ? undefined : this.load();
  }

  async load(): Promise<void> {
    this.#entries = [];
    this.#at = 0;
    if (this.#nextChunk >= this.run.info.chunks) return;
    const key = runKey(this.run.info.kind, this.place, this.run.info.run, RunPart.chunk, this.#nextChunk++);
    this.#entries = readChunk(key, await this.kv.get(key), this.run.info);
  }
}

export function deleteRunRows(out: SealBatch, place: Place, info: RunInfo): void {
  for (let i = 0; i < info.chunks; i++) out.del(runKey(info.kind, place, info.run, RunPart.chunk, i));
  for (let i = 0; i < info.indexRows; i++) out.del(runKey(info.kind, place, info.run, RunPart.index, i));
}

/** A merge sort from natively sorted pieces, with pauses. */
async function sortInSlices(entries: RunEntry[], out: SealBatch): Promise<RunEntry[]> {
  let pieces: RunEntry[][] = [];
  for (let from = 0; from < entries.length; from += sortedAtOnce) {
    pieces.push(entries.slice(from, from + sortedAtOnce).sort(compareEntries));
    await out.spent(sortedAtOnce * 32);
  }
  while (pieces.length > 1) {
    const next: RunEntry[][] = [];
    for (let i = 0; i < pieces.length; i += 2) {
      const [a, b] = [pieces[i] as RunEntry[], pieces[i + 1]];
      next.push(b === undefined ? a : await mergeSorted(a, b, out));
    }
    pieces = next;
  }
  return pieces[0] ?? [];
}

async function mergeSorted(a: RunEntry[], b: RunEntry[], out: SealBatch): Promise<RunEntry[]> {
  const merged: RunEntry[] = [];
  let i = 0;
  let j = 0;
  while (i < a.length && j < b.length) {
    const fromA = compareEntries(a[i] as RunEntry, b[j] as RunEntry) <= 0;
    merged.push((fromA ? a[i++] : b[j++]) as RunEntry);
    if (merged.length % sortedAtOnce === 0) await out.spent(sortedAtOnce * 32);
  }
  for (; i < a.length; i++) merged.push(a[i] as RunEntry);
  for (; j < b.length; j++) merged.push(b[j] as RunEntry);
  return merged;
}
