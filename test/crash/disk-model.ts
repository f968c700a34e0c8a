/**
 * A folder as a disk may hold it. Every change that a recorded process made is
 * kept with the moments at which it began, ended and became durable; from that
 * follow all the folders that may be found after the power is lost at a moment:
 *
 * - Bytes are durable once an fsync or fdatasync of their file, begun after they
 *   were written, has succeeded. Until then any of their sectors may be there or
 *   not, and the file's length may be any that it went through.
 * - Bytes that a failed sync was for are never made durable by a later one: the
 *   kernel has marked their pages clean. They stay visible to reads until then.
 * - Names are durable once their folder was synced. Until then `unordered` keeps any
 *   subset of their changes, and `journal` a prefix of all of them, in which a sync of a
 *   file counts for its own names too (as with ext4, XFS and Btrfs); a rename is one change.
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { SimRandom } from '../sim/sim-clock.js';

/** A folder's files by path below its root; 'directory' for folders. */
export type Tree = Map<string, Buffer | 'directory'>;
export type NameOrder = 'journal' | 'unordered';

export function writeTree(dir: string, tree: Tree): void {
  mkdirSync(dir, { recursive: true });
  for (const [path, content] of tree) {
    if (content === 'directory') mkdirSync(join(dir, path), { recursive: true });
    else writeFileSync(join(dir, path), content);
  }
}

/** What a disk writes whole or not at all. */
const sectorBytes = 512;
/** The step in which a growing file's length is seen. */
const pageBytes = 4096;

interface Change {
  readonly began: number;
  readonly ended: number;
  durableAt: number;
}
export interface ByteChange extends Change {
  /** Undefined: the length alone is set, to `offset`. */
  readonly bytes: Buffer | undefined;
  readonly offset: number;
}
export interface NameChange extends Change {
  /** Gone from here … */
  readonly from: string | undefined;
  /** … and here now. */
  readonly to: string | undefined;
  readonly file: File;
  readonly folders: readonly File[];
  /** Where a journal holds all names, a sync of the file itself brings its names along. */
  journalAt: number;
}

export class File {
  /** As it was before the recording. */
  readonly base: Buffer;
  readonly changes: ByteChange[] = [];
  /** `name`: the path by which it was known then. */
  readonly syncs: { began: number; ended: number; ok: boolean; name: string }[] = [];
  /** What was durable before `changes[folded]`, at the moment asked for last. */
  image: Buffer;
  folded = 0;
  /** As reads see it. */
  visibleBytes: number;
  /** Of a folder: names in it that changed since it was synced. */
  newNames = 0;

  constructor(
    readonly isDirectory: boolean,
    image: Buffer = Buffer.alloc(0),
  ) {
    this.base = image;
    this.image = image;
    this.visibleBytes = image.length;
  }
}

export class DiskModel {
  /** As the running process sees it. */
  readonly names = new Map<string, File>();
  readonly #base: ReadonlyMap<string, File>;
  readonly #nameChanges: NameChange[] = [];
  readonly #files: File[] = [];
  readonly root = new File(true);
  #isSealed = false;

  /** `base`: what was there before, all of it durable. */
  constructor(base: Tree = new Map()) {
    for (const [path, content] of base) {
      const file = new File(content === 'directory', content === 'directory' ? undefined : content);
      this.names.set(path, file);
      this.#files.push(file);
    }
    this.#base = new Map(this.names);
  }

  /** The folder that holds `path`. */
  folderOf(path: string): File {
    const at = path.lastIndexOf('/');
    if (at < 0) return this.root;
    const folder = this.names.get(path.slice(0, at));
    if (folder === undefined) throw new Error(`${path} lies in no folder that is known`);
    return folder;
  }

  addFile(path: string, isDirectory: boolean, moment: { began: number; ended: number }): File {
    const file = new File(isDirectory);
    this.#files.push(file);
    this.changeName(undefined, path, file, moment);
    return file;
  }

