/** What a look into a file finds, one after the other. */
import type { Plain } from '../store/describe-row.js';

export type { Plain } from '../store/describe-row.js';

export interface Item {
  /** `header`, `batch`, `entry`, `row`, `damage`, … */
  readonly what: string;
  /** Where it begins in the file; absent: it has no place of its own. */
  readonly offset?: number;
  /** The byte behind it. */
  readonly end?: number;
  readonly fields: Readonly<Record<string, Plain>>;
  /** What is wrong with it. Every item of `what` damage has one. */
  readonly problem?: string;
}

export interface InspectOptions {
  /** Entries of batches, events of blocks, one by one. */
  readonly full: boolean;
  /** Which rows of the database; all where it is absent. Damage is always told. */
  readonly wanted?: ((key: Buffer) => boolean) | undefined;
}

export function damage(offset: number, end: number, problem: string): Item {
  return { what: 'damage', offset, end, fields: { bytes: end - offset }, problem };
}
