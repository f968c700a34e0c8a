/**
 * A stopped node's folder, opened as a start opens it, so that what is found is what a
 * start would find. To be looked at it is opened so that nothing of it changes (but what
 * LevelDB does to its own files whenever it opens them): the log is a copy, and what the
 * store writes goes nowhere.
 */
import { cp, mkdir, mkdtemp, readdir, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Kv, KvBatch } from '../../common/env.js';
import { HansardError } from '../../common/errors.js';
import type { NodeId } from '../../common/ids.js';
import type { Logger } from '../../common/logger.js';
import { levelKvFactory } from '../../store/level-kv.js';
import type { Store } from '../../store/types.js';
import { openDiskDevice, type Wal } from '../../wal/index.js';
import { type NodeDirectory, openDirectory } from '../directory.js';
import type { FaultLedger } from '../fault-ledger.js';
import { partitionsOf } from '../open.js';
import { isReplaceable, PartsOpener } from '../open-parts.js';
import { checkOwner } from '../owner-check.js';
import { type PartsFolder, realFolder } from '../parts-folder.js';
import { resolveSettings } from '../settings.js';
import type { Settings } from '../settings-table.js';

/** The least that the setting log_segment allows. */
const segmentBytesMin = 1024 * 1024;

export interface OpenFolder {
  readonly directory: NodeDirectory;
  readonly store: Store;
  readonly wal: Wal;
  readonly ledger: FaultLedger;
  /** Rejects when a write of the log has failed: its callback never comes. */
  readonly failed: Promise<never>;
  close(): Promise<void>;
}

/** To see what is there; to trust a replica of it, whatever else is damaged; or only to give up others, as a start opens it. */
export type Mode = 'look' | 'trust' | 'give-up';

/**
 * Databases that stay open from the first look at their folders to the last change: with their locks nothing else can
 * change a folder in between, neither a node that starts nor another repair.
 */
export class HeldDatabases {
  /** By node; an error: it does not open, so nothing holds it. */
  readonly #found = new Map<NodeId, Kv | HansardError>();

  async open(node: NodeId, open: () => Promise<Kv>): Promise<Kv> {
    const found = this.#found.get(node);
    if (found !== undefined && !(found instanceof HansardError)) return wrapped(found, heldOpen);
    try {
      const kv = await open();
      this.#found.set(node, kv);
      if (found === undefined) return wrapped(kv, heldOpen);
      const what = `another process has put a database into the folder of node ${node} while that was repaired; only the incarnation was raised: stop it, and run the repair again`;
      throw new HansardError('DIRECTORY_IN_USE', what, { node });
    } catch (error) {
      if (isReplaceable(error)) this.#found.set(node, error);
      throw error;
    }
  }

