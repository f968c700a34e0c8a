/**
 * Starts a node on a folder as a disk may have left it, and holds what it finds
 * against what it had promised. The node is whole (folder, database, log,
 * replicas, reads), in this process, with nobody to talk to.
 */
import { rmSync } from 'node:fs';
import { setTimeout as sleep, setImmediate as turn } from 'node:timers/promises';
import { HansardError } from '../../src/common/errors.js';
import { silentLogger } from '../../src/common/logger.js';
import { openDirectory } from '../../src/node/directory.js';
import { HansardNode } from '../../src/node/node.js';
import { partitionsOf } from '../../src/node/open.js';
import { PartsOpener } from '../../src/node/open-parts.js';
import { nodeDefaults } from '../../src/node/options.js';
import { checkOwner } from '../../src/node/owner-check.js';
import { realFolder } from '../../src/node/parts-folder.js';
import { realClock, realRandom } from '../../src/node/real-env.js';
import type { PartitionReader } from '../../src/store/types.js';
import type { Transport } from '../../src/transport/types.js';
import type { LogDevice } from '../../src/wal/device.js';
import type { Wal } from '../../src/wal/index.js';
import { SegmentFiles } from '../../src/wal/segment-files.js';
import { append } from '../node/cluster.js';
import { patienceMs } from '../support/until.js';
import { type Tree, writeTree } from './disk-model.js';
import type { Promises } from './promises.js';
import { nodeSettings } from './recorded-node.js';

export interface Verdict {
  /** It does not start, and says why. */
  readonly refused?: HansardError;
  /** What is wrong; nothing: all is well. */
  readonly problems: readonly string[];
  readonly tornTail: boolean;
}

/** `dir` is used up. */
export async function checkState(dir: string, tree: Tree, promises: Promises): Promise<Verdict> {
  writeTree(dir, tree);
  const problems: string[] = [];
  const closers: (() => Promise<unknown>)[] = [];
  let tornTail = false;
  try {
    const directory = await openDirectory(dir);
    const { identity } = directory;
    await checkOwner(directory);
    const ids = { clusterId: identity.clusterId, storeId: identity.storeId };
    const failures: unknown[] = [];
    const said: string[] = [];
    const settings = { ...nodeSettings(), dir };
    const watch = new SharedArrayBuffer(8);
    const parts = new PartsOpener({
      folder: realFolder({ directory, settings, watch, openDevice: directDevice }),
      settings,
      logger: { ...silentLogger, error: (fields: unknown) => void said.push(JSON.stringify(fields)) },
      firstPartitions: partitionsOf(identity).map(({ partition }) => partition),
      onFailure: (error) => failures.push(error),
      opened: closers,
    });
    await parts.openStore();
    const { wal, store } = await parts.openLog();
    tornTail = wal.stats().replay.tornTail;
    // A state that is known to be lost says nothing of what the log was cut behind.
    const appliedIndex = (partition: number): number =>
      parts.ledger.of(partition, 'state-damaged') === undefined
        ? store.partition(partition).appliedIndex
        : Number.POSITIVE_INFINITY;
    checkPeerPromises(wal, promises, appliedIndex, problems);
    const node = new HansardNode({
      identity: { ...ids, incarnation: 1, nodeId: identity.nodeId, bootId: '1'.repeat(16), version: '0' },
      nodes: identity.members,
      partitionCount: identity.partitionCount,
      replicationFactor: identity.replicationFactor,
      settings: { ...nodeDefaults, tickMs: 2, electionTimeoutMs: 4, heartbeatMs: 2, checkpointAgeMs: 60_000 },
      clock: realClock,
      random: realRandom,
      logger: silentLogger,
      wal,
      store,
      transport: nobody,
      faults: parts.ledger,
      onFatal: (error) => failures.push(error),
    });
    closers.length = 0;
    closers.push(() => node.stop({ seal: false }));
    await node.start();
    const isAlone = identity.members.length === 1;
    const faults = node.faults().map(({ partition, kind }) => `partition ${partition} ${kind}`);
    // Held back until a peer helps: as good as refused here, where there is none.
    if (faults.length > 0)
      return {
        refused: new HansardError('STORE_DAMAGED', [...faults, ...said].join(', ')),
        problems,
        tornTail,
      };
    await appliedAll(node, wal, isAlone, failures);
    if (failures.length === 0) {
      for (const { store: state } of node.replicas()) await checkChannels(state, promises, problems);
      if (isAlone) {
        checkAcknowledged(promises, problems);
        await goesOn(node);
      }
    }
    for (const failure of failures) problems.push(`it ends: ${String(failure)}`);
  } catch (error) {
    if (error instanceof HansardError) return { refused: error, problems, tornTail };
    problems.push(error instanceof Error ? `${error.stack}` : String(error));
  } finally {
    for (const close of closers.reverse()) await close().catch((error) => problems.push(`closing: ${error}`));
    rmSync(dir, { recursive: true, force: true });
  }
  return { problems, tornTail };
}

