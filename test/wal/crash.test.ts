/**
 * Random lives of a log on the simulated disk, each ended by the death of its
 * process or a loss of power at any moment (also while it opens), held against a
 * model: each group is found as after some prefix of what it was given, never
 * less than what was acknowledged or found by an opening that succeeded.
 * SEEDS=n runs more of them, SEED=n one alone.
 */
import t, { type Test } from 'tap';
import { formatWal, type GroupLog, type Wal } from '../../src/wal/index.js';
import { SimClock, SimRandom } from '../sim/sim-clock.js';
import { SimDisk } from '../sim/sim-disk.js';
import { contents, entry, identity, open, settleOn } from './harness.js';

const segmentBytes = 64 * 1024;
const partitions = [0, 1, 2];

interface GroupModel {
  term: number;
  vote: number;
  commit: number;
  base: number;
  baseTerm: number;
  /** entries[i] has index base + 1 + i. */
  entries: { term: number; text: string }[];
}

interface History {
  /** states[0]: as found; one more per write, in order. */
  states: GroupModel[];
  acknowledged: number;
  /** Highest commit index ever handed over. */
  commit: number;
  /** What `compact` was called with, this life or before. */
  compacted: number;
}

const empty: GroupModel = { term: 0, vote: 0, commit: 0, base: 0, baseTerm: 0, entries: [] };
const lastOf = (model: GroupModel): number => model.base + model.entries.length;
const newest = (history: History): GroupModel => history.states.at(-1) as GroupModel;

async function life(t: Test, seed: number): Promise<{ lives: number; torn: number; failed: number }> {
  const random = new SimRandom(seed);
  const clock = new SimClock();
  const disk = new SimDisk({ clock, random: random.fork() });
  const histories = partitions.map(
    (): History => ({ states: [empty], acknowledged: 0, commit: 0, compacted: 0 }),
  );
  await settleOn(clock, formatWal(disk.device(), { ...identity, segmentBytes, random }));
  const counts = { lives: 0, torn: 0, failed: 0 };
  let text = 0;
  for (let n = 0; n < 12; n++) {
    const end = random.chance(0.5) ? () => disk.losePower() : () => disk.crash();
    let failed = false;
    const opening = open(disk.device(), {
      segmentBytes,
      clock,
      maxBatchBytes: 16 * 1024,
      cacheBytes: 4096,
      closeAfterMs: 5,
      onFailure: () => {
        failed = true;
      },
    });
    opening.catch(() => {});
    if (random.chance(0.3)) {
      await clock.run(random.fraction() * 8);
      end();
      continue;
    }
    const wal = await settleOn(clock, opening);
    counts.lives++;
    if (wal.stats().replay.tornTail) counts.torn++;
    for (const partition of partitions)
      await checkFound(t, clock, wal, partition, histories[partition] as History);
    if (random.chance(0.2)) disk.failNext('sync');
    const steps = random.u32() % 40;
    for (let i = 0; i < steps && !failed; i++) {
      step(wal, random, histories, () => `${seed}-${text++}`);
      if (random.chance(0.6)) await clock.run(random.fraction() * 2);
    }
    if (random.chance(0.2) && !failed) await clock.run(100);
    if (failed) counts.failed++;
    end();
    disk.clearFaults();
  }
  return counts;
}

/** One thing that a partition may do to its log. */
function step(wal: Wal, random: SimRandom, histories: History[], text: () => string): void {
  const partition = random.u32() % partitions.length;
  const history = histories[partition] as History;
  const group = wal.group(partition) ?? wal.addGroup(partition, partition + 10);
  const model = newest(history);
  const kind = random.fraction();
  const idle = history.acknowledged === history.states.length - 1;
  if (kind < 0.15) {
    const index =
      group.firstIndex() -
      1 +
      Math.floor(random.fraction() * (group.hardState.commit - group.firstIndex() + 2));
    if (index < group.firstIndex() || index > group.lastIndex()) return;
    group.compact(index, group.term(index) as number);
    history.compacted = Math.max(history.compacted, index);
  } else if (kind < 0.18 && idle) {
    const index = lastOf(model) + 1 + (random.u32() % 50);
    group.reset(index, model.term + 1);
    history.commit = Math.max(history.commit, index);
    history.compacted = index;
    history.states.push({ ...model, base: index, baseTerm: model.term + 1, commit: index, entries: [] });
  } else {
    writeSome(wal, group, random, history, text);
  }
}

