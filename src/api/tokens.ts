/**
 * Commit tokens and page tokens. Opaque to clients; docs/format.md, "Tokens".
 * Both end in a checksum that is seeded with the cluster's id, so that a damaged
 * or foreign one is refused and not misread.
 */
import { ByteReader, ByteWriter, MalformedError } from '../common/bytes.js';
import { HansardError } from '../common/errors.js';
import { xxh32, xxh32Seeded } from '../common/hash.js';
import { xxh32OfNotes } from '../common/hash-scratch.js';
import type { Index, PartitionId } from '../common/ids.js';
import { limits } from '../common/limits.js';
import { writeVarint } from '../common/wire.js';

const commitVersion = 1;
const pageVersion = 1;
const checksumBytes = 4;
/** Pairs in one token; merged tokens are cut to the newest index per partition, never more than partitions. */
const pairsMax = 1_024;

/** "At least this much" per partition. */
export type CommitPositions = ReadonlyMap<PartitionId, Index>;

/** A commit token in the making; its first byte stays. */
const draft = Buffer.alloc(64);
draft[0] = commitVersion;

export class Tokens {
  readonly #seed: number;
  readonly #incarnation: number;
  #lastPartition: PartitionId = -1;
  #lastIndex: Index = 0;
  #lastCommit: Buffer = draft;

  constructor(clusterId: string, incarnation: number) {
    this.#seed = xxh32(Buffer.from(clusterId, 'utf8'));
    this.#incarnation = incarnation;
  }

  /** Of one append: 12 to 30 bytes. Not to be changed: those applied together share one. */
  commit(partition: PartitionId, index: Index): Buffer {
    if (partition === this.#lastPartition && index === this.#lastIndex) return this.#lastCommit;
    let at = writeVarint(draft, 1, this.#incarnation);
    at = writeVarint(draft, at, 1);
    at = writeVarint(draft, at, partition);
    at = writeVarint(draft, at, index);
    draft.writeUInt32LE(xxh32OfNotes(draft, at, this.#seed), at);
    this.#lastPartition = partition;
    this.#lastIndex = index;
    this.#lastCommit = Buffer.from(draft.subarray(0, at + checksumBytes));
    return this.#lastCommit;
  }

  commitOf(positions: CommitPositions): Buffer {
    const writer = new ByteWriter(32, 'pooled')
      .u8(commitVersion)
      .uvarint(this.#incarnation)
      .uvarint(positions.size);
    for (const [partition, index] of [...positions].sort((a, b) => a[0] - b[0])) {
      writer.uvarint(partition).uvarint(index);
    }
    return this.#sealed(writer);
  }

  /** Highest index per partition of all tokens. Throws INVALID_TOKEN, INCARNATION_CHANGED. */
  merge(tokens: readonly Uint8Array[]): CommitPositions {
    const positions = new Map<PartitionId, Index>();
    if (tokens.length > limits.commitTokensPerRequest) {
      throw invalidToken(`more than ${limits.commitTokensPerRequest} commit tokens`);
    }
    for (const token of tokens) {
      const reader = this.#opened(token, commitVersion, 'commit token');
      try {
        const incarnation = reader.uvarint();
        if (incarnation !== this.#incarnation) throw incarnationChanged(incarnation, this.#incarnation);
        const count = reader.uvarint();
        if (count > pairsMax) throw invalidToken('commit token: too many positions');
        for (let i = 0; i < count; i++) {
          const partition = reader.uvarint();
          const index = reader.uvarint();
          if (index > (positions.get(partition) ?? 0)) positions.set(partition, index);
        }
        reader.end();
      } catch (error) {
        if (error instanceof MalformedError) throw invalidToken(`commit token: ${error.message}`);
        throw error;
      }
    }
    return positions;
  }

  /** `request`: all parameters that must stay the same from page to page. */
  page(request: string, write: (writer: ByteWriter) => void): string {
    const writer = new ByteWriter(48, 'pooled')
      .u8(pageVersion)
      .uvarint(this.#incarnation)
      .u32(digest(request));
    write(writer);
    return this.#sealed(writer).toString('base64url');
  }

  /** Calls `read` with the reader at what `page` wrote. Throws INVALID_TOKEN, INCARNATION_CHANGED. */
  openPage<T>(request: string, token: string, read: (reader: ByteReader) => T): T {
    const reader = this.#opened(Buffer.from(token, 'base64url'), pageVersion, 'page token');
    try {
      const incarnation = reader.uvarint();
      if (incarnation !== this.#incarnation) throw incarnationChanged(incarnation, this.#incarnation);
      if (reader.u32() !== digest(request)) throw invalidToken('page token: made for another request');
      const value = read(reader);
      reader.end();
      return value;
    } catch (error) {
      if (error instanceof MalformedError) throw invalidToken(`page token: ${error.message}`);
      throw error;
    }
  }

  #sealed(writer: ByteWriter): Buffer {
    return writer.u32(xxh32Seeded(writer.view(), this.#seed)).finish();
  }

  #opened(bytes: Uint8Array, version: number, what: string): ByteReader {
    const end = bytes.length - checksumBytes;
    if (end < 1) throw invalidToken(`${what}: too short`);
    const sum = new ByteReader(bytes, end).u32();
    if (xxh32Seeded(bytes.subarray(0, end), this.#seed) !== sum) {
      throw invalidToken(`${what}: damaged, or of another cluster`);
    }
    const reader = new ByteReader(bytes, 0, end);
    if (reader.u8() !== version) throw invalidToken(`${what}: of a version that this node does not know`);
    return reader;
  }
}

function digest(request: string): number {
  return xxh32(Buffer.from(request, 'utf8'));
}

function invalidToken(problem: string): HansardError {
  return new HansardError('INVALID_TOKEN', problem, { problem });
}

function incarnationChanged(token: number, cluster: number): HansardError {
  return new HansardError(
    'INCARNATION_CHANGED',
    `the token is of incarnation ${token}, the cluster's is ${cluster}`,
    { token_incarnation: token, cluster_incarnation: cluster },
  );
}
