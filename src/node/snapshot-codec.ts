/**
 * What a receiver of a snapshot asks for when it dials, and the frames that it
 * is sent (docs/format.md, "Snapshots"). A stream carries one part: the receiver
 * dials again for the next, so that it takes in as fast as it can write, and
 * resuming is the usual way.
 */
import { ByteReader, ByteWriter, MalformedError } from '../common/bytes.js';
import type { Index, PartitionId } from '../common/ids.js';

const requestKind = 1;
const version = 1;

export interface SnapshotRequest {
  readonly partition: PartitionId;
  /** The snapshot must stand at or above it. */
  readonly minIndex: Index;
  /** Of the snapshot that is to go on at `offset`; 0: a new one. */
  readonly snapshotId: number;
  readonly offset: number;
}

export function encodeSnapshotRequest(request: SnapshotRequest): Buffer {
  const writer = new ByteWriter(32).u8(requestKind).u8(version).u16(request.partition);
  return writer.u64(request.minIndex).u64(request.snapshotId).u64(request.offset).finish();
}

/** Throws MalformedError. */
export function decodeSnapshotRequest(bytes: Uint8Array): SnapshotRequest {
  const reader = new ByteReader(bytes);
  const kind = reader.u8();
  const got = reader.u8();
  if (kind !== requestKind || got !== version)
    throw new MalformedError(`a request ${kind} of version ${got}`);
  const request = {
    partition: reader.u16(),
    minIndex: reader.u64(),
    snapshotId: reader.u64(),
    offset: reader.u64(),
  };
  reader.end();
  return request;
}

const FrameKind = { begin: 1, chunk: 2, partEnd: 3 } as const;

export type SnapshotFrame =
  /** First on every stream. Another id than the one asked for: it begins anew. */
  | { readonly kind: 'begin'; readonly snapshotId: number; readonly manifest: Uint8Array }
  | { readonly kind: 'chunk'; readonly chunk: Uint8Array }
  /** There is more, on the next stream. */
  | { readonly kind: 'partEnd' };

/** What stands before a chunk in its frame: the chunk itself is half a MiB, and not copied for it. */
export const chunkFrameHeader: Uint8Array = Buffer.of(FrameKind.chunk);

export function encodeSnapshotFrame(frame: Exclude<SnapshotFrame, { kind: 'chunk' }>): Buffer {
  switch (frame.kind) {
    case 'begin': {
      const writer = new ByteWriter(frame.manifest.length + 16).u8(FrameKind.begin).u64(frame.snapshotId);
      return writer.bytes(frame.manifest).finish();
    }
    case 'partEnd':
      return Buffer.of(FrameKind.partEnd);
  }
}

/** Views into the frame. Throws MalformedError. */
export function decodeSnapshotFrame(bytes: Uint8Array): SnapshotFrame {
  const reader = new ByteReader(bytes);
  const kind = reader.u8();
  switch (kind) {
    case FrameKind.begin: {
      const snapshotId = reader.u64();
      return { kind: 'begin', snapshotId, manifest: reader.bytes(reader.remaining) };
    }
    case FrameKind.chunk:
      return { kind: 'chunk', chunk: reader.bytes(reader.remaining) };
    case FrameKind.partEnd:
      reader.end();
      return { kind: 'partEnd' };
    default:
      throw new MalformedError(`a snapshot's frame of kind ${kind}`);
  }
}
