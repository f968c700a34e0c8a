/**
 * A node's folder with many messages, made the way a node makes it — entries
 * through the log, applied, sealed by checkpoints — but without network, consensus
 * and clients, so that ten million take minutes. A real node opens it afterwards.
 */
import { createHash } from 'node:crypto';
import { writeContent } from '../../src/client/content-encode.js';
import { BackWriter } from '../../src/client/wire.js';
import { entryChecksum } from '../../src/common/entry-checksum.js';
import { xxh64 } from '../../src/common/hash.js';
import { clusterIdBytes, hexIdBytes, randomHexId } from '../../src/common/hex-ids.js';
import { type Entry, EntryType } from '../../src/common/log-types.js';
import { silentLogger } from '../../src/common/logger.js';
import { partitionOf } from '../../src/common/partitioning.js';
import { applyEntry } from '../../src/conversation/apply.js';
import {
  encodeAppend,
  encodeDeleteChannel,
  encodeEntry,
  supportedApplyVersion,
} from '../../src/conversation/command.js';
import { decodeEntry } from '../../src/conversation/decoded-entry.js';
import type { NewEvent } from '../../src/conversation/event-record.js';
import { EventType } from '../../src/conversation/types.js';
import { openDirectory } from '../../src/node/directory.js';
import { initNode } from '../../src/node/open.js';
import { nodeDefaults } from '../../src/node/options.js';
import { realClock, realRandom } from '../../src/node/real-env.js';
import { levelKvFactory } from '../../src/store/level-kv.js';
import { openStore } from '../../src/store/store.js';
import type { Store } from '../../src/store/types.js';
import { openDiskDevice, openWal, type Wal } from '../../src/wal/index.js';
import { chatTexts, randomOf } from './payload.js';
import { freePorts } from './ports.js';

export const fillPartitions = 64;
/** Appends of one message in an entry. */
const appendsPerEntry = 16;
const distinctTexts = 20_000;
/** Channels that are talked in at a time, where they come as sessions. */
const openSessions = 4_000;

export interface FillOptions {
  readonly dir: string;
  readonly channels: number;
  readonly messages: number;
  readonly messageBytes: number;
  /** `random`: every message in any channel; `sessions`: some thousand channels at a time, each talked in until it has its share. */
  readonly order: 'random' | 'sessions';
  readonly payload: 'chat' | 'random' | readonly string[];
  /** Messages of an append; 1 where absent. */
  readonly batch?: number;
  /** Every message has a key of its own. */
  readonly keys?: boolean;
  /** Entries go through the log as well. Else the log begins behind them. */
  readonly logged: boolean;
  /** Nothing is sealed meanwhile: the tails must have room. */
  readonly unsealed?: boolean;
  readonly seed?: number;
  readonly onProgress?: (messages: number) => void;
}

export const channelName = (n: number): string => `conversation/${n}`;

/** Empty folders, one for each node of a cluster. */
export async function makeFolders(dirs: readonly string[]): Promise<void> {
  const port = await freePorts(2 * dirs.length);
  const clusterId = randomHexId(realRandom, clusterIdBytes);
  const members = dirs.map((_, i) => ({
    nodeId: i + 1,
    clientAddress: `127.0.0.1:${port + 2 * i}`,
    peerAddress: `127.0.0.1:${port + 2 * i + 1}`,
  }));
  for (const [i, dir] of dirs.entries()) {
    const replicationFactor = members.length;
    await initNode({
      dir,
      clusterId,
      nodeId: i + 1,
      partitionCount: fillPartitions,
      replicationFactor,
      members,
    });
  }
}

/** Log and store of a folder, without a node around them. */
export class Filling {
  messages = 0;
  bodyBytes = 0;
  readonly store: Store;
  readonly #wal: Wal;
  readonly #closeDevice: () => Promise<void>;
  readonly #events: NewEvent[];
  readonly #appendsPerEntry: number;
  readonly #random: () => number;
  #timeUs = 1_700_000_000_000_000;
  #sealing: Promise<void> | undefined;
  /** Appends that wait for their partition's next entry. */
  readonly #waiting: Uint8Array[][] = Array.from({ length: fillPartitions }, () => []);

  private constructor(store: Store, wal: Wal, closeDevice: () => Promise<void>, options: FillOptions) {
    this.store = store;
    this.#wal = wal;
    this.#closeDevice = closeDevice;
    this.#random = randomOf(options.seed ?? 1);
    this.#appendsPerEntry = Math.max(1, Math.floor(appendsPerEntry / (options.batch ?? 1)));
    this.#events = contents(options).map(eventOf);
  }

