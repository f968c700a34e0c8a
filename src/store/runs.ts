/**
 * Keys and message ids, sealed as runs: sorted entries in checksummed chunks,
 * each with a filter; first keys and filters of a run stay in memory, so a
 * lookup of something new reads nothing, one of something old one chunk.
 * Composite keys are channel id (u64 BE) and the text's bytes.
 */
import type { ByteReader } from '../common/bytes.js';
import type { Kv } from '../common/env.js';
import { type FilterHash, makeFilter, mayContain } from './filter.js';
import { asBuffer, type Place, type RunKind, RunPart, runKey } from './keys.js';
import { damaged, openRow } from './rows.js';
import { compareWithKey, keyBytes, type RunEntry, valueBytes } from './run-entry.js';
import type { SealBatch } from './seal-batch.js';
import type { RunInfo } from './state-codec.js';

const chunkBytes = 16 * 1024;
const chunksPerIndexRow = 32;

export interface Run {
  readonly info: RunInfo;
  readonly firstKeys: Uint8Array[];
  readonly filters: Uint8Array[];
}

/** Takes entries in ascending order and writes chunks and index rows. */
export class RunWriter {
  readonly #firstKeys: Uint8Array[] = [];
  readonly #filters: Uint8Array[] = [];
  #chunk: RunEntry[] = [];
  #chunkSize = 0;
  #entries = 0;
  #bytes = 0;
  #indexRows = 0;
  #minTimeUs = Number.POSITIVE_INFINITY;
  #maxTimeUs = 0;

  constructor(
    readonly kind: RunKind,
    readonly place: Place,
    readonly run: number,
    readonly out: SealBatch,
  ) {}

  add(entry: RunEntry): Promise<void> | undefined {
    const size = entry.keyEnd - entry.keyAt + (entry.valueEnd - entry.valueAt) + 16;
    let pause: Promise<void> | undefined;
    if (this.#chunkSize + size > chunkBytes && this.#chunk.length > 0) pause = this.#endChunk();
    this.#chunk.push(entry);
    this.#chunkSize += size;
    this.#entries++;
    if (entry.timeUs < this.#minTimeUs) this.#minTimeUs = entry.timeUs;
    if (entry.timeUs > this.#maxTimeUs) this.#maxTimeUs = entry.timeUs;
    return pause;
  }

  /** Undefined where nothing was added. */
  async finish(): Promise<Run | undefined> {
    if (this.#entries === 0) return undefined;
    await this.#endChunk();
    for (let from = 0; from < this.#firstKeys.length; from += chunksPerIndexRow) {
      const to = Math.min(from + chunksPerIndexRow, this.#firstKeys.length);
      const writer = this.out
        .row()
        .uvarint(from)
        .uvarint(to - from);
      for (let i = from; i < to; i++) {
        writer.sized(this.#firstKeys[i] as Uint8Array).sized(this.#filters[i] as Uint8Array);
      }
      await this.out.put(runKey(this.kind, this.place, this.run, RunPart.index, this.#indexRows++), writer);
    }
    const info: RunInfo = {
      kind: this.kind,
      run: this.run,
      entries: this.#entries,
      chunks: this.#firstKeys.length,
      indexRows: this.#indexRows,
      bytes: this.#bytes,
      minTimeUs: this.#minTimeUs,
      maxTimeUs: this.#maxTimeUs,
    };
    return { info, firstKeys: this.#firstKeys, filters: this.#filters };
  }

  #endChunk(): Promise<void> | undefined {
    const writer = this.out.row().uvarint(this.#chunk.length);
    for (const entry of this.#chunk)
      writer.uvarint(entry.timeUs).sized(keyBytes(entry)).sized(valueBytes(entry));
    const number = this.#firstKeys.length;
    this.#firstKeys.push(Uint8Array.from(keyBytes(this.#chunk[0] as RunEntry)));
    this.#filters.push(makeFilter(this.#chunk.map(keyBytes)));
    this.#bytes += writer.length;
    this.#chunk = [];
    this.#chunkSize = 0;
    return this.out.put(runKey(this.kind, this.place, this.run, RunPart.chunk, number), writer);
  }
}

/** Loads a run's first keys and filters. */
export async function loadRun(kv: Kv, place: Place, info: RunInfo): Promise<Run> {
  const what = runName(info);
  const run: Run = { info, firstKeys: [], filters: [] };
  for (let number = 0; number < info.indexRows; number++) {
    const key = runKey(info.kind, place, info.run, RunPart.index, number);
    const row = await kv.get(key);
    if (row === undefined) throw damaged(what, `index row ${number} is missing`, key);
    openRow(key, row, what, (reader) => {
      const from = reader.uvarint();
      if (from !== run.firstKeys.length) throw damaged(what, `index row ${number} is out of place`, key);
      for (let left = reader.uvarint(); left > 0; left--) {
        // Copies: these stay in memory, the row does not.
        run.firstKeys.push(Uint8Array.from(reader.sized()));
        run.filters.push(Uint8Array.from(reader.sized()));
      }
      reader.end();
    });
  }
  if (run.firstKeys.length !== info.chunks) {
    throw damaged(what, `${run.firstKeys.length} of ${info.chunks} chunks are listed`);
  }
  return run;
}

/** Which chunk of a run may hold the key; undefined: it is surely not in this run. */
export function chunkFor(run: Run, key: Uint8Array, hash: FilterHash): number | undefined {
  let low = 0;
  let high = run.firstKeys.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (Buffer.compare(run.firstKeys[middle] as Uint8Array, key) <= 0) low = middle + 1;
    else high = middle;
  }
  const chunk = low - 1;
  if (chunk < 0 || !mayContain(run.filters[chunk] as Uint8Array, hash)) return undefined;
  return chunk;
}

/** Verifies a chunk's row and gives its entries, views onto the row. */
export function readChunk(key: Uint8Array, row: Uint8Array | undefined, info: RunInfo): RunEntry[] {
  const what = runName(info);
  if (row === undefined) throw damaged(what, 'a chunk is missing', key);
  return openRow(key, row, what, (reader) => {
    const entries: RunEntry[] = [];
    const bytes = asBuffer(row);
    for (let left = reader.uvarint(); left > 0; left--) entries.push(readEntry(reader, bytes));
    reader.end();
    return entries;
  });
}

function readEntry(reader: ByteReader, bytes: Buffer): RunEntry {
  const timeUs = reader.uvarint();
  const keyLength = reader.uvarint();
  const keyAt = reader.position;
  reader.skip(keyLength);
  const valueLength = reader.uvarint();
  const valueAt = reader.position;
  reader.skip(valueLength);
  return { bytes, keyAt, keyEnd: keyAt + keyLength, valueAt, valueEnd: valueAt + valueLength, timeUs };
}

export function findEntry(entries: readonly RunEntry[], key: Buffer): RunEntry | undefined {
  let low = 0;
  let high = entries.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    const order = compareWithKey(entries[middle] as RunEntry, key);
    if (order === 0) return entries[middle];
    if (order < 0) low = middle + 1;
    else high = middle;
  }
  return undefined;
}

export function runName(info: RunInfo): string {
  return `run ${info.run} of ${info.minTimeUs === 0 ? 'message ids' : 'keys'}`;
}
