/**
 * A real node as a program of its own, to be recorded: small segments, small
 * write buffers, frequent checkpoints, so that all of a store's life passes in a
 * second. What it has promised it writes to the file of marks, one line each:
 *
 *   init             the folder is made
 *   ack CH SEQ N     append N of channel CH was acknowledged to a client, with SEQ
 *   gone CH          the channel's deletion was acknowledged
 *   term P T         replica P has told a peer of term T
 *   vote P T R       it voted for R in T
 *   kept P T I E     it told the leader of T that it has the log up to I, whose entry there is of term E
 *   installing, installed   it takes a snapshot; it has taken one
 */
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { startApi } from '../../src/api/server.js';
import { connect } from '../../src/client/index.js';
import { HansardError } from '../../src/common/errors.js';
import { silentLogger } from '../../src/common/logger.js';
import { initNode, openNode, type RunningNode } from '../../src/node/open.js';
import { decodePeerMessage } from '../../src/node/peer-codec.js';
import type { Settings } from '../../src/node/settings-table.js';
import { settingsTable } from '../../src/node/settings-table.js';
import { type Message, MessageType } from '../../src/raft/types.js';
import { patienceMs } from '../support/until.js';

export interface RecordedOptions {
  readonly dir: string;
  /** Undefined: nothing is noted. */
  readonly markFile?: string | undefined;
  readonly nodeId: number;
  readonly clusterId: string;
  readonly members: readonly { nodeId: number; peerAddress: string; clientAddress: string }[];
  readonly partitions: number;
  /** Make the folder first. */
  readonly init: boolean;
  readonly settings?: Partial<Settings>;
  /** Appends by itself, texts numbered from here; undefined: only what peers and clients want. */
  readonly appendFrom?: number | undefined;
}

const KiB = 1024;
export const segmentBytes = 64 * KiB;
export const channels = Array.from({ length: 6 }, (_, i) => `c${i}`);
const appenders = 4;
/** On its output, one for each acknowledged append. */
export const ackSign = '\u0001';
/** Every so many appends of one appender a channel of its own comes and goes. */
const deleteEvery = 12;

export const recordedSettings: Partial<Settings> = Object.freeze({
  insecure: false,
  logSegment: segmentBytes,
  logMax: 4 * segmentBytes,
  checkpointAge: 150,
  checkpointBytes: 24 * KiB,
  tailLimit: 1024 * KiB,
  /** LevelDB takes no less: it changes its log and writes tables every few dozen checkpoints. */
  dbWriteBuffer: 64 * KiB,
  dbCache: 1024 * KiB,
});

/** The text of append `n`: from a few bytes to some KiB, told by its beginning. */
export function textOf(channel: string, n: number): string {
  const start = `${channel}#${n};`;
  return start + noise(n, (n * 7919) % 17 === 0 ? 6000 : (n * 104_729) % 1500);
}

/** Nothing that compresses: blocks come to lie in value files. The same for the same number. */
function noise(n: number, length: number): string {
  let text = '';
  for (let i = 0; text.length < length; i++) text += createHash('md5').update(`${n}/${i}`).digest('base64');
  return text.slice(0, length);
}

async function main(options: RecordedOptions): Promise<void> {
  const mark = markWriter(options.markFile);
  // Whoever started it is gone.
  process.stdin.on('end', () => process.kill(process.pid, 'SIGKILL')).resume();
  const { dir, nodeId, clusterId, members } = options;
  if (options.init) {
    await initNode({
      dir,
      clusterId,
      nodeId,
      partitionCount: options.partitions,
      replicationFactor: members.length,
      members,
      segmentBytes,
    });
    mark('init');
  }
  const self = members.find((member) => member.nodeId === nodeId);
  if (self === undefined) throw new Error('not a member');
  const running = await openNode({
    dir,
    settings: { ...nodeSettings(), ...options.settings, dir },
    peerAddress: self.peerAddress,
    version: 'recorded',
    logger: silentLogger,
    onFatal,
  });
  if (options.markFile !== undefined) {
    noteWhatPeersAreTold(running, mark);
    noteSnapshots(running, mark);
  }
  const api = await startApi(running.node, {
    address: self.clientAddress,
    insecure: false,
    logger: silentLogger,
    hooks: { onFatal },
  });
  fs.writeSync(1, `up ${process.pid}\n`);
  if (options.appendFrom !== undefined) {
    const client = connect(`hansard://${api.address}`, { timeoutMs: patienceMs });
    await Promise.all(Array.from({ length: appenders }, (_, i) => appendOn(i, options.appendFrom as number)));
    async function appendOn(worker: number, from: number): Promise<void> {
      for (let n = from + worker; ; n += appenders) {
        const channel = channels[n % channels.length] as string;
        const { seq } = await client.channel(channel).append({ role: 'user', text: textOf(channel, n) });
        mark(`ack ${channel} ${seq} ${n}`);
        fs.writeSync(1, ackSign);
        const round = Math.floor((n - from) / appenders);
        if (round % deleteEvery === deleteEvery - 1) await comeAndGo(`d${n}`, n);
        await sleep(2);
      }
    }
    async function comeAndGo(name: string, n: number): Promise<void> {
      const { seq } = await client.channel(name).append({ role: 'user', text: textOf(name, n) });
      mark(`ack ${name} ${seq} ${n}`);
      await sleep(20);
      mark(`going ${name}`);
      await client.channel(name).delete();
      mark(`gone ${name}`);
    }
  }
}