  static async open(options: FillOptions): Promise<Filling> {
    const { identity, dbPath, logPath } = await openDirectory(options.dir);
    const ids = { clusterId: identity.clusterId, storeId: identity.storeId };
    const kv = await levelKvFactory().open(dbPath, { create: false });
    const store = await openStore({ kv, ...ids, clock: realClock, logger: silentLogger });
    const device = openDiskDevice({ directory: logPath });
    const wal = await openWal({
      clusterId: hexIdBytes(identity.clusterId, clusterIdBytes),
      storeId: identity.storeId,
      device,
      clock: realClock,
      logger: silentLogger,
      onFailure: (error) => {
        throw error;
      },
    });
    for (const { partition, sealedIndex, sealedTerm } of store.partitions()) {
      const log = wal.group(partition) ?? wal.addGroup(partition, identity.nodeId as number);
      if (log.lastIndex() < sealedIndex) log.reset(sealedIndex, sealedTerm);
    }
    return new Filling(store, wal, () => device.close(), options);
  }

  /** Appends, and checkpoints by the node's own rule. */
  async fill(options: FillOptions): Promise<void> {
    const { onProgress } = options;
    const pick = picker(options, this.#random);
    const { batch = 1 } = options;
    const turn = fillPartitions * Math.max(appendsPerEntry, batch);
    // The log goes on where the state is; what is not in it has to be sealed.
    if (options.logged) await this.#joinLog();
    for (let n = 0; n < options.messages; ) {
      for (const end = Math.min(n + turn, options.messages); n < end; n += batch)
        this.#append(channelName(pick()), batch, options.keys ?? false);
      await this.#commit(options.logged);
      if (!options.unsealed) await this.#checkpointWhereDue(nodeDefaults.checkpointBytes);
      onProgress?.(this.messages);
    }
    await this.#flush(options.logged);
  }

  /** What comes next is stamped so much later. */
  passTime(us: number): void {
    this.#timeUs += us;
  }

  /** Deletes every channel that `wanted` names. */
  async deleteChannels(count: number, wanted: (n: number) => boolean): Promise<void> {
    for (let n = 0; n < count; n++) {
      if (!wanted(n)) continue;
      const channel = channelName(n);
      const deletion = { tenant: 'default', requestId: '', channel, allowMissing: false, permanent: true };
      const command = encodeDeleteChannel(deletion);
      this.#waitingFor(channel).push(command);
      if (n % 1_000 === 999) await this.#flush(true);
    }
    await this.#flush(true);
  }

  /** Everything, as often as something is left to do: blocks of deleted channels go piece by piece. */
  async sealAll(): Promise<void> {
    await this.#sealing;
    for (let rounds = 0; rounds < 1_000; rounds++) {
      if (this.store.partitions().every(({ dirtySinceMs }) => dirtySinceMs === undefined)) break;
      await this.store.checkpoint(this.store.partitions().map(({ partition }) => partition));
    }
    this.#cutLog();
  }

  /** As a crash leaves it: nothing more is sealed. */
  async close(): Promise<void> {
    await this.#sealing;
    await this.#tellCommit();
    await this.#wal.close();
    await this.#closeDevice();
    await this.store.close();
  }

  async #joinLog(): Promise<void> {
    const behind = this.store.partitions().some(({ partition, appliedIndex }) => {
      return (this.#wal.group(partition)?.lastIndex() ?? 0) < appliedIndex;
    });
    if (!behind) return;
    await this.sealAll();
    for (const { partition, sealedIndex, sealedTerm } of this.store.partitions()) {
      this.#wal.group(partition)?.reset(sealedIndex, sealedTerm);
    }
  }

  get logBytes(): number {
    return this.#wal.stats().bytesWritten;
  }

  #waitingFor(channel: string): Uint8Array[] {
    return this.#waiting[partitionOf('default', channel, fillPartitions)] as Uint8Array[];
  }

