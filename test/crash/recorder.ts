/** Turns the calls of traced processes into the changes of one folder, and finds the marks among them. */
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { join, relative } from 'node:path';
import { DiskModel, type File, type Tree } from './disk-model.js';
import { type Call, readTrace, stringsOf } from './strace.js';

/** What the process had promised, and when it said so. */
export interface Mark {
  readonly at: number;
  readonly text: string;
}

interface OpenFile {
  readonly file: File;
  readonly name: string;
  /** Where the next `write` goes. */
  at: number;
  readonly appends: boolean;
}

/** Calls that change nothing of a file's bytes or name, on whatever descriptor. */
const harmless = new Set(['splice', 'sendfile']);

export class Recorder {
  readonly model: DiskModel;
  readonly marks: Mark[] = [];
  /** Ends of lives; the power may be lost at any moment up to the last. */
  readonly lifeEnds: number[] = [];
  /** Moments at which something of the folder changed or was synced: where it pays to look. */
  readonly moments: number[] = [];
  readonly nameMoments: number[] = [];
  /** Before syncs of folders, where most of what names were changed may still be lost. */
  readonly folderMoments: number[] = [];
  /** At which the database's CURRENT had been replaced. */
  readonly currentMoments: number[] = [];
  readonly tally = new Map<string, number>();
  /** Every path that was ever given to a file. */
  readonly names: string[] = [];
  failedSyncs = 0;
  #count = 0;

  constructor(
    readonly root: string,
    /** Marks are lines written to this file. */
    readonly markFile: string,
    base?: Tree,
  ) {
    this.model = new DiskModel(base);
  }

  /** One process, from its start to its end. The folder must be as that left it. */
  life(trace: string): void {
    const calls = readTrace(trace, this.#count);
    const events: { at: number; call: Call; ends: boolean }[] = [];
    let last = this.#count;
    for (const call of calls) {
      events.push({ at: call.began, call, ends: false });
      last = Math.max(last, call.began, Number.isFinite(call.ended) ? call.ended : 0);
    }
    const unfinished: Call[] = [];
    for (const call of calls) {
      if (Number.isFinite(call.ended)) events.push({ at: call.ended, call, ends: true });
      else unfinished.push(call);
    }
    events.sort((a, b) => a.at - b.at);
    const life = new Life(this);
    for (const { call, ends } of events) life.take(call, ends);
    this.#count = last + 1;
    this.#settleUnfinished(life, unfinished);
    this.lifeEnds.push(this.#count++);
  }

  /** A call that the process was killed in took place or not: the folder itself tells. */
  #settleUnfinished(life: Life, unfinished: readonly Call[]): void {
    const real = readTree(this.root);
    if (differs(this.model.visible(), real) === undefined) return;
    for (const call of unfinished) {
      if (/sync/.test(call.name)) continue;
      call.ended = this.#count++;
      call.result = /write/.test(call.name) ? stringsOf(call.args).reduce((sum, b) => sum + b.length, 0) : 0;
      life.take(call, true, true);
      if (differs(this.model.visible(), real) === undefined) return;
    }
    throw new Error(`the recording is not what happened: ${differs(this.model.visible(), real)}`);
  }

  note(call: Call): void {
    this.tally.set(call.name, (this.tally.get(call.name) ?? 0) + 1);
    const moments = /sync|write|trunc/.test(call.name) ? this.moments : this.nameMoments;
    moments.push(call.began);
    if (Number.isFinite(call.ended)) moments.push(call.ended);
  }

  /** How often each kind of promise was made. */
  get kindsOfMarks(): Map<string, number> {
    const kinds = new Map<string, number>();
    for (const { text } of this.marks) {
      const kind = text.split(' ', 1)[0] as string;
      kinds.set(kind, (kinds.get(kind) ?? 0) + 1);
    }
    return kinds;
  }

  get end(): number {
    return this.#count;
  }
}

/** One process' descriptors. */
class Life {
  readonly #open = new Map<number, OpenFile>();
  readonly #marks = new Set<number>();
  readonly #positions = new Map<Call, number>();

