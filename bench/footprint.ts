/**
 * What a node with many channels takes: a folder is filled, a real node opens it.
 *
 *     npm run bench -- footprint [--channels 1000000] [--messages 10000000] [--bytes 200]
 *                      [--order sessions|random] [--unsealed 0] [--dir FOLDER] [--keep]
 *
 * The last `--unsealed` messages are in the log alone: the node replays them.
 * A folder that is kept is opened again with --dir, without being filled.
 */
import { existsSync } from 'node:fs';
import { Command } from 'commander';
import { connect } from '../src/client/index.js';
import { openDirectory } from '../src/node/directory.js';
import { channelName, Filling, type FillOptions, makeFolders } from './harness/filled-folder.js';
import { removeFolder, temporaryFolder } from './harness/leftovers.js';
import { usageOf } from './harness/measure.js';
import { NodeProcess } from './harness/node-process.js';
import { number } from './harness/options.js';
import { randomOf } from './harness/payload.js';
import {
  bytesOfWrites,
  count,
  folderBytes,
  inMB,
  inMiB,
  loadAverage,
  statusBytes,
} from './harness/proc-figures.js';

interface Options {
  readonly channels: number;
  readonly messages: number;
  readonly bytes: number;
  readonly order: 'sessions' | 'random';
  readonly unsealed: number;
  readonly batch: number;
  readonly recovery?: boolean;
  readonly fillOnly?: boolean;
  readonly dir?: string;
  readonly keep?: boolean;
}

const say = (text: string): void => void process.stdout.write(`${text}\n`);
/** Pages and appends that the opened node is asked for before it is measured a second time. */
const touches = 20_000;
const inFlight = 16;

const options = new Command('bench footprint')
  .option('--channels <n>', '', number(1), 1000000)
  .option('--messages <n>', '', number(1), 10000000)
  .option('--bytes <n>', 'of text a message', number(1), 200)
  .option('--order <order>', 'sessions or random', 'sessions')
  .option('--unsealed <n>', 'messages that only the log has when the node starts', number(0), 0)
  .option('--batch <n>', 'messages of an append', number(1), 1)
  .option('--recovery', 'nothing but the start: 1,000 channels, and as much unsealed as the tails may hold')
  .option('--dir <folder>', 'filled where it is empty or absent; else opened as it is')
  .option('--keep', 'leaves the folder')
  .option('--fill-only', 'with --dir: to open it later')
  .parse()
  .opts<Options>();
const channels = options.channels;
const dir = options.dir ?? temporaryFolder('hansard-footprint-');
const isKept = options.keep === true || options.dir !== undefined;

try {
  if (options.dir === undefined || !existsSync(options.dir)) await fillFolder();
  if (!options.fillOnly) await measureNode();
} finally {
  if (!isKept) removeFolder(dir);
}
process.exit();

async function fillFolder(): Promise<void> {
  const messages = options.messages;
  const unsealed = options.unsealed;
  const shape: FillOptions = {
    dir,
    channels,
    messages: messages - unsealed,
    messageBytes: options.bytes,
    order: options.order,
    batch: options.batch,
    payload: 'chat',
    logged: false,
    onProgress: progress,
  };
  await makeFolders([dir]);
  const filling = await Filling.open(shape);
  const started = performance.now();
  const cpu = process.cpuUsage();
  const written = bytesOfWrites();
  await filling.fill(shape);
  await filling.sealAll();
  const { user, system } = process.cpuUsage(cpu);
  const seconds = (performance.now() - started) / 1000;
  const amplification = (bytesOfWrites() - written) / filling.bodyBytes;
  say(
    `filled: ${count(filling.messages)} messages in ${count(channels)} channels (${options.order}), ${inMB(filling.bodyBytes)} of content, in ${seconds.toFixed(0)} s, ` +
      `${((user + system) / filling.messages).toFixed(1)} µs of CPU a message, ${amplification.toFixed(1)} bytes written per byte of content, without log (load average ${loadAverage()})`,
  );
  say(
    `the filling process: RssAnon at most ${inMiB(statusBytes('self', 'RssAnon'))} now, RSS ${inMiB(statusBytes('self', 'VmHWM'))} at its highest`,
  );
  if (unsealed > 0)
    await filling.fill({ ...shape, messages: unsealed, logged: true, unsealed: true, seed: 2 });
  await filling.close();
}