  #append(channel: string, batch: number, keys: boolean): void {
    const events = Array.from({ length: batch }, (_, i) => {
      const event = this.#events[Math.floor(this.#random() * this.#events.length)] as NewEvent;
      return keys ? withKey(event, `request-${this.messages + i}`) : event;
    });
    this.#waitingFor(channel).push(encodeAppend({ tenant: 'default', channel, events }));
    this.messages += batch;
    for (const { content } of events) this.bodyBytes += content.length;
  }

  /** One entry of each partition that has a full one, and a fsync for all. */
  async #commit(logged: boolean, least = this.#appendsPerEntry): Promise<void> {
    const made: { partition: number; entries: Entry[] }[] = [];
    for (const [partition, waiting] of this.#waiting.entries()) {
      let { appliedIndex } = this.store.partition(partition);
      const entries: Entry[] = [];
      while (waiting.length >= Math.max(1, least)) {
        const commands = waiting.splice(0, this.#appendsPerEntry);
        const data = Buffer.from(encodeEntry(commands, ++this.#timeUs, supportedApplyVersion));
        const entry = {
          term: 1,
          index: ++appliedIndex,
          type: EntryType.normal,
          sizeBytes: data.length,
          data,
        };
        entries.push({ ...entry, checksum: entryChecksum(partition, entry) });
      }
      if (entries.length > 0) made.push({ partition, entries });
    }
    if (logged && made.length > 0) {
      const writes = made.map(({ partition, entries }) => ({
        partition,
        hardState: { term: 1, vote: 1, commit: (entries[0] as Entry).index - 1 },
        entries,
      }));
      await new Promise<void>((resolve) => this.#wal.write(writes, resolve));
    }
    for (const { partition, entries } of made) {
      const target = this.store.partition(partition);
      for (const { index, data } of entries) {
        const decoded = decodeEntry(data as Uint8Array);
        const reading = target.prefetch(decoded);
        if (reading !== undefined) await reading;
        target.beginEntry();
        applyEntry(target, { index, term: 1, data: data as Uint8Array }, decoded);
        target.endEntry(index, 1);
      }
    }
  }

  async #flush(logged: boolean): Promise<void> {
    while (this.#waiting.some((waiting) => waiting.length > 0)) await this.#commit(logged, 1);
  }

  async #checkpointWhereDue(bytes: number): Promise<void> {
    if (this.store.tailBytes < bytes) return;
    if (this.#sealing !== undefined) {
      if (this.store.tailBytes > this.store.tailLimitBytes) await this.#sealing;
      else await new Promise((resolve) => setImmediate(resolve));
      return;
    }
    this.#sealing = this.store
      .checkpoint(this.store.partitions().map(({ partition }) => partition))
      .then(() => {
        this.#sealing = undefined;
        this.#cutLog();
      });
  }

  #cutLog(): void {
    for (const { partition, sealedIndex, sealedTerm } of this.store.partitions()) {
      const log = this.#wal.group(partition);
      if (log !== undefined && log.firstIndex() <= sealedIndex && log.lastIndex() >= sealedIndex)
        log.compact(sealedIndex, sealedTerm);
    }
  }

  /** All that was applied counts as committed, on disk too. */
  async #tellCommit(): Promise<void> {
    await this.#joinLog();
    // Every folder of a cluster is filled alike, so all voted for the same one.
    const writes = this.store.partitions().map(({ partition, appliedIndex }) => ({
      partition,
      hardState: { term: 1, vote: 1, commit: appliedIndex },
      entries: [],
    }));
    for (const { partition, hardState } of writes) this.#wal.group(partition)?.recordCommit(hardState.commit);
    await new Promise<void>((resolve) => this.#wal.write(writes, resolve));
  }
}

/** Which channel talks next. */
function picker({ channels, messages, order }: FillOptions, random: () => number): () => number {
  if (order === 'random') return () => Math.floor(random() * channels);
  const share = Math.max(1, Math.ceil(messages / channels));
  let next = Math.min(openSessions, channels);
  const open = Array.from({ length: next }, (_, n) => ({ n, left: share }));
  return () => {
    const session = open[Math.floor(random() * open.length)] as (typeof open)[number];
    const { n } = session;
    if (--session.left === 0) {
      session.n = next++ % channels;
      session.left = share;
    }
    return n;
  };
}

function contents({ payload, messageBytes, seed }: FillOptions): Uint8Array[] {
  const writer = new BackWriter();
  const pack = (text: string): Uint8Array => {
    writer.reset();
    writeContent(writer, { role: 'user', author: 'ann', text }, 0);
    return Uint8Array.from(writer.view());
  };
  if (payload === 'chat') return chatTexts(distinctTexts, messageBytes, seed).map(pack);
  if (payload !== 'random') return payload.map(pack);
  const random = randomOf(seed ?? 1);
  // Text without any pattern, one byte a character, so that it is a message all the same: 6.5 of its 8 bits.
  const noise = () => String.fromCharCode(33 + Math.floor(random() * 93));
  return Array.from({ length: distinctTexts }, () =>
    pack(Array.from({ length: messageBytes }, noise).join('')),
  );
}

function withKey(event: NewEvent, key: string): NewEvent & { readonly keyDigest: Uint8Array } {
  return { ...event, key, keyDigest: createHash('sha256').update(event.content).digest().subarray(0, 16) };
}

function eventOf(content: Uint8Array, n: number): NewEvent {
  const salt = createHash('md5').update(String(n)).digest();
  return {
    type: EventType.messageCompleted,
    content,
    contentXxh64: xxh64(content),
    salt,
    commitment: createHash('sha256').update(salt).update(content).digest(),
  };
}