function onFatal(error: unknown): void {
  fs.writeSync(1, `fatal ${error instanceof Error ? error.message : String(error)}\n`);
  process.kill(process.pid, 'SIGKILL');
}

function noteSnapshots({ node }: RunningNode, mark: (text: string) => void): void {
  let [taken, taking] = [0, 0];
  setInterval(() => {
    const { received, receiving } = node.snapshotStats();
    for (; taking < received + receiving; taking++) mark('installing');
    for (; taken < received; taken++) mark('installed');
  }, 2);
}

function markWriter(file: string | undefined): (text: string) => void {
  if (file === undefined) return () => {};
  const fd = fs.openSync(file, 'a');
  return (text) => {
    fs.writeSync(fd, `${text}\n`);
  };
}

/** All of them, without a folder. */
export function nodeSettings(): Settings {
  const defaults = Object.entries(settingsTable).map(([name, info]) => [name, info.default]);
  return { ...Object.fromEntries(defaults), ...recordedSettings } as Settings;
}

/**
 * Pre-votes are about terms to come. Answers to heartbeats leave before a new term
 * is synced, as in etcd's raft: they promise neither a vote nor entries. A majority that
 * elected the term's leader has synced it, and any majority of an earlier term's leader
 * would need one of them.
 */
const promisesNoTerm: ReadonlySet<MessageType> = new Set([
  MessageType.MsgPreVote,
  MessageType.MsgPreVoteResp,
  MessageType.MsgHeartbeatResp,
  MessageType.MsgReadIndexResp,
]);

/** In front of the transport: a promise counts from the moment it is handed over. */
function noteWhatPeersAreTold(running: RunningNode, mark: (text: string) => void): void {
  const { transport, node } = running;
  const send = transport.send.bind(transport);
  const termAt = (partition: number, index: number): number | undefined => {
    const replica = node.replicas().find((each) => each.partition === partition);
    const term = replica?.log.term(index);
    return typeof term === 'number' ? term : undefined;
  };
  const kept = (partition: number, term: number, index: number): void => {
    const at = index === 0 ? undefined : termAt(partition, index);
    if (at !== undefined) mark(`kept ${partition} ${term} ${index} ${at}`);
  };
  const told = (partition: number, message: Message): void => {
    if (promisesNoTerm.has(message.type)) return;
    if (message.term > 0) mark(`term ${partition} ${message.term}`);
    if (message.type === MessageType.MsgAppResp && !message.reject)
      kept(partition, message.term, message.index);
    if (message.type === MessageType.MsgVoteResp && !message.reject)
      mark(`vote ${partition} ${message.term} ${message.to}`);
    if (message.type === MessageType.MsgVote) mark(`vote ${partition} ${message.term} ${message.from}`);
  };
  transport.send = (to, bytes, urgent) => {
    const message = decodePeerMessage(bytes);
    if (message.kind === 'raft') told(message.partition, message.message);
    else if (message.kind === 'acknowledgements')
      for (const beat of message.beats) kept(beat.partition, beat.term, beat.commit);
    else if (message.kind === 'heartbeats')
      for (const beat of message.beats) mark(`term ${beat.partition} ${beat.term}`);
    return send(to, bytes, urgent);
  };
}

if (
  process.argv[2] !== undefined &&
  import.meta.url.endsWith('recorded-node.js') &&
  process.argv[1]?.endsWith('recorded-node.js')
) {
  main(JSON.parse(process.argv[2]) as RecordedOptions).catch((error: unknown) => {
    const what = error instanceof HansardError ? `${error.reason}: ${error.message}` : String(error);
    fs.writeSync(1, `ended ${what}\n`);
    process.exit(1);
  });
}