function writeSome(wal: Wal, group: GroupLog, random: SimRandom, history: History, text: () => string): void {
  const model = newest(history);
  const { partition } = group;
  let { term, vote } = model;
  let { commit } = history;
  term = Math.max(term, model.baseTerm);
  if (random.chance(0.3)) {
    term++;
    vote = random.u32() % 4;
  }
  if (random.chance(0.5)) commit = Math.max(commit, Math.min(lastOf(model), commit + (random.u32() % 4)));
  const from = random.chance(0.2)
    ? commit + 1 + (random.u32() % (lastOf(model) - commit + 1))
    : lastOf(model) + 1;
  const count = random.u32() % 4;
  const added = Array.from({ length: count }, () => ({
    term,
    text: text().padEnd(random.chance(0.1) ? 6000 : random.u32() % 300, '.'),
  }));
  const kept = count === 0 ? model.entries : model.entries.slice(0, from - model.base - 1);
  const next: GroupModel = { ...model, term, vote, commit, entries: [...kept, ...added] };
  history.commit = Math.max(history.commit, commit);
  const written = term !== model.term || vote !== model.vote || count > 0;
  if (written) history.states.push(next);
  const at = history.states.length - 1;
  const entries = added.map(({ term, text }, i) => entry(partition, term, from + i, text));
  wal.write([{ partition, hardState: { term, vote, commit }, entries }], () => {
    history.acknowledged = Math.max(history.acknowledged, at);
  });
}

/** Finds the state of the model that the log has come back with, and goes on from there. */
async function checkFound(
  t: Test,
  clock: SimClock,
  wal: Wal,
  partition: number,
  history: History,
): Promise<void> {
  const group = wal.group(partition);
  if (group === undefined) {
    if (history.acknowledged > 0)
      t.fail(`partition ${partition} is gone, ${history.acknowledged} were acknowledged`);
    history.states = [empty];
    history.commit = 0;
    history.compacted = 0;
    return;
  }
  const found = await settleOn(clock, contents(group));
  const { term, vote, commit } = group.hardState;
  const base = group.firstIndex() - 1;
  const matches = (state: GroupModel): boolean =>
    state.term === term &&
    state.vote === vote &&
    lastOf(state) === group.lastIndex() &&
    base >= state.base &&
    found.every(({ term, index, text }) => {
      const wanted = state.entries[index - state.base - 1];
      return wanted?.term === term && wanted.text === text;
    });
  let at = history.states.length - 1;
  while (at >= history.acknowledged && !matches(history.states[at] as GroupModel)) at--;
  const state = history.states[at];
  if (at < history.acknowledged || state === undefined) {
    t.fail(`partition ${partition}: found no state of the model`, {
      found: { term, vote, base, last: group.lastIndex() },
      states: history.states.map((s) => [s.term, s.vote, s.base, lastOf(s)]),
      acknowledged: history.acknowledged,
    });
    throw new Error('lost');
  }
  if (base > history.compacted) t.fail(`partition ${partition}: ${base} was never compacted`);
  if (commit > history.commit || commit > group.lastIndex() || commit < Math.min(state.base, commit + 1)) {
    throw new Error(`partition ${partition}: commit ${commit} of ${history.commit}`);
  }
  const acknowledged = history.states[history.acknowledged] as GroupModel;
  if (commit < acknowledged.commit && !(base >= acknowledged.commit)) {
    throw new Error(`partition ${partition}: commit went back to ${commit} from ${acknowledged.commit}`);
  }
  const baseTerm = group.term(base);
  const entries = found.map(({ term, text }) => ({ term, text }));
  history.states = [
    { term, vote, commit, base, baseTerm: typeof baseTerm === 'number' ? baseTerm : 0, entries },
  ];
  history.acknowledged = 0;
  history.commit = commit;
}

t.test('acknowledged is found again, whatever ends the process', async (t) => {
  const only = process.env.SEED;
  const seeds = only === undefined ? Number(process.env.SEEDS ?? 60) : 1;
  const total = { lives: 0, torn: 0, failed: 0 };
  for (let i = 0; i < seeds; i++) {
    const seed = only === undefined ? i + 1 : Number(only);
    try {
      const { lives, torn, failed } = await life(t, seed);
      total.lives += lives;
      total.torn += torn;
      total.failed += failed;
    } catch (error) {
      t.fail(`seed ${seed}: ${(error as Error).stack}`);
      return;
    }
  }
  t.comment(`${total.lives} lives, ${total.torn} torn tails, ${total.failed} failed syncs`);
  if (only === undefined) t.ok(total.torn > 0 && total.failed > 0, 'the seeds reach what they are for');
});
