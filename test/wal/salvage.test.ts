/** What is salvaged of a damaged log is never better than the truth, and often all of it. */
import t, { type Test } from 'tap';
import { HansardError } from '../../src/common/errors.js';
import { isAtLeast, type LogPlace } from '../../src/common/faults.js';
import type { Entry } from '../../src/common/log-types.js';
import {
  formatWal,
  type GroupWrite,
  openWal,
  type Rebuilt,
  rebuildLog,
  salvageLog,
  type Wal,
} from '../../src/wal/index.js';
import { SimClock, SimRandom } from '../sim/sim-clock.js';
import { SimDisk } from '../sim/sim-disk.js';
import { contents, entry, identity, seededRandom, settleOn } from './harness.js';

t.setTimeout(600_000);

const segmentBytes = 96 * 1024;

/** What was synced of a partition. */
interface Truth {
  term: number;
  vote: number;
  base: LogPlace;
  entries: Entry[];
}

const lastOf = ({ base, entries }: Truth): LogPlace => {
  const last = entries.at(-1);
  return last === undefined ? base : { term: last.term, index: last.index };
};

class Scene {
  readonly clock = new SimClock();
  readonly random: SimRandom;
  readonly disk: SimDisk;
  readonly truth = new Map<number, Truth>();
  readonly #pick;

  constructor(readonly seed: number) {
    this.random = new SimRandom(seed);
    this.disk = new SimDisk({ clock: this.clock, random: this.random.fork() });
    this.#pick = seededRandom(seed * 7919);
  }

  settle<T>(promise: Promise<T>): Promise<T> {
    return settleOn(this.clock, promise);
  }

  open(disk: SimDisk): Promise<Wal> {
    const onFailure = (error: Error): void => {
      throw error;
    };
    const { clock } = this;
    const options = { ...identity, device: disk.device(), segmentBytes, clock, closeAfterMs: 5, onFailure };
    return this.settle(openWal(options));
  }

  /** A history as Raft writes it: what is replaced is replaced by a later term. */
  async write(steps: number): Promise<void> {
    await this.settle(formatWal(this.disk.device(), { ...identity, segmentBytes, random: this.random }));
    let wal = await this.open(this.disk);
    const { below } = this.#pick;
    for (let step = 0; step < steps; step++) {
      const partition = below(4);
      let truth = this.truth.get(partition);
      if (truth === undefined) {
        truth = { term: 1, vote: 0, base: { term: 0, index: 0 }, entries: [] };
        this.truth.set(partition, truth);
        wal.addGroup(partition, partition + 1);
      }
      const kind = below(20);
      if (kind < 2) {
        truth.term += 1 + below(2);
        truth.vote = below(4);
      }
      const last = lastOf(truth);
      if (kind === 19 && truth.entries.length > 3) {
        const cut = truth.entries[below(truth.entries.length - 2)] as Entry;
        truth.base = { term: cut.term, index: cut.index };
        truth.entries = truth.entries.filter(({ index }) => index > cut.index);
        wal.group(partition)?.compact(cut.index, cut.term);
      } else if (kind === 18 && below(3) === 0) {
        truth.base = { term: truth.term, index: last.index + 5 };
        truth.entries = [];
        wal.group(partition)?.reset(truth.base.index, truth.base.term);
      }
      const end = lastOf(truth);
      const back = end.term < truth.term ? below(4) : 0;
      const from = Math.max(truth.base.index + 1, end.index + 1 - back);
      const entries = Array.from({ length: below(4) }, (_, i) =>
        entry(partition, (truth as Truth).term, from + i, Buffer.alloc(below(3000), step)),
      );
      if (entries.length > 0)
        truth.entries = [...truth.entries.filter(({ index }) => index < from), ...entries];
      const hardState = { term: truth.term, vote: truth.vote, commit: truth.base.index };
      const write: GroupWrite = { partition, hardState, entries };
      await this.settle(new Promise<void>((resolve) => wal.write([write], resolve)));
      if (below(40) === 0) {
        await this.settle(wal.close());
        wal = await this.open(this.disk);
      }
    }
    await this.settle(wal.close());
  }

