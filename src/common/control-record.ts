/**
 * Control records: small facts that parts of the cluster tell each other now and
 * then, as fixed tuples in MessagePack. Nothing of the hot path, and nothing that
 * is checked by comparing bytes.
 */
import { Packr } from 'msgpackr';
import { MalformedError } from './bytes.js';

/** Plain arrays only: msgpackr's own record structures can't be read by a cold reader. */
const packr = new Packr({ useRecords: false, int64AsType: 'number' });

export type ControlValue = number | boolean | string | readonly ControlValue[];

/** Bytes of their own, shared with nobody. */
export function packControl(tuple: readonly ControlValue[]): Uint8Array {
  return Uint8Array.from(packr.pack(tuple));
}

/** Throws MalformedError on anything but one tuple. What is in it is the caller's to check. */
export function unpackControl(bytes: Uint8Array): readonly unknown[] {
  let value: unknown;
  try {
    value = packr.unpack(bytes);
  } catch (error) {
    throw new MalformedError(`control record: ${error instanceof Error ? error.message : String(error)}`);
  }
  if (!Array.isArray(value)) throw new MalformedError('a control record that is no tuple');
  return value;
}

/** A non-negative safe integer of a tuple. */
export function controlNumber(value: unknown): number {
  if (typeof value === 'number' && Number.isSafeInteger(value) && value >= 0) return value;
  throw new MalformedError('a control record whose number is none');
}
