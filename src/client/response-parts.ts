/** What responses of several kinds have in them. */
import { readTimestamp } from './content-decode.js';
import type { ServedBy } from './types.js';
import { ProtoReader } from './wire-reader.js';

export function readNodeId(r: ProtoReader): number {
  let nodeId = 0;
  for (let tag = r.next(); tag !== 0; tag = r.next()) {
    if (tag === 8) nodeId = r.uint();
    else r.skip();
  }
  return nodeId;
}

export const none: Uint8Array = new Uint8Array(0);

export const nobody: ServedBy = Object.freeze({
  nodeId: 0,
  role: 'unspecified',
  partition: 0,
  appliedIndex: 0,
  commitToken: none,
});

const servedRoles = ['unspecified', 'primary', 'secondary', 'learner'] as const;

export function readServedBy(r: ProtoReader): ServedBy {
  const served: Writable<ServedBy> = { ...nobody };
  for (let tag = r.next(); tag !== 0; tag = r.next()) {
    if (tag === 8) served.nodeId = r.uint();
    else if (tag === 16) served.role = servedRoles[r.uint()] ?? 'unspecified';
    else if (tag === 24) served.partition = r.uint();
    else if (tag === 32) served.appliedIndex = r.uint();
    // A Duration has a Timestamp's fields.
    else if (tag === 42) served.stalenessMs = r.message(readTimestamp) / 1_000;
    else if (tag === 50) served.commitToken = r.bytes();
    else r.skip();
  }
  return served;
}

export type Writable<T> = { -readonly [K in keyof T]: T[K] };

export function readMapEntry(r: ProtoReader): [string, string] {
  let key = '';
  let value = '';
  for (let tag = r.next(); tag !== 0; tag = r.next()) {
    if (tag === 10) key = r.string();
    else if (tag === 18) value = r.string();
    else r.skip();
  }
  return [key, value];
}

export function readPacked(r: ProtoReader, into: number[]): void {
  const inner = new ProtoReader(r.view());
  while (!inner.atEnd) into.push(inner.uint());
}