  /** One of many ways to go bad. The newest segment is not lost: a log without it is a shorter log. */
  damage(): { disk: SimDisk; what: string } {
    const { below } = this.#pick;
    const disk = this.disk.clone();
    // Those in use: their headers name them.
    const segments = disk
      .segments()
      .filter(({ segment }) => disk.bytes(segment).readUInt32LE(16) === segment);
    const { segment } = segments[below(segments.length)] as { segment: number };
    const bytes = disk.bytes(segment);
    let used = bytes.length;
    while (used > 4096 && bytes.subarray(used - 4096, used).every((byte) => byte === 0)) used -= 4096;
    const kind = below(4);
    if (kind === 0 && segment !== Math.max(...segments.map((one) => one.segment))) {
      disk.lose(segment);
      return { disk, what: `segment ${segment} lost` };
    }
    if (kind === 1) {
      const at = below(used / 4096) * 4096;
      bytes.fill(0, at, at + 4096);
      return { disk, what: `zeros in ${segment} at ${at}` };
    }
    const flips = Array.from({ length: 1 + below(3) }, () => below(used));
    for (const at of flips) disk.flip(segment, at);
    return { disk, what: `flips in ${segment} at ${flips.join()}` };
  }

  /** Into a fresh log; its contents. */
  async rebuilt(
    disk: SimDisk,
    { sealed }: { sealed?: LogPlace | undefined } = {},
  ): Promise<{ groups: Rebuilt[]; wal: Wal } | undefined> {
    const old = disk.device();
    const salvaged = await this.settle(salvageLog(old, identity));
    if (salvaged.isBlank) return undefined;
    const fresh = new SimDisk({ clock: this.clock, random: this.random.fork() });
    const { clock, random } = this;
    const options = { ...identity, device: fresh.device(), segmentBytes, clock, random };
    const groups = await this.settle(rebuildLog(salvaged.groups, { ...options, sealed: () => sealed }));
    return { groups, wal: await this.open(fresh) };
  }
}

async function isTrue(scene: Scene, wal: Wal, partition: number, { entries, base }: Truth): Promise<boolean> {
  const group = wal.group(partition);
  if (group === undefined) return entries.length === 0;
  // Where its log starts may be recorded later than the log knew it.
  const found = (await scene.settle(contents(group))).filter(({ index }) => index > base.index);
  const wanted = entries.filter(({ index }) => index >= group.firstIndex());
  if (group.lastIndex() !== (entries.at(-1)?.index ?? base.index) || found.length !== wanted.length)
    return false;
  return wanted.every(({ term, index, data }, i) => {
    const one = found[i];
    return one?.term === term && one.index === index && one.text === Buffer.from(data ?? []).toString();
  });
}

t.test('a damaged log is never taken for better than it is', async (t: Test) => {
  const tally = { opened: 0, blank: 0, whole: 0, 'log-damaged': 0, 'term-or-vote-lost': 0 };
  for (let seed = 1; seed <= 4; seed++) {
    const scene = new Scene(seed);
    await scene.write(80);
    for (let i = 0; i < 10; i++) {
      const { disk, what } = scene.damage();
      const label = `seed ${seed}, ${i}: ${what}`;
      const opened = await scene.open(disk.clone()).catch((error: unknown) => {
        if (!(error instanceof HansardError) || error.reason !== 'LOG_DAMAGED') throw error;
      });
      if (opened !== undefined) {
        // Nothing that counts was hit: the groups have all that they had.
        tally.opened++;
        for (const [partition, truth] of scene.truth) {
          if (!(await isTrue(scene, opened, partition, truth)))
            t.fail(`${label}: silent, partition ${partition}`);
        }
        continue;
      }
      const found = await scene.rebuilt(disk);
      if (found === undefined) {
        tally.blank++;
        continue;
      }
      for (const [partition, truth] of scene.truth) {
        const one = found.groups.find((group) => group.partition === partition);
        if (one === undefined) continue;
        tally[one.verdict]++;
        if (one.verdict === 'term-or-vote-lost') continue;
        const log = found.wal.group(partition);
        if (log !== undefined && log.firstIndex() - 1 > truth.base.index)
          t.fail(
            `${label}: partition ${partition} begins behind ${log.firstIndex() - 1}: committed was ${truth.base.index}`,
          );
        const { term, vote } = log?.hardState ?? { term: 0, vote: 0 };
        if (term !== truth.term || vote !== truth.vote)
          t.fail(
            `${label}: partition ${partition} has term ${term}, vote ${vote}, not ${truth.term}, ${truth.vote}`,
          );
        if (one.verdict === 'log-damaged') {
          if (!isAtLeast(one.floor, lastOf(truth)))
            t.fail(
              `${label}: partition ${partition}'s floor ${JSON.stringify(one.floor)} is below ${JSON.stringify(lastOf(truth))}`,
            );
        } else if (!(await isTrue(scene, found.wal, partition, truth))) {
          t.fail(`${label}: partition ${partition} is not whole`);
        }
      }
      await scene.settle(found.wal.close());
    }
  }
  t.comment(JSON.stringify(tally));
  for (const verdict of ['whole', 'log-damaged', 'term-or-vote-lost'] as const)
    t.ok(tally[verdict] > 0, verdict);
});

