/**
 * Bytes that a node writes to disk per byte of message, log included; and what
 * deleting channels, and the expiry of keys, give back.
 *
 *     npm run bench -- write-amplification [--messages 2000000] [--bytes 200]
 *                      [--channels 1000,100000] [--payload chat,random] [--order random]
 *                      [--keys]
 *
 * Counted are the bytes of write system calls. One replica's part: entries of 16 appends of one message each, one sync for all partitions, the node's checkpoints.
 */
import { existsSync } from 'node:fs';
import { Command } from 'commander';
import { defaultSettings } from '../src/conversation/settings.js';
import { openDirectory } from '../src/node/directory.js';
import { Filling, type FillOptions, makeFolders } from './harness/filled-folder.js';
import { removeFolder, temporaryFolder } from './harness/leftovers.js';
import { bytesOfWrites, count, folderBytes, inMB, loadAverage } from './harness/proc-figures.js';
import { ircTexts } from './harness/real-chat.js';

const options = new Command('bench write-amplification')
  .option('--messages <n>', 'of each case', '2000000')
  .option('--bytes <n>', 'of text a message', '200')
  .option('--channels <list>', '', '1000,100000')
  .option(
    '--payload <list>',
    'chat (generated), random (incompressible), irc (from the data at HANSARD_SHARED)',
    'chat,random',
  )
  .option('--order <order>', 'random or sessions', 'random')
  .option('--keys', 'every message has a key; at the end they expire, and no channel is deleted', false)
  .option('--delete <percent>', 'of the channels, at the end', '50')
  .parse()
  .opts<{
    messages: string;
    bytes: string;
    channels: string;
    payload: string;
    order: FillOptions['order'];
    keys: boolean;
    delete: string;
  }>();
/** Enough that every partition has something to seal. */
const laterMessages = 20_000;
/** For files to be given up, at most. */
const spaceBackMs = 120_000;
const say = (text: string): void => void process.stdout.write(`${text}\n`);

for (const payload of options.payload.split(',')) {
  for (const channels of options.channels.split(',').map(Number)) await measure(payload, channels);
}
process.exit();

async function measure(payload: string, channels: number): Promise<void> {
  const texts = payload === 'irc' ? ircTexts() : payload === 'random' ? 'random' : 'chat';
  if (texts === undefined) {
    say('irc: left out, HANSARD_SHARED names no folder with ubuntu-irc.jsonl.gz');
    return;
  }
  const dir = temporaryFolder('hansard-written-');
  const shape: FillOptions = {
    dir,
    channels,
    messages: Number(options.messages),
    messageBytes: Number(options.bytes),
    order: options.order,
    payload: texts,
    keys: options.keys,
    logged: true,
  };
  try {
    await makeFolders([dir]);
    const filling = await Filling.open(shape);
    const { dbPath } = await openDirectory(dir);
    // What a new log writes in advance is written once in a node's life: the second half counts.
    await filling.fill({ ...shape, messages: shape.messages / 2 });
    const before = {
      written: bytesOfWrites(),
      log: filling.logBytes,
      body: filling.bodyBytes,
      messages: filling.messages,
    };
    const sealed = filling.store.stats().checkpointBytes;
    const cpu = process.cpuUsage();
    await filling.fill({ ...shape, messages: shape.messages / 2, seed: 2 });
    await filling.sealAll();
    const { user, system } = process.cpuUsage(cpu);
    const messages = filling.messages - before.messages;
    const body = filling.bodyBytes - before.body;
    const written = bytesOfWrites() - before.written;
    const log = filling.logBytes - before.log;
    const rows = filling.store.stats().checkpointBytes - sealed;
    const per = (bytes: number): string => (bytes / body).toFixed(2);
    say(
      `${payload}, ${count(channels)} channels, ${count(messages)} messages of ${(body / messages).toFixed(0)} bytes: ${per(written)} bytes written per byte of content ` +
        `(log ${per(log)}, rows as handed to LevelDB ${per(rows)}, LevelDB with its log and compactions ${per(written - log)}), ` +
        `${((user + system) / messages).toFixed(1)} µs of CPU a message; database ${inMB(folderBytes(dbPath))} (load average ${loadAverage()})`,
    );
    if (options.keys) await expireKeys(filling, dbPath, shape);
    else await giveBack(filling, dbPath, channels);
    await filling.close();
  } finally {
    if (existsSync(dir)) removeFolder(dir);
  }
}

async function giveBack(filling: Filling, dbPath: string, channels: number): Promise<void> {
  const percent = Number(options.delete);
  if (percent === 0) return;
  const full = folderBytes(dbPath);
  await filling.deleteChannels(channels, (n) => n % 100 < percent);
  const marked = folderBytes(dbPath);
  const started = performance.now();
  await filling.sealAll();
  const seconds = (performance.now() - started) / 1000;
  const { bytes, quietSeconds } = await untilSteady(dbPath);
  say(
    `  ${percent} % of the channels deleted: database ${inMB(full)} before, ${inMB(marked)} when they were marked, ${inMB(bytes)} after checkpoints removed their blocks (${seconds.toFixed(1)} s, and ${quietSeconds.toFixed(0)} s until it changed no more)`,
  );
}

/** A day later than they are kept: what comes then lets them go, a run at a time. */
async function expireKeys(filling: Filling, dbPath: string, shape: FillOptions): Promise<void> {
  const full = folderBytes(dbPath);
  filling.passTime(defaultSettings.keyRetentionUs + 24 * 3_600_000_000);
  // What a run leaves goes with the checkpoint after the one that drops it.
  for (let rounds = 0; rounds < 3; rounds++) {
    await filling.fill({ ...shape, messages: laterMessages, keys: false });
    await filling.sealAll();
  }
  const { bytes, quietSeconds } = await untilSteady(dbPath);
  say(
    `  all keys expired: database ${inMB(full)} before, ${inMB(bytes)} after ${count(3 * laterMessages)} messages without keys (${quietSeconds.toFixed(0)} s until it changed no more)`,
  );
}

async function untilSteady(dbPath: string): Promise<{ bytes: number; quietSeconds: number }> {
  let bytes = folderBytes(dbPath);
  const started = performance.now();
  for (let steady = 0; steady < 5 && performance.now() - started < spaceBackMs; ) {
    await new Promise((resolve) => setTimeout(resolve, 1_000));
    const now = folderBytes(dbPath);
    steady = now === bytes ? steady + 1 : 0;
    bytes = now;
  }
  return { bytes, quietSeconds: (performance.now() - started) / 1000 };
}
