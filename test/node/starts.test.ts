/** What a start says while it applies what the log has, and that sealing waits for it. */
import t from 'tap';
import { silentLogger } from '../../src/common/logger.js';
import { Checkpoints, type CheckpointsContext } from '../../src/node/checkpoints.js';
import { nodeDefaults } from '../../src/node/options.js';
import { type StartingReplica, StartReport } from '../../src/node/start-report.js';
import { SimClock } from '../sim/sim-clock.js';

const MiB = 1024 * 1024;

function replicaAt(appliedIndex: number, commit: number, isStateDamaged = false) {
  return { log: { hardState: { commit } }, store: { appliedIndex }, isStateDamaged, isMute: false };
}

function starting(replicas: StartingReplica[]) {
  const clock = new SimClock();
  const said: { text: string; fields: Record<string, unknown> }[] = [];
  const state = { eventsApplied: 100, isOver: false, done: 0 };
  const report = new StartReport({
    clock,
    logger: {
      ...silentLogger,
      info: (fields, text) => void said.push({ text, fields: fields as Record<string, unknown> }),
    },
    store: { stats: () => state },
    replicas: () => replicas,
    isOver: () => state.isOver,
    done: () => {
      state.done++;
    },
  });
  report.begin();
  return { clock, said, state, report };
}

t.test('it says how far it is every few seconds, and at the end how long it took', async (t) => {
  const first = replicaAt(10, 110);
  const second = replicaAt(0, 50);
  const { clock, said, state, report } = starting([first, second, replicaAt(7, 7), replicaAt(0, 9, true)]);
  t.same(report.progress, { left: 150, entries: 150 });
  await clock.run(2_000);
  t.same(said, []);
  first.store.appliedIndex = 110;
  second.store.appliedIndex = 20;
  state.eventsApplied = 1_300;
  t.same(report.progress, { left: 30, entries: 150 });
  await clock.run(1_500);
  t.match(said, [{ text: 'applying the log', fields: { left: 30, entries: 150, events: 1_200 } }]);
  t.equal(state.done, 0);
  second.store.appliedIndex = 60;
  await clock.run(100);
  t.equal(report.progress, undefined);
  t.equal(state.done, 1);
  t.match(said[1], { text: 'log applied', fields: { entries: 150, events: 1_200 } });
  const { durationMs, eventsPerSecond } = said[1]?.fields as Record<string, number>;
  t.equal(eventsPerSecond, Math.round(1_200_000 / (durationMs as number)));
  await clock.run(10_000);
  t.equal(said.length, 2, 'once');
});

t.test('a replica that has gone is not waited for, and a node that stops says nothing more', async (t) => {
  const replicas = [replicaAt(0, 50), replicaAt(0, 60)];
  const { clock, said, state, report } = starting(replicas);
  replicas.splice(0, 1);
  await clock.run(100);
  t.same(report.progress, { left: 60, entries: 110 });
  state.isOver = true;
  await clock.run(10_000);
  t.same(said, []);
  t.equal(state.done, 0);
});

t.test('sealing waits for a start, unless the tails are full', async (t) => {
  const state = { tailBytes: 50 * MiB, bytesPerChannel: 20_000, isStarting: true, checkpoints: 0 };
  const checkpoints = new Checkpoints({
    clock: new SimClock(),
    settings: nodeDefaults,
    logger: silentLogger,
    store: {
      get tailBytes() {
        return state.tailBytes;
      },
      get tailBytesPerChannel() {
        return state.bytesPerChannel;
      },
      partitions: () => [{ partition: 0, dirtySinceMs: 0, appliedIndex: 9, sealedIndex: 9 }],
      setAsidePartitions: () => new Map(),
      checkpoint: async () => {
        state.checkpoints++;
        state.tailBytes = 0;
      },
    },
    wal: { holdingBack: () => [] },
    replicas: () => [],
    roomAgain: () => {},
    isStarting: () => state.isStarting,
    fatal: (error: unknown) => t.fail(String(error)),
  } as unknown as CheckpointsContext);
  checkpoints.look();
  t.equal(state.checkpoints, 0, 'more than a checkpoint’s bytes, but there is room');
  t.equal(checkpoints.tailLimitBytes, 1.25 * nodeDefaults.tailBytes);
  state.tailBytes = checkpoints.tailLimitBytes;
  checkpoints.look();
  t.equal(state.checkpoints, 1, 'no room');
  await new Promise((resolve) => setImmediate(resolve));
  state.tailBytes = 1.25 * nodeDefaults.checkpointBytes;
  state.isStarting = false;
  checkpoints.look();
  t.equal(state.checkpoints, 2, 'it is over');
  await new Promise((resolve) => setImmediate(resolve));
  state.tailBytes = Math.min((1.25 * nodeDefaults.tailBytes) / 2, 10 * nodeDefaults.checkpointBytes) - 1;
  state.bytesPerChannel = 800;
  checkpoints.look();
  t.equal(state.checkpoints, 2, 'events that are nearly alone in their channels wait for company');
  state.tailBytes++;
  checkpoints.look();
  t.equal(state.checkpoints, 3, 'as long as there is room');
  t.equal(checkpoints.tailLimitBytes, nodeDefaults.tailBytes);
  await checkpoints.stop();
});
