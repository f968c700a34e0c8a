/**
 * Bringing up an empty node of a cluster that has many messages, while appends go on: how
 * long it takes, and what it does to their latency. Two folders are filled alike, the
 * third is empty, and the log does not reach back: everything goes by snapshots.
 *
 *     npm run bench -- bring-up [--messages 1000000] [--channels 10000] [--rate 200] [--seconds 10] [--snapshot-rate 64MiB]
 */
import { join } from 'node:path';
import { Command } from 'commander';
import { build } from 'hdr-histogram-js';
import { connect, HansardError } from '../src/client/index.js';
import { openDirectory } from '../src/node/directory.js';
import {
  channelName,
  Filling,
  type FillOptions,
  fillPartitions,
  makeFolders,
} from './harness/filled-folder.js';
import { removeFolder, temporaryFolder } from './harness/leftovers.js';
import { NodeProcess } from './harness/node-process.js';
import { number } from './harness/options.js';
import { randomOf } from './harness/payload.js';
import { count, folderBytes, inMB, loadAverage } from './harness/proc-figures.js';

const options = new Command('bench bring-up')
  .option('--messages <n>', '', number(1), 1000000)
  .option('--channels <n>', '', number(1), 10000)
  .option('--rate <n>', 'appends a second meanwhile, at fixed times', number(0.1), 200)
  .option('--seconds <n>', 'of the undisturbed run', number(0.1), 10)
  .option('--snapshot-rate <bytes>', 'as the setting', '64MiB')
  .parse()
  .opts<Record<'messages' | 'channels' | 'rate' | 'seconds', number> & { snapshotRate: string }>();
const say = (text: string): void => void process.stdout.write(`${text}\n`);
const channels = options.channels;
const withinMs = 300_000;
const installed = 'a snapshot takes the place of the state';

const root = temporaryFolder('hansard-bring-up-');
const dirs = [1, 2, 3].map((n) => join(root, `node-${n}`));
const nodes: NodeProcess[] = [];
try {
  await fillTwo();
  for (const dir of dirs.slice(0, 2))
    nodes.push(new NodeProcess(dir, { HANSARD_SNAPSHOT_RATE: options.snapshotRate }));
  await Promise.all(nodes.map((node) => node.line('ready')));
  await measure();
} finally {
  await Promise.all(nodes.map((node) => node.stop()));
  removeFolder(root);
}
process.exit();

async function fillTwo(): Promise<void> {
  await makeFolders(dirs);
  for (const dir of dirs.slice(0, 2)) {
    const shape: FillOptions = {
      dir,
      channels,
      messages: options.messages,
      messageBytes: 200,
      order: 'random',
      payload: 'chat',
      logged: false,
    };
    const filling = await Filling.open(shape);
    await filling.fill(shape);
    await filling.close();
  }
  const { dbPath } = await openDirectory(dirs[0] as string);
  say(
    `${count(options.messages)} messages in ${count(channels)} channels, ${inMB(folderBytes(dbPath))} of database on each of two nodes`,
  );
}

async function measure(): Promise<void> {
  const { identity } = await openDirectory(dirs[0] as string);
  const addresses = identity.members.slice(0, 2).map(({ clientAddress }) => clientAddress);
  const client = connect(`hansard://${addresses.join(',')}`, { timeoutMs: 60_000 });
  const random = randomOf(5);
  /** Appends at fixed times until `isOver`; latency counts from when each was due. */
  const load = async (isOver: () => boolean) => {
    const latency = build({
      lowestDiscernibleValue: 1,
      highestTrackableValue: 120_000_000,
      numberOfSignificantValueDigits: 3,
    });
    let overdue = 0;
    const under: Promise<unknown>[] = [];
    const started = performance.now();
    const stepMs = 1000 / options.rate;
    for (let n = 0; !isOver(); ) {
      for (; n * stepMs <= performance.now() - started; n++) {
        const dueMs = started + n * stepMs;
        const append = client
          .channel(channelName(Math.floor(random() * channels)))
          .append({ role: 'user', text: 'x'.repeat(200) });
        const ended = () => latency.recordValue(Math.max(1, Math.round((performance.now() - dueMs) * 1000)));
        // One that ran into its deadline took at least that long.
        const late = (error: unknown): void => {
          if (!(error instanceof HansardError) || error.reason !== 'DEADLINE_EXCEEDED') throw error;
          overdue++;
          ended();
        };
        under.push(append.then(ended, late));
      }
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
    await Promise.all(under);
    if (overdue > 0) say(`${count(overdue)} appends ran into their deadline`);
    return latency;
  };
  const lasting = (ms: number) => {
    const end = performance.now() + ms;
    return () => performance.now() >= end;
  };
  await load(lasting(4_000));
  const before = await load(lasting(options.seconds * 1000));
  const started = performance.now();
  const third = new NodeProcess(dirs[2] as string);
  nodes.push(third);
  const tooLong = lasting(withinMs);
  const during = await load(() => third.times(installed) >= fillPartitions || tooLong());
  const seconds = (performance.now() - started) / 1000;
  if (tooLong())
    throw new Error(
      `after ${withinMs / 1000} s ${third.times(installed)} of ${fillPartitions} partitions are there`,
    );
  await third.line('ready');
  const p = (of: typeof before, percent: number): string =>
    `p${percent} ${(of.getValueAtPercentile(percent) / 1000).toFixed(1)}`;
  const tell = (what: string, of: typeof before): void =>
    say(`${what}: ${p(of, 50)}, ${p(of, 99)}, ${p(of, 99.9)} ms of ${count(of.totalCount)} appends`);
  tell('undisturbed', before);
  tell('while the third comes up', during);
  say(
    `the third has all ${fillPartitions} partitions ${seconds.toFixed(1)} s after its start; p99 is ${(during.getValueAtPercentile(99) / before.getValueAtPercentile(99)).toFixed(1)} times the undisturbed one's (load average ${loadAverage()})`,
  );
  await client.close();
}