/** Terms and votes never go back; what a leader was told to be kept is kept, unless a later leader had it cut. */
function checkPeerPromises(
  wal: Wal,
  { peers }: Promises,
  appliedIndex: (partition: number) => number,
  problems: string[],
): void {
  for (const [partition, told] of peers) {
    const group = wal.group(partition);
    if (group === undefined) {
      problems.push(`partition ${partition} is not in the log, term ${told.term} was told`);
      continue;
    }
    const { term, vote } = group.hardState;
    if (term < told.term) problems.push(`partition ${partition}: term ${term}, told was ${told.term}`);
    if (told.vote !== undefined && term === told.vote.term && vote !== told.vote.candidate)
      problems.push(`partition ${partition}: vote ${vote} in term ${term}, given to ${told.vote.candidate}`);
    const { kept } = told;
    if (kept === undefined || appliedIndex(partition) >= kept.index) continue;
    const found = group.term(kept.index);
    if (found === kept.entryTerm) continue;
    if (isCutByLaterLeader(group, kept)) continue;
    problems.push(
      `partition ${partition}: entry ${kept.index} of term ${kept.entryTerm} was kept for term ${kept.term}, found is ${found} (log ${group.firstIndex()} to ${group.lastIndex()})`,
    );
  }
}

function isCutByLaterLeader(
  group: { lastIndex(): number; term(index: number): number | string },
  kept: { term: number; index: number },
): boolean {
  const last = group.term(Math.min(group.lastIndex(), kept.index));
  return typeof last === 'number' && last > kept.term;
}

async function appliedAll(node: HansardNode, wal: Wal, isAlone: boolean, failures: unknown[]): Promise<void> {
  const endMs = performance.now() + patienceMs;
  const isDone = (): boolean =>
    node.replicas().every((replica) => {
      const log = wal.group(replica.partition);
      if (log === undefined) return false;
      if (isAlone) return replica.isLeader && replica.appliedIndex === log.lastIndex();
      return replica.appliedIndex >= Math.min(log.hardState.commit, log.lastIndex());
    });
  while (!isDone() && failures.length === 0) {
    if (performance.now() > endMs) throw new Error('not everything in the log was applied in time');
    await sleep(1);
  }
  await turn();
}

const everything = { fromSeq: 1, reverse: false, maxEvents: 1_000_000, maxBytes: 1 << 30 } as const;

/** Reads all channels; notes in `promises.found` which append stands at which seq. */
async function checkChannels(
  reader: PartitionReader,
  { found, finals }: Promises,
  problems: string[],
): Promise<void> {
  const listed = await reader.listChannels({
    tenant: 'default',
    prefix: '',
    after: undefined,
    limit: 10_000,
  });
  for (const channel of listed) {
    const numbers: number[] = [];
    for (let from = 1; from <= channel.headSeq; ) {
      const events = await reader.events(channel, { ...everything, fromSeq: from, toSeq: channel.headSeq });
      for (const event of events) {
        if (event.seq !== from)
          problems.push(`${channel.name}: seq ${event.seq} stands where ${from} is due`);
        from = event.seq + 1;
        const { contentBytes, contentOffset, contentLength } = event;
        const text = Buffer.from(contentBytes.buffer, contentBytes.byteOffset + contentOffset, contentLength);
        numbers.push(Number(new RegExp(`${channel.name}#(\\d+);`).exec(text.toString('latin1'))?.[1]));
      }
      if (events.length === 0) {
        problems.push(`${channel.name}: nothing from seq ${from}, its head is ${channel.headSeq}`);
        break;
      }
    }
    if (new Set(numbers).size !== numbers.length) problems.push(`${channel.name} has an append twice`);
    if (numbers.some(Number.isNaN)) problems.push(`${channel.name} has what nobody appended`);
    const final = finals?.get(channel.name);
    for (const [i, n] of numbers.entries()) {
      if (final !== undefined && final[i] !== n)
        problems.push(`${channel.name}: append ${n} at seq ${i + 1}, elsewhere ${final[i]}`);
    }
    found.set(channel.name, numbers);
  }
}

function checkAcknowledged({ acknowledged, going, gone, found }: Promises, problems: string[]): void {
  for (const [channel, appends] of acknowledged) {
    const numbers = found.get(channel);
    if (numbers === undefined) {
      if (!going.has(channel)) problems.push(`channel ${channel} is gone`);
      continue;
    }
    if (gone.has(channel)) problems.push(`channel ${channel} is there, its deletion was acknowledged`);
    for (const [seq, n] of appends) {
      if (numbers[seq - 1] !== n)
        problems.push(
          `${channel}: append ${n} was acknowledged as seq ${seq}, found there: ${numbers[seq - 1]}`,
        );
    }
  }
}

/** It takes an append. */
async function goesOn(node: HansardNode): Promise<void> {
  const command = append('after', 'after#1;');
  const partition = node.partitionOf('default', 'after');
  await node.propose(partition, command, { deadlineMs: node.monotonicMs() + patienceMs });
}

/** The log's own file operations, without its thread. */
function directDevice({ directory }: { readonly directory: string }): LogDevice {
  const files = new SegmentFiles(directory);
  return {
    list: async () => files.list(),
    async create(segment, bytes) {
      for (const _ of files.create(segment, bytes));
    },
    rename: async (from, to) => files.rename(from, to),
    remove: async (segment) => files.remove(segment),
    read: async (segment, offset, target) => files.read(segment, offset, target),
    async write(segment, offset, bytes) {
      files.write(segment, offset, bytes);
      return 0;
    },
    allocate: (bytes) => Buffer.alloc(bytes),
    close: async () => files.close(),
  };
}

const nobody: Transport = {
  start: async () => {},
  address: '127.0.0.1:0',
  send: () => false,
  flush() {},
  fetch: () => ({ close() {} }),
  isConnected: () => false,
  peers: () => [],
  stop: async () => {},
};
