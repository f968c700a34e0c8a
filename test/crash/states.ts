/** Draws states of a recording and checks each; says what came of all. */
import { join } from 'node:path';
import { readLevelLog } from '../../src/store/level-log-file.js';
import { SimRandom } from '../sim/sim-clock.js';
import { checkState, type Verdict } from './check.js';
import type { NameOrder, Tree } from './disk-model.js';
import { noPromises, type Promises, promisesAt } from './promises.js';
import type { Recorder } from './recorder.js';

export interface Recorded {
  readonly name: string;
  readonly recorder: Recorder;
  readonly finals?: ReadonlyMap<string, readonly number[]>;
  /** What had been promised before the recording began. */
  readonly carried?: Promises;
}

export interface Tally {
  states: number;
  started: number;
  /** Before the folder was whole: init says so. */
  unfinished: number;
  /** By reason, with the order of names in which it happened. */
  readonly refused: Map<string, number>;
  tornTails: number;
  /** Each with what it takes to see it again. */
  readonly problems: string[];
}

export interface StatesOptions {
  readonly count: number;
  readonly seed: number;
  readonly only?: number;
  /** Drawn from these moments on, a few calls each. */
  readonly from?: readonly number[];
  /** Only those of the states whose folder is of this kind. */
  readonly wanted?: (tree: Tree) => boolean;
  /** See DiskModel.seal. */
  readonly believes?: (name: string) => boolean;
  readonly tell?: (text: string) => void;
}

interface Draw {
  readonly moment: number;
  readonly order: NameOrder;
  readonly seed: number;
}

/** Calls behind a moment that states are to be drawn from. */
const callsBehind = 40;

/** Checks under way at a time: each waits for a thread of LevelDB's now and then. */
const atOnce = 4;

/**
 * `count` states, the same for the same recording and seed. `only`: one of them alone, by its number.
 */
export async function checkStates(
  recorded: Recorded,
  folder: string,
  { count, seed, only, from, wanted, believes, tell }: StatesOptions,
): Promise<Tally> {
  const { recorder, name } = recorded;
  recorder.model.seal(believes);
  const tally: Tally = {
    states: 0,
    started: 0,
    unfinished: 0,
    refused: new Map(),
    tornTails: 0,
    problems: [],
  };
  const draws = drawStates(recorder, count, seed, from);
  const running = new Set<Promise<void>>();
  for (const [number, draw] of draws.entries()) {
    const tree = recorder.model.stateAt(draw.moment, draw.order, new SimRandom(draw.seed));
    if (only !== undefined && only !== number) continue;
    if (wanted?.(tree) === false) continue;
    const promises = promisesAt(recorder.marks, draw.moment, {
      ...structuredClone(recorded.carried ?? noPromises()),
      finals: recorded.finals,
    });
    const check = checkState(join(folder, `state-${name}-${number}`), tree, promises).then((verdict) => {
      running.delete(check);
      judge(
        tally,
        draw,
        { isFormatted: promises.isFormatted, tree },
        verdict,
        `${name} seed ${seed} state ${number} (${draw.order}, moment ${draw.moment})`,
      );
      if (tally.states % 100 === 0) tell?.(`${name}: ${tally.states} of ${count}`);
    });
    running.add(check);
    if (running.size >= atOnce) await Promise.race(running);
  }
  await Promise.all(running);
  return tally;
}

function drawStates(
  recorder: Recorder,
  count: number,
  seed: number,
  from: readonly number[] | undefined,
): Draw[] {
  const random = new SimRandom(seed);
  const { moments, nameMoments, folderMoments } = recorder;
  const first = Math.min(...moments);
  const draws = Array.from({ length: count }, (): Draw => {
    const order: NameOrder = random.chance(0.5) ? 'journal' : 'unordered';
    if (from !== undefined) {
      const moment = (from[random.below(from.length)] as number) + random.below(callsBehind);
      return { moment: Math.min(moment, recorder.end), order, seed: random.u32() };
    }
    const kind = random.fraction();
    // Where something of the files had just begun or ended, or is about to; of their names most of all.
    const of = kind < 0.35 ? moments : kind < 0.55 ? nameMoments : kind < 0.75 ? folderMoments : undefined;
    const moment =
      of === undefined
        ? first + random.below(recorder.end - first + 1)
        : (of[random.below(of.length)] as number) - random.below(2);
    return { moment, order, seed: random.u32() };
  });
  return draws.sort((a, b) => a.moment - b.moment);
}

