/** When tails are sealed: nodes of one cluster one after the other, whatever state they began in. */
import t from 'tap';
import { silentLogger } from '../../src/common/logger.js';
import { checkpointPeriod, isTurnBetween } from '../../src/node/checkpoint-turns.js';
import { Checkpoints, type CheckpointsContext } from '../../src/node/checkpoints.js';
import { nodeDefaults } from '../../src/node/options.js';
import { SimClock } from '../sim/sim-clock.js';

const full = nodeDefaults.checkpointBytes;

/** A node of three that all hold one partition; it applies what it is told to, and seals at once. */
function made(clock: SimClock, nodeId: number, applied: number, bytesPerEntry: number) {
  const partition = { partition: 0, dirtySinceMs: 0, appliedIndex: applied, sealedIndex: applied };
  const sealed: { atMs: number; bytes: number }[] = [];
  const bytes = () => (partition.appliedIndex - partition.sealedIndex) * bytesPerEntry;
  const checkpoints = new Checkpoints({
    nodeId,
    clock,
    settings: nodeDefaults,
    logger: silentLogger,
    store: {
      get tailBytes() {
        return bytes();
      },
      tailBytesPerChannel: 20_000,
      partitions: () => [partition],
      setAsidePartitions: () => new Map(),
      checkpoint: async () => {
        sealed.push({ atMs: clock.monotonicMs(), bytes: bytes() });
        partition.sealedIndex = partition.appliedIndex;
        partition.dirtySinceMs = clock.monotonicMs();
      },
    },
    wal: { holdingBack: () => [], stats: () => ({ segmentBytes: 0 }) },
    replicas: () => [
      {
        voters: [{ nodeId: 3 }, { nodeId: 7 }, { nodeId: 9 }],
        cuttableIndex: 0,
        log: { firstIndex: () => 1 },
      },
    ],
    keptByAll: () => 0,
    roomAgain: () => {},
    isStarting: () => false,
    fatal: (error: unknown) => t.fail(String(error)),
  } as unknown as CheckpointsContext);
  return { partition, sealed, checkpoints };
}

/** Loads three nodes for 90 s; what each sealed once they had found their moments, in order. */
async function sealedBy(bytesPerEntry: readonly [number, number, number]) {
  const clock = new SimClock();
  const nodes = [3, 7, 9].map((nodeId, i) => made(clock, nodeId, 0, bytesPerEntry[i] as number));
  for (const { checkpoints } of nodes) checkpoints.start();
  for (let ms = 0; ms < 90_000; ms += stepMs) {
    for (const { partition } of nodes) partition.appliedIndex += stepMs * entriesPerMs;
    const restarted = nodes[1]?.partition;
    // Its start seals what there was: this one alone begins anew.
    if (ms === 30_000 && restarted !== undefined) restarted.sealedIndex = restarted.appliedIndex;
    await clock.run(stepMs);
  }
  for (const { checkpoints } of nodes) await checkpoints.stop();
  return nodes
    .flatMap(({ sealed }, node) => sealed.map((one) => ({ ...one, node })))
    .filter(({ atMs }) => (atMs > 10_000 && atMs < 30_000) || atMs > 40_000)
    .sort((a, b) => a.atMs - b.atMs);
}

const stepMs = 20;
const entriesPerMs = 3;
const entriesPerLook = 100 * entriesPerMs;

t.test('nodes that apply the same seal one after the other, and keep to it over a restart', async (t) => {
  const all = await sealedBy([3_000, 3_050, 2_960]);
  t.ok(all.length > 60, `${all.length} checkpoints`);
  const thirdMs = checkpointPeriod(full, 1_000, 3_000_000) / entriesPerMs / 3;
  for (const [i, { atMs, bytes, node }] of all.entries()) {
    t.ok(bytes >= full / 2 - entriesPerLook * 3_050 && bytes <= full, `${bytes} bytes`);
    const next = all[i + 1];
    if (next === undefined || (atMs < 30_000 && next.atMs > 40_000)) continue;
    t.equal(next.node, (node + 1) % 3, 'each has its turn');
    t.ok(Math.abs(next.atMs - atMs - thirdMs) <= 120, `${next.atMs - atMs} ms later, of ${thirdMs}`);
  }
});

t.test('nor do they meet where one of them takes half the period of the others', async (t) => {
  const all = await sealedBy([4_000, 4_100, 3_950]);
  const of = [0, 1, 2].map((node) => all.filter((one) => one.node === node).length);
  t.ok((of[1] as number) > 1.8 * (of[0] as number), `${of} checkpoints`);
  const sixthMs = checkpointPeriod(full, 1_000, 4_100_000) / entriesPerMs / 6;
  for (const [i, { atMs }] of all.entries()) {
    const next = all[i + 1];
    if (next !== undefined) t.ok(next.atMs - atMs >= sixthMs - 120, `${next.atMs - atMs} ms later`);
  }
});

t.test('a period is a power of two, of which the tails fill the half at least', (t) => {
  t.equal(checkpointPeriod(32_000, 10, 40_000), 8);
  t.equal(checkpointPeriod(32_000, 10, 41_000), 4, 'all of it would be more than what is full');
  t.equal(checkpointPeriod(1, 10, 40_000), 1, 'of one entry that is too large already');
  const passed = (rank: number) =>
    Array.from({ length: 13 }, (_, i) => i).filter((at) => isTurnBetween(at, at + 1, 6, { rank, count: 3 }));
  t.same([0, 1, 2].map(passed), [
    [0, 6, 12],
    [2, 8],
    [4, 10],
  ]);
  t.ok(
    isTurnBetween(0, 1_000_000, 8, { rank: 2, count: 3 }),
    'one that was away for many of its moments has one',
  );
  t.end();
});