function progress(messages: number): void {
  if (messages % 1_048_576 < 1_024)
    process.stderr.write(`${count(messages)} messages, RssAnon ${inMiB(statusBytes('self', 'RssAnon'))}\n`);
}

async function measureNode(): Promise<void> {
  say(
    `on disk: ${inMB(folderBytes(`${dir}`))} (database ${inMB(folderBytes((await openDirectory(dir)).dbPath))})`,
  );
  const started = performance.now();
  const node = new NodeProcess(dir);
  try {
    const opened = await node.line('database opened');
    say(
      `database of ${count(Number(opened.channels))} channels opened in ${(Number(opened.durationMs) / 1000).toFixed(2)} s; ${cpuOf(node)}`,
    );
    const read = await node.line('log replayed');
    say(
      `log verified: ${inMB(Number(read.bytes))}, ${count(Number(read.entries))} entries in ${Number(read.durationMs).toFixed(0)} ms: ${read.megabytesPerSecond} MB/s; ${cpuOf(node)}`,
    );
    const applied = await node.line('log applied');
    say(
      `log applied: ${count(Number(applied.entries))} entries, ${count(Number(applied.events))} messages in ${applied.durationMs} ms: ${count(Number(applied.eventsPerSecond))}/s; ${cpuOf(node)}`,
    );
    const ready = await node.line('ready');
    const readyMs = performance.now() - started;
    say(
      `from its start to a leader of each of ${ready.partitions} partitions: ${(readyMs / 1000).toFixed(2)} s; ${cpuOf(node)} (load average ${loadAverage()})`,
    );
    tellMemory(node, 'after the start');
    if (options.recovery) return;
    await touch();
    tellMemory(node, `after ${count(touches)} appends and latest pages in channels at random`);
  } finally {
    await node.stop();
  }
}

/** The clock says little on a busy machine. */
function cpuOf({ pid }: NodeProcess): string {
  const { cpuUs, mainUs } = usageOf({ name: 'node', pid });
  return `${(cpuUs / 1e6).toFixed(2)} s of CPU so far, ${(mainUs / 1e6).toFixed(2)} s of it the main thread's`;
}

function tellMemory({ pid }: NodeProcess, when: string): void {
  const [anonymous, all, highest] = ['RssAnon', 'VmRSS', 'VmHWM'].map((name) => statusBytes(pid, name)) as [
    number,
    number,
    number,
  ];
  say(
    `${when}: RssAnon ${inMiB(anonymous)}, RSS ${inMiB(all)} (highest ${inMiB(highest)}); LevelDB maps its tables`,
  );
}

async function touch(): Promise<void> {
  const { identity } = await openDirectory(dir);
  const client = connect(`hansard://${identity.members[0]?.clientAddress}`, { timeoutMs: 30_000 });
  const random = randomOf(7);
  let left = touches;
  const started = performance.now();
  const worker = async (): Promise<void> => {
    while (left-- > 0) {
      const channel = client.channel(channelName(Math.floor(random() * channels)));
      await channel.append({ role: 'user', author: 'ann', text: 'x'.repeat(200) });
      const { events } = await channel.list().page();
      if (events.length === 0) throw new Error('an empty page');
    }
  };
  await Promise.all(Array.from({ length: inFlight }, worker));
  say(
    `${count((touches / (performance.now() - started)) * 1000)} times a second an append and a page (load average ${loadAverage()})`,
  );
  await client.close();
}