  constructor(readonly recorder: Recorder) {}

  /** Called at a call's begin and at its end. `late`: it is not known to have ended by itself. */
  take(call: Call, ends: boolean, late = false): void {
    switch (call.name) {
      case 'open':
      case 'openat':
      case 'creat':
        if (ends) this.#opened(call);
        return;
      case 'close':
        // At its begin: from there on another thread may get the same number.
        if (!ends) this.#close(call);
        return;
      case 'write':
      case 'pwrite64':
      case 'writev':
      case 'pwritev':
        // Which file and where is known when it begins, how much when it ends.
        if (!ends) this.#writeBegins(call);
        else this.#writeEnds(call, late);
        return;
      case 'ftruncate':
        if (ends) this.#truncated(call);
        return;
      case 'fsync':
      case 'fdatasync':
        if (ends) this.#synced(call);
        return;
      case 'rename':
      case 'renameat':
      case 'renameat2':
      case 'unlink':
      case 'unlinkat':
      case 'mkdir':
      case 'mkdirat':
      case 'rmdir':
        if (ends && call.result === 0) this.#named(call);
        return;
      case 'lseek': {
        const at = this.#open.get(descriptor(call));
        if (ends && at !== undefined && (call.result ?? -1) >= 0) at.at = call.result as number;
        return;
      }
      default:
        if (!ends && !harmless.has(call.name)) this.#refuse(call);
    }
  }

  /** Anything else on a file of the folder would change it behind our back. */
  #refuse(call: Call): void {
    const { name, args } = call;
    if (name === 'mmap' && !(args.includes('MAP_SHARED') && args.includes('PROT_WRITE'))) return;
    const fds = name === 'mmap' ? [Number(args.split(',')[4])] : args.split(',').map(Number);
    const isOurs =
      fds.some((fd) => this.#open.has(fd)) || this.#pathsOf(call).some((path) => path !== undefined);
    if (isOurs || name === 'io_uring_setup') throw new Error(`${name}(${args.slice(0, 80)}) is not built`);
  }

  #opened(call: Call): void {
    const fd = call.result ?? -1;
    if (fd < 0) return;
    this.#open.delete(fd);
    this.#marks.delete(fd);
    const [bytes] = stringsOf(call.args);
    if (bytes?.toString() === this.recorder.markFile) this.#marks.add(fd);
    const [path] = this.#pathsOf(call);
    if (path === undefined) return;
    const { model } = this.recorder;
    const flags = call.name === 'creat' ? 'O_CREAT|O_TRUNC' : call.args;
    let file = path === '' ? model.root : model.names.get(path);
    if (file === undefined) {
      if (!flags.includes('O_CREAT')) throw new Error(`${path} is opened, and nobody made it`);
      file = model.addFile(path, false, call);
      this.recorder.names.push(path);
      this.recorder.note(call);
    } else if (flags.includes('O_TRUNC') && file.visibleBytes > 0) {
      model.changeBytes(file, 0, undefined, call);
      this.recorder.note(call);
    }
    this.#open.set(fd, { file, name: path, at: 0, appends: flags.includes('O_APPEND') });
  }