t.test('newest segments that are gone are missed, by what was noted of them', async (t: Test) => {
  const scene = new Scene(77);
  let noted: { current: number; next: number } | undefined;
  const open = (disk: SimDisk): Promise<Wal> => {
    const onFailure = (error: Error): void => {
      throw error;
    };
    const { clock } = scene;
    const segmentNotes = {
      noted,
      note: async (current: number, next: number) => {
        noted = { current, next };
      },
    };
    const options = { ...identity, device: disk.device(), segmentBytes, clock, closeAfterMs: 5, onFailure };
    return scene.settle(openWal({ ...options, segmentNotes }));
  };
  await scene.settle(formatWal(scene.disk.device(), { ...identity, segmentBytes, random: scene.random }));
  let lost = 0;
  for (let life = 0, index = 1; life < 12; life++) {
    const wal = await open(scene.disk);
    const group = wal.group(0) ?? wal.addGroup(0, 1);
    for (let i = 0; i < 5; i++, index++) {
      const entries = [entry(0, 1, index, 'x'.repeat(20_000))];
      await scene.settle(new Promise<void>((resolve) => wal.write([{ partition: 0, entries }], resolve)));
      if (index % 7 === 0) group.compact(index - 3, 1);
    }
    // Killed: the next segment may be there already, or not.
    if (life % 2 === 0) await scene.settle(wal.close());
    else scene.disk.crash();
    const used = scene.disk
      .segments()
      .filter(({ segment }) => scene.disk.bytes(segment).readUInt32LE(16) === segment);
    const newest = Math.max(...used.map(({ segment }) => segment));
    const cut = scene.disk.clone();
    cut.lose(newest);
    const before = noted;
    await open(cut).then(
      () => t.fail(`life ${life}: segment ${newest} is gone, and nobody missed it`),
      (error: unknown) => {
        t.match(error, { reason: 'LOG_DAMAGED' });
        lost++;
      },
    );
    t.same(noted, before, 'and what is noted stays');
  }
  t.equal(lost, 12);
});

t.test(
  'a start notes no segment that nothing is synced in: the next loss of power may take it',
  async (t: Test) => {
    const scene = new Scene(78);
    let noted: { current: number; next: number } | undefined;
    const notes: number[] = [];
    const open = (disk: SimDisk): Promise<Wal> => {
      const note = async (current: number, next: number): Promise<void> => {
        noted = { current, next };
        notes.push(current);
      };
      const options = {
        ...identity,
        device: disk.device(),
        segmentBytes,
        clock: scene.clock,
        closeAfterMs: 5,
      };
      return scene.settle(openWal({ ...options, onFailure: () => {}, segmentNotes: { noted, note } }));
    };
    await scene.settle(formatWal(scene.disk.device(), { ...identity, segmentBytes, random: scene.random }));
    const wal = await open(scene.disk);
    wal.addGroup(0, 1);
    for (let index = 1; index <= 5; index++) {
      const entries = [entry(0, 1, index, 'x'.repeat(20_000))];
      await scene.settle(new Promise<void>((resolve) => wal.write([{ partition: 0, entries }], resolve)));
    }
    const before = noted?.current as number;
    scene.disk.crash();
    // As after a sync that failed: found in the page cache, where nobody knows whether the disk has it.
    noted = { current: before - 1, next: before };
    notes.length = 0;
    const again = await open(scene.disk);
    t.equal(
      notes[0],
      before - 1,
      'what was known to be synced, and no more, until the last batch is written anew',
    );
    const next = [entry(0, 1, again.group(0)!.lastIndex() + 1, 'x')];
    await scene.settle(
      new Promise<void>((resolve) => again.write([{ partition: 0, entries: next }], resolve)),
    );
    t.ok((notes.at(-1) as number) > before, 'then what this life has synced');
    await scene.settle(again.close());
  },
);