  changeName(
    from: string | undefined,
    to: string | undefined,
    file: File,
    { began, ended }: { began: number; ended: number },
  ): void {
    if (file.isDirectory && from !== undefined && to !== undefined)
      throw new Error('a folder is renamed: not built');
    const folders = [from, to].filter((path) => path !== undefined).map((path) => this.folderOf(path));
    const never = { durableAt: Number.POSITIVE_INFINITY, journalAt: Number.POSITIVE_INFINITY };
    this.#nameChanges.push({ began, ended, ...never, from, to, file, folders });
    for (const folder of folders) folder.newNames++;
    if (from !== undefined) this.names.delete(from);
    if (to !== undefined) this.names.set(to, file);
  }

  changeBytes(
    file: File,
    offset: number,
    bytes: Buffer | undefined,
    moment: { began: number; ended: number },
  ): void {
    file.changes.push({ ...moment, durableAt: Number.POSITIVE_INFINITY, bytes, offset });
    file.visibleBytes = bytes === undefined ? offset : Math.max(file.visibleBytes, offset + bytes.length);
  }

  /**
   * All is recorded: works out when each change became durable. `believes`: false for a
   * sync that is to count for nothing, to see that it would be missed. May be called again.
   */
  seal(believes: (name: string) => boolean = () => true): void {
    this.#isSealed = true;
    for (const file of this.#files) {
      file.image = file.base;
      file.folded = 0;
      for (const change of file.changes) change.durableAt = settledAt(change, [file], believes);
    }
    for (const change of this.#nameChanges) {
      const byFile = settledAt(change, [change.file], believes);
      change.durableAt = settledAt(change, change.folders, believes);
      change.journalAt = change.to === undefined ? change.durableAt : Math.min(change.durableAt, byFile);
    }
  }

  /** As a process sees it, with all that was done. */
  visible(): Tree {
    const tree: Tree = new Map();
    for (const [path, file] of this.names) {
      tree.set(path, file.isDirectory ? 'directory' : contentOf(file, Number.POSITIVE_INFINITY, () => true));
    }
    return tree;
  }