  #close(call: Call): void {
    this.#open.delete(descriptor(call));
    this.#marks.delete(descriptor(call));
  }

  #writeBegins(call: Call): void {
    const fd = descriptor(call);
    if (this.#marks.has(fd)) {
      for (const text of Buffer.concat(stringsOf(call.args)).toString().split('\n')) {
        if (text !== '') this.recorder.marks.push({ at: call.began, text });
      }
      return;
    }
    const open = this.#open.get(fd);
    if (open === undefined) return;
    if (/^pwrite/.test(call.name)) this.#positions.set(call, Number(/, (\d+)$/.exec(call.args.trim())?.[1]));
    else this.#positions.set(call, open.appends ? open.file.visibleBytes : open.at);
    this.recorder.note(call);
    if (call.result === undefined) return;
    this.#write(call, open);
  }

  /** The change is there from its begin on: it may reach the disk before the call returns. */
  #write(call: Call, open: OpenFile): void {
    const offset = this.#positions.get(call);
    if (offset === undefined || Number.isNaN(offset))
      throw new Error(`where does it write? ${call.args.slice(-60)}`);
    const written = call.result as number;
    if (written <= 0) return;
    const bytes = Buffer.concat(stringsOf(call.args)).subarray(0, written);
    if (bytes.length !== written) throw new Error(`${written} bytes were written, ${bytes.length} are known`);
    this.recorder.model.changeBytes(open.file, offset, bytes, call);
    if (!/^pwrite/.test(call.name)) open.at = offset + written;
  }

  #writeEnds(call: Call, late: boolean): void {
    const open = this.#open.get(descriptor(call));
    if (late && open !== undefined && this.#positions.has(call)) this.#write(call, open);
  }

  #truncated(call: Call): void {
    const open = this.#open.get(descriptor(call));
    if (open === undefined || call.result !== 0) return;
    this.recorder.model.changeBytes(open.file, Number(call.args.split(',')[1]), undefined, call);
    this.recorder.note(call);
  }

  #synced(call: Call): void {
    const open = this.#open.get(descriptor(call));
    if (open === undefined) return;
    open.file.syncs.push({ began: call.began, ended: call.ended, ok: call.result === 0, name: open.name });
    if (open.file.isDirectory && open.file.newNames > 0) this.recorder.folderMoments.push(call.began);
    if (call.result === 0) open.file.newNames = 0;
    if (call.result !== 0) this.recorder.failedSyncs++;
    this.recorder.note(call);
  }

  #named(call: Call): void {
    const { model } = this.recorder;
    const [from, to] = this.#pathsOf(call);
    if (call.name.startsWith('mkdir')) {
      if (from === undefined) return;
      if (from !== '') model.addFile(from, true, call);
    } else if (call.name.startsWith('rename')) {
      if (from === undefined && to === undefined) return;
      const file = from === undefined ? undefined : model.names.get(from);
      if (file === undefined || to === undefined)
        throw new Error(`renamed across the folder's border: ${from}`);
      model.changeName(from, to, file, call);
      this.recorder.names.push(to);
      if (to === 'db/CURRENT') this.recorder.currentMoments.push(call.ended);
    } else {
      if (from === undefined) return;
      const file = model.names.get(from);
      if (file === undefined) throw new Error(`${from} is deleted, and nobody made it`);
      model.changeName(from, undefined, file, call);
    }
    this.recorder.note(call);
  }

  /** The call's paths below the folder; undefined where it lies elsewhere. */
  #pathsOf(call: Call): (string | undefined)[] {
    const { root } = this.recorder;
    return stringsOf(call.args).map((bytes) => {
      const path = bytes.toString();
      if (path === root) return '';
      return path.startsWith(`${root}/`) ? relative(root, path) : undefined;
    });
  }
}

function descriptor(call: Call): number {
  return Number.parseInt(call.args, 10);
}

export function readTree(root: string): Tree {
  const tree: Tree = new Map();
  if (!existsSync(root)) return tree;
  for (const name of readdirSync(root, { recursive: true, encoding: 'utf8' })) {
    const path = join(root, name);
    tree.set(name, statSync(path).isDirectory() ? 'directory' : readFileSync(path));
  }
  return tree;
}

/** The first difference, in words. */
export function differs(model: Tree, real: Tree): string | undefined {
  for (const name of new Set([...model.keys(), ...real.keys()])) {
    const [ours, theirs] = [model.get(name), real.get(name)];
    if (ours === undefined) return `${name} is there`;
    if (theirs === undefined) return `${name} is not there`;
    if (ours === 'directory' || theirs === 'directory') {
      if (ours !== theirs) return `${name} is of another kind`;
    } else if (!ours.equals(theirs)) {
      let at = 0;
      while (at < ours.length && ours[at] === theirs[at]) at++;
      return `${name} differs at byte ${at} (${ours.length} bytes, really ${theirs.length})`;
    }
  }
  return undefined;
}