  async close(): Promise<void> {
    for (const found of this.#found.values()) if (!(found instanceof HansardError)) await found.close();
    this.#found.clear();
  }
}

/** Rejects as a start does where the folder is another's, in use, or not there. */
async function openFolder(
  directory: NodeDirectory,
  mode: Mode,
  logger: Logger,
  held: HeldDatabases | undefined,
): Promise<OpenFolder> {
  await checkOwner(directory);
  const defaults = (await resolveSettings({})).settings;
  const settings = { ...defaults, logSegment: await segmentBytesIn(directory.logPath, defaults.logSegment) };
  const closing: (() => Promise<unknown>)[] = [];
  const closeAll = async (): Promise<void> => {
    for (let close = closing.pop(); close !== undefined; close = closing.pop()) await close();
  };
  try {
    const unheld = realFolder({ directory, settings, watch: new SharedArrayBuffer(8) });
    const real = held === undefined ? unheld : holding(unheld, held);
    const folder = mode === 'look' ? await untouched(directory, real, settings, closing) : real;
    let fail: (error: unknown) => void = () => {};
    const failed = new Promise<never>((_, reject) => {
      fail = reject;
    });
    failed.catch(() => undefined);
    const parts = new PartsOpener({
      folder,
      settings,
      logger,
      firstPartitions: partitionsOf(directory.identity).map(({ partition }) => partition),
      isLastResort: mode !== 'give-up',
      onFailure: (error) => fail(error),
      opened: closing,
    });
    await parts.openStore();
    const { wal, store } = await parts.openLog();
    return { directory, store, wal, ledger: parts.ledger, failed, close: closeAll };
  } catch (error) {
    await closeAll().catch(() => undefined);
    throw error;
  }
}

/** As long as those that are there: another length would be made anew for nothing. One that was cut short tells nothing. */
async function segmentBytesIn(logPath: string, fallback: number): Promise<number> {
  const names = (await readdir(logPath)).filter((name) => name.endsWith('.seg'));
  const sizes = await Promise.all(names.map(async (name) => (await stat(join(logPath, name))).size));
  const longest = Math.max(0, ...sizes);
  return longest < segmentBytesMin ? fallback : longest;
}

function holding(real: PartsFolder, held: HeldDatabases): PartsFolder {
  const open = (options: { readonly create: boolean }): Promise<Kv> => real.openDatabase(options);
  return {
    ...real,
    openDatabase: (options) =>
      options.create ? open(options) : held.open(real.identity.nodeId, () => open(options)),
  };
}

async function untouched(
  directory: NodeDirectory,
  real: PartsFolder,
  settings: Settings,
  closing: (() => Promise<unknown>)[],
): Promise<PartsFolder> {
  const scratch = await mkdtemp(join(tmpdir(), 'hansard-repair-'));
  closing.push(() => rm(scratch, { recursive: true, force: true }));
  let log = join(scratch, 'log');
  const fresh = join(scratch, 'log.new');
  await cp(directory.logPath, log, { recursive: true });
  const database = levelKvFactory({
    writeBufferBytes: settings.dbWriteBuffer,
    blockCacheBytes: settings.dbCache,
  });
  return {
    ...real,
    openDatabase: async ({ create }) =>
      create
        ? database.open(join(scratch, 'db'), { create })
        : withoutWrites(await real.openDatabase({ create })),
    openLog: () => openDiskDevice({ directory: log }),
    openDamagedLog: () => openDiskDevice({ directory: log }),
    async openNewLog() {
      await mkdir(fresh);
      return openDiskDevice({ directory: fresh });
    },
    nextMove: () => Promise.resolve(1),
    moveDatabase: async () => {
      await mkdir(join(scratch, 'db'));
    },
    moveLog: () => {
      log = fresh;
      return Promise.resolve();
    },
    writeFaults: () => Promise.resolve(),
  };
}

/** Another's to close. */
const heldOpen: Partial<Kv> = { close: () => Promise.resolve() };

function withoutWrites(kv: Kv): Kv {
  const nothing: KvBatch = {
    length: 0,
    put() {},
    del() {},
    write: () => Promise.resolve(),
    abandon: () => Promise.resolve(),
  };
  return wrapped(kv, {
    batch: () => nothing,
    compact: () => Promise.resolve(),
    reclaimable: false,
    reclaim: () => Promise.resolve(),
  });
}

function wrapped(kv: Kv, instead: Partial<Kv>): Kv {
  return {
    get: (key) => kv.get(key),
    getSync: (key) => kv.getSync(key),
    getMany: (keys) => kv.getMany(keys),
    batch: () => kv.batch(),
    iterator: (range) => kv.iterator(range),
    snapshot: () => kv.snapshot(),
    compact: (range) => kv.compact(range),
    sizeOf: (range) => kv.sizeOf(range),
    get reclaimable() {
      return kv.reclaimable;
    },
    reclaim: (goOn) => kv.reclaim(goOn),
    close: () => kv.close(),
    ...instead,
  };
}

/**
 * One after the other; those that are open are closed where a later one is not to be opened.
 * One to give up others in is left out where it does not open for damage that nobody else
 * can heal: it starts as little, and waits for a choice of its own. `held`: where they stay open, its owner closes them.
 */
export async function openFolders(
  dirs: readonly string[],
  modeOf: (node: NodeId) => Mode,
  logger: Logger,
  held?: HeldDatabases,
): Promise<OpenFolder[]> {
  const opened: OpenFolder[] = [];
  try {
    for (const dir of dirs) {
      const directory = await openDirectory(dir);
      const mode = modeOf(directory.identity.nodeId);
      try {
        opened.push(await openFolder(directory, mode, logger, held));
      } catch (error) {
        const heals = directory.identity.replicationFactor > 1;
        if (mode !== 'give-up' || heals || !isDamage(error)) throw error;
        logger.warn({ directory: dir, error: error.message }, 'this folder is damaged, and left as it is');
      }
    }
    const [first] = opened;
    for (const { directory } of opened) {
      if (directory.identity.clusterId === first?.directory.identity.clusterId) continue;
      throw new HansardError('INVALID_SETTINGS', `${directory.dir} is of another cluster than ${dirs[0]}`, {
        directory: directory.dir,
      });
    }
    return opened;
  } catch (error) {
    await closeFolders(opened).catch(() => undefined);
    throw error;
  }
}

function isDamage(error: unknown): error is HansardError {
  return isReplaceable(error) || (error instanceof HansardError && error.reason === 'LOG_DAMAGED');
}

export async function closeFolders(folders: readonly OpenFolder[]): Promise<void> {
  const ends = await Promise.allSettled(folders.map((folder) => folder.close()));
  for (const end of ends) if (end.status === 'rejected') throw end.reason;
}