/** Entries 1 to 8 of term 1 in one segment, 9 and 10 in the next; `commit` is told with the last. */
async function acrossTwoSegments(scene: Scene, commit: number): Promise<{ first: number; second: number }> {
  await scene.settle(formatWal(scene.disk.device(), { ...identity, segmentBytes, random: scene.random }));
  const wal = await scene.open(scene.disk);
  wal.addGroup(0, 1);
  for (let index = 1; index <= 10; index++) {
    const hardState = { term: 1, vote: 1, commit: index === 10 ? commit : 0 };
    const write = { partition: 0, hardState, entries: [entry(0, 1, index, Buffer.alloc(9_000, index))] };
    await scene.settle(new Promise<void>((resolve) => wal.write([write], resolve)));
  }
  await scene.settle(wal.close());
  const used = scene.disk
    .segments()
    .map(({ segment }) => segment)
    .filter((segment) => scene.disk.bytes(segment).readUInt32LE(16) === segment);
  return { first: used[0] as number, second: used.at(-1) as number };
}

t.test('a log does not begin behind entries that may never have been committed', async (t: Test) => {
  for (const { commit, sealed, verdict, firstIndex } of [
    { commit: 0, sealed: undefined, verdict: 'log-damaged', firstIndex: 1 },
    { commit: 10, sealed: undefined, verdict: 'whole', firstIndex: 8 },
    { commit: 0, sealed: { term: 1, index: 8 }, verdict: 'whole', firstIndex: 9 },
  ]) {
    const scene = new Scene(5);
    const { first, second } = await acrossTwoSegments(scene, commit);
    t.ok(first < second);
    scene.disk.lose(first);
    const found = await scene.rebuilt(scene.disk, { sealed });
    t.match(found?.groups, [{ partition: 0, verdict }], `commit ${commit}`);
    t.equal(found?.wal.group(0)?.firstIndex(), firstIndex);
    if (verdict === 'log-damaged') t.same(found?.groups[0]?.floor, { term: 1, index: 10 });
  }
});

t.test('a damaged log that never came as far as what is sealed has lost votes, too', async (t: Test) => {
  const scene = new Scene(5);
  const { second } = await acrossTwoSegments(scene, 10);
  const bytes = scene.disk.bytes(second);
  bytes[bytes.indexOf(Buffer.alloc(100, 9)) + 50] = 0xff;
  for (const [index, verdict] of [
    [10, 'log-damaged'],
    [11, 'term-or-vote-lost'],
  ] as const) {
    const found = await scene.rebuilt(scene.disk, { sealed: { term: 1, index } });
    t.match(found?.groups, [{ verdict }], `sealed up to ${index}`);
  }
});

t.test('a newest segment that is gone is missed also where the log is damaged before it', async (t: Test) => {
  const scene = new Scene(5);
  const { first, second } = await acrossTwoSegments(scene, 10);
  const noted = { current: second, next: second + 1 };
  const whole = await scene.settle(salvageLog(scene.disk.device(), identity, { current: second, next: 0 }));
  t.equal(whole.endLost, '');
  scene.disk.lose(second);
  scene.disk.flip(first, 5_000);
  const salvaged = await scene.settle(salvageLog(scene.disk.device(), identity, noted));
  t.match(salvaged.endLost, /newest segments are gone/);
});