  /** What may be found when the power is lost at `moment`. `moment` must not go back from call to call. */
  stateAt(moment: number, order: NameOrder, random: SimRandom): Tree {
    if (!this.#isSealed) throw new Error('seal() comes first');
    const found = new Map(this.#base);
    for (const change of this.#chosenNames(moment, order, random)) {
      if (change.from !== undefined && found.get(change.from) === change.file) found.delete(change.from);
      if (change.to !== undefined) found.set(change.to, change.file);
    }
    const tree: Tree = new Map();
    const paths = [...found.keys()].sort();
    for (const path of paths) {
      const parent = path.lastIndexOf('/') < 0 ? 'directory' : tree.get(path.slice(0, path.lastIndexOf('/')));
      // Below a folder whose own name did not make it nothing can be reached.
      if (parent !== 'directory') continue;
      const file = found.get(path) as File;
      tree.set(path, file.isDirectory ? 'directory' : tornContent(file, moment, random));
    }
    return tree;
  }

  #chosenNames(moment: number, order: NameOrder, random: SimRandom): NameChange[] {
    const possible = this.#nameChanges.filter(({ began }) => began <= moment);
    const share = shareOf(random);
    if (order === 'unordered')
      return possible.filter(({ durableAt }) => durableAt <= moment || random.chance(share));
    let least = 0;
    for (const [i, { journalAt }] of possible.entries()) if (journalAt <= moment) least = i + 1;
    return possible.slice(0, least + Math.round((possible.length - least) * share));
  }
}

/** How much of what may be missing is there: nothing, all, half, or anything between. */
function shareOf(random: SimRandom): number {
  const kind = random.below(4);
  return kind === 0 ? 0 : kind === 1 ? 1 : kind === 2 ? 0.5 : random.fraction();
}

/** When syncs of all of `files` have made the change durable. */
function settledAt(change: Change, files: readonly File[], believes: (name: string) => boolean): number {
  let all = 0;
  for (const { syncs } of files) {
    // The first sync decides: a failed one leaves the pages clean, and no later one writes them.
    const first = syncs.find(({ began, name }) => began > change.ended && believes(name));
    if (first === undefined || !first.ok) return Number.POSITIVE_INFINITY;
    all = Math.max(all, first.ended);
  }
  return all;
}

function contentOf(file: File, moment: number, has: (change: ByteChange) => boolean): Buffer {
  let bytes: Buffer = file.image;
  let isOwn = false;
  for (let i = file.folded; i < file.changes.length; i++) {
    const change = file.changes[i] as ByteChange;
    if (change.began > moment) break;
    if (!has(change)) continue;
    const end = change.offset + (change.bytes?.length ?? 0);
    if (change.bytes === undefined || end > bytes.length || !isOwn) {
      const next = Buffer.alloc(change.bytes === undefined ? end : Math.max(end, bytes.length));
      bytes.copy(next);
      bytes = next;
      isOwn = true;
    }
    change.bytes?.copy(bytes, change.offset);
  }
  return bytes;
}

/** The file as it may be found: what is durable, and any sectors of the rest. */
function tornContent(file: File, moment: number, random: SimRandom): Buffer {
  fold(file, moment);
  const changes = file.changes.slice(file.folded).filter(({ began }) => began <= moment);
  if (changes.length === 0) return file.image;
  const share = shareOf(random);
  const isTorn = random.chance(0.5);
  let bytes: Buffer = Buffer.from(file.image);
  /** Lengths that the file may have been left with. */
  let lengths = [bytes.length];
  for (const change of changes) {
    const isDurable = change.durableAt <= moment;
    if (change.bytes === undefined) {
      if (!isDurable && !random.chance(share)) continue;
      bytes = resized(bytes, change.offset);
      lengths = isDurable ? [change.offset] : [...lengths, change.offset];
      continue;
    }
    const end = change.offset + change.bytes.length;
    const before = bytes.length;
    if (end > before) bytes = resized(bytes, end);
    if (isDurable) {
      change.bytes.copy(bytes, change.offset);
      lengths = [Math.max(end, ...lengths)];
      continue;
    }
    for (let length = before; length < end; length += pageBytes) lengths.push(length);
    lengths.push(Math.max(before, end));
    if (!isTorn) {
      if (random.chance(share)) change.bytes.copy(bytes, change.offset);
    } else copySectors(change.bytes, bytes, change.offset, share, random);
  }
  // The longest by chance as often as all others: else nothing long is ever whole.
  const length = random.chance(share)
    ? Math.max(...lengths)
    : (lengths[random.below(lengths.length)] as number);
  return resized(bytes, length);
}

function copySectors(from: Buffer, to: Buffer, offset: number, share: number, random: SimRandom): void {
  for (let at = 0; at < from.length; ) {
    const next = Math.min(from.length, at + sectorBytes - ((offset + at) % sectorBytes));
    if (random.chance(share)) from.copy(to, offset + at, at, next);
    at = next;
  }
}

function resized(bytes: Buffer, length: number): Buffer {
  if (length <= bytes.length) return bytes.subarray(0, length);
  const grown = Buffer.alloc(length);
  bytes.copy(grown);
  return grown;
}

/** What is durable already need not be gone through again. */
function fold(file: File, moment: number): void {
  const { changes, folded } = file;
  let next = folded;
  while (next < changes.length && (changes[next] as ByteChange).durableAt <= moment) next++;
  if (next === folded) return;
  const known = new Set(changes.slice(folded, next));
  file.image = contentOf(file, (changes[next - 1] as ByteChange).began, (change) => known.has(change));
  file.folded = next;
}