interface Found {
  readonly isFormatted: boolean;
  readonly tree: Tree;
}

function judge(tally: Tally, draw: Draw, found: Found, verdict: Verdict, where: string): void {
  tally.states++;
  if (verdict.tornTail) tally.tornTails++;
  for (const problem of verdict.problems) tally.problems.push(`${where}: ${problem}`);
  const { refused } = verdict;
  if (refused === undefined) {
    if (verdict.problems.length === 0) tally.started++;
    return;
  }
  if (!found.isFormatted) {
    tally.unfinished++;
    return;
  }
  const kind = `${refused.reason}, names ${draw.order}`;
  tally.refused.set(kind, (tally.refused.get(kind) ?? 0) + 1);
  if (!mayRefuse(draw.order, found, refused))
    tally.problems.push(`${where}: it refuses: ${refused.reason}: ${refused.message}`);
}

/**
 * What LevelDB does to names is not safe where a disk keeps them in no order: it replaces
 * CURRENT and deletes what the old one named without a sync of its folder in between, and
 * it names a table in MANIFEST before the folder is synced. The deletion, or MANIFEST,
 * may be kept alone. That is said, and refetched from a peer; nothing else is refused.
 *
 * Where the old MANIFEST is still there and its log is not, LevelDB opens without a word, with what was
 * in tables. The checkpoints in there are whole and older than where the log of Raft begins, or there is nothing at
 * all, where no table had been made yet: that is what is said then.
 *
 * A record of MANIFEST that was being written, and of which one sector is there and another is not, is damage to
 * LevelDB; what is cut short or all zeros is not.
 */
function mayRefuse(
  order: NameOrder,
  { tree }: Found,
  { reason, message }: { reason: string; message: string },
): boolean {
  if (reason === 'STORE_DAMAGED' && /checksum mismatch/.test(message) && isManifestTorn(tree)) return true;
  if (order !== 'unordered') return false;
  if (reason === 'REPLICA_LOST') return /no format record/.test(message) && isCurrentBehind(tree);
  return reason === 'STORE_DAMAGED' && (/missing files|no such file/i.test(message) || isCurrentBehind(tree));
}

/** The last record of the MANIFEST in use is not what was written. */
function isManifestTorn(tree: Tree): boolean {
  const current = tree.get('db/CURRENT');
  const manifest = Buffer.isBuffer(current) ? tree.get(`db/${current.toString().trimEnd()}`) : undefined;
  if (!Buffer.isBuffer(manifest)) return false;
  return [...readLevelLog(manifest)].at(-1)?.kind === 'damage';
}

/** The database's CURRENT names another MANIFEST than the newest: its last replacement is lost, or was not done. */
export function isCurrentBehind(tree: Tree): boolean {
  const current = tree.get('db/CURRENT');
  if (!Buffer.isBuffer(current)) return false;
  const numberIn = (name: string): number => Number(/MANIFEST-(\d+)\s*$/.exec(name)?.[1]);
  const there = [...tree.keys()].map(numberIn).filter((number) => !Number.isNaN(number));
  return numberIn(current.toString()) < Math.max(...there);
}

export function describeTally(name: string, tally: Tally): string {
  const refused = [...tally.refused].map(([kind, count]) => `${count} refused (${kind})`);
  const parts = [
    `${tally.states} states`,
    `${tally.started} started`,
    `${tally.unfinished} before the folder was whole`,
    ...refused,
    `${tally.tornTails} torn tails`,
    `${tally.problems.length} problems`,
  ];
  return `${name}: ${parts.join(', ')}`;
}
