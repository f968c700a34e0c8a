/**
 * Clients of the SDK whose every operation is noted down for the linearizability
 * checker: appends with and without an expected head, and linearizable reads of
 * a channel's end from the leader or any other replica. One operation at a time
 * each, on connections of its own; what a client believes of a channel may be old.
 *
 * Reads of the weaker levels are judged by what they promise: at level session a
 * client's own writes and never less than it saw before; bounded, all that anybody
 * was acknowledged before its bound; and whatever they show is what stands there.
 */
import { performance } from 'node:perf_hooks';
import { type Channel, type Client, HansardError, type ServedBy } from '../../src/client/index.js';
import type { ChannelRecorder, Recording } from '../linearizability/recorder.js';
import { sleep } from './harness.js';
import { leavesOpen, readAll, textOf } from './workload.js';

/** Messages that a read asks for. */
const newestCount = 3;
/** Short, so that outcomes stay unknown now and then. */
const timeoutMs = 2_500;
const pauseMaxMs = 60;

/** Of bounded reads: shorter than faults last, so that it matters. */
const boundMs = 800;
const weak = ['session', 'bounded', 'eventual'] as const;
type Weak = (typeof weak)[number];
const preferences = ['primary', 'primary-preferred', 'secondary', 'secondary-preferred', 'nearest'] as const;

interface Acknowledged {
  readonly id: string;
  readonly channel: string;
  readonly seq: number;
  readonly client: string;
}

/** A page of a weaker level: what it showed must be there in the end. */
interface Shown {
  readonly channel: string;
  readonly head: number;
  readonly newest: readonly string[];
  readonly by: string;
}

/** What all clients of a test note down together. */
export class Notes {
  readonly acknowledged: Acknowledged[] = [];
  /** Ids that were surely not appended. */
  readonly refused = new Set<string>();
  readonly problems: string[] = [];
  reads = 0;
  unknown = 0;
  conflicts = 0;
  /** Reads that were answered, by level, and by whom. */
  readonly weakReads: Record<string, number> = {};
  readonly shown: Shown[] = [];
  /** By channel: heads that were acknowledged, and when; ascending in both. */
  readonly heads = new Map<string, { readonly seq: number; readonly atMs: number }[]>();

  constructor(readonly recorder: ChannelRecorder) {}

  acknowledge(id: string, channel: string, seq: number, client: string): void {
    this.acknowledged.push({ id, channel, seq, client });
    let heads = this.heads.get(channel);
    if (heads === undefined) {
      heads = [];
      this.heads.set(channel, heads);
    }
    if (seq > (heads.at(-1)?.seq ?? 0)) heads.push({ seq, atMs: performance.now() });
  }

  /** The highest seq that was acknowledged by that time. */
  headAt(channel: string, atMs: number): number {
    return this.heads.get(channel)?.findLast((head) => head.atMs <= atMs)?.seq ?? 0;
  }
}

export class JudgedClient {
  #stopped = false;
  #serial = 0;
  readonly #heads = new Map<string, number>();
  /** By channel: what this client's session must not see less of. */
  readonly #seen = new Map<string, number>();
  readonly #channels: readonly Channel[];
  readonly #done: Promise<void>;

  constructor(
    readonly name: string,
    client: Client,
    channels: readonly string[],
    readonly notes: Notes,
  ) {
    this.#channels = channels.map((channel) => client.channel(channel));
    this.#done = this.#run();
  }

  /** Resolves when its last operation has ended; rejects where one failed in a way that none may. */
  stop(): Promise<void> {
    this.#stopped = true;
    return this.#done;
  }

  async #run(): Promise<void> {
    for (let n = 0; !this.#stopped; n++) {
      const channel = this.#channels[Math.floor(Math.random() * this.#channels.length)] as Channel;
      if (n % 5 === 0) await this.#read(channel);
      else if (n % 5 === 1) await this.#readWeakly(channel, weak[Math.floor(n / 5) % weak.length] as Weak);
      else await this.#append(channel, Math.random() < 0.5);
      await sleep(1 + Math.random() * pauseMaxMs);
    }
  }

  async #append(channel: Channel, conditional: boolean): Promise<void> {
    const { notes } = this;
    const id = `${this.name}/${channel.name}/${++this.#serial}`;
    const expectedHead = conditional ? (this.#heads.get(channel.name) ?? 0) : undefined;
    const condition = expectedHead === undefined ? {} : { condition: { expectedHeadSeq: expectedHead } };
    const input = { kind: 'append', channel: channel.name, id, expectedHead } as const;
    const recording = notes.recorder.begin(this.name, input);
    try {
      const { seq } = await channel.append({ role: 'user', text: id }, { timeoutMs, ...condition });
      recording.returned({ kind: 'appended', seq });
      this.#heads.set(channel.name, seq);
      this.#saw(channel.name, seq);
      notes.acknowledge(id, channel.name, seq, this.name);
    } catch (error) {
      this.#noteFailure(channel.name, id, error, recording);
    }
  }

  #noteFailure(channel: string, id: string, error: unknown, recording: Recording): void {
    const { notes } = this;
    if (leavesOpen(error)) notes.unknown++;
    else if (error instanceof HansardError) {
      notes.refused.add(id);
      if (error.reason !== 'CONDITION_FAILED') return recording.hadNoEffect();
      const actualHead = Number(error.fields.actual);
      recording.returned({ kind: 'refused', actualHead });
      this.#heads.set(channel, actualHead);
      notes.conflicts++;
    } else notes.problems.push(`${id}: an error without a type: ${error}`);
  }

  async #read(channel: Channel): Promise<void> {
    const { notes } = this;
    const recording = notes.recorder.begin(this.name, { kind: 'read', channel: channel.name });
    const preference = preferences[Math.floor(Math.random() * preferences.length)] ?? 'primary';
    const level = 'linearizable' as const;
    try {
      const page = await channel.list({ before: newestCount, level, preference, timeoutMs }).page();
      this.#judgeServer(preference, page.servedBy);
      this.#saw(channel.name, page.headSeq);
      this.#noteHead(channel.name, page.headSeq, page.events.map(textOf), recording);
    } catch (error) {
      if (error instanceof HansardError && error.reason === 'CHANNEL_NOT_FOUND')
        this.#noteHead(channel.name, 0, [], recording);
      else if (!(error instanceof HansardError))
        notes.problems.push(`read of ${channel.name}: an error without a type: ${error}`);
      // A read that failed said nothing.
    }
  }

  async #readWeakly(channel: Channel, level: Weak): Promise<void> {
    const { notes } = this;
    const { name } = channel;
    const preference = preferences[Math.floor(Math.random() * preferences.length)] ?? 'nearest';
    const begunMs = performance.now();
    const least =
      level === 'session'
        ? (this.#seen.get(name) ?? 0)
        : level === 'bounded'
          ? notes.headAt(name, begunMs - boundMs)
          : 0;
    const by = `${this.name}: ${level} read of ${name} by ${preference}`;
    const told = (head: number, newest: readonly string[]): void => {
      notes.weakReads[level] = (notes.weakReads[level] ?? 0) + 1;
      notes.shown.push({ channel: name, head, newest, by });
      if (head < least) notes.problems.push(`${by}: head ${head}, at least ${least} was to be there`);
      if (level === 'session') this.#saw(name, head);
    };
    try {
      const bound = level === 'bounded' ? { maxStalenessMs: boundMs } : {};
      const page = await channel.list({ before: newestCount, level, preference, timeoutMs, ...bound }).page();
      this.#judgeServer(preference, page.servedBy);
      told(page.headSeq, page.events.map(textOf));
    } catch (error) {
      if (error instanceof HansardError && error.reason === 'CHANNEL_NOT_FOUND') told(0, []);
      else if (!(error instanceof HansardError))
        notes.problems.push(`${by}: an error without a type: ${error}`);
    }
  }

  #judgeServer(preference: string, { nodeId, role, commitToken }: ServedBy): void {
    const isRight =
      preference === 'primary' ? role === 'primary' : preference !== 'secondary' || role !== 'primary';
    if (!isRight || nodeId === 0 || commitToken.length === 0)
      this.notes.problems.push(`${this.name}: ${preference} asked, node ${nodeId} answered as ${role}`);
  }

  #saw(channel: string, head: number): void {
    if (head > (this.#seen.get(channel) ?? 0)) this.#seen.set(channel, head);
  }

  #noteHead(channel: string, head: number, newest: readonly string[], recording: Recording): void {
    recording.returned({ kind: 'page', head, newest });
    this.#heads.set(channel, head);
    this.notes.reads++;
  }
}

/**
 * Everything that must be true of the channels once all is healed: dense, each
 * acknowledged append at its seq, none twice, nothing that was refused, each
 * client's in its order; and an order of all operations that explains every
 * answer. Empty: nothing is wrong.
 */
export async function judge(client: Client, channels: readonly string[], notes: Notes): Promise<string[]> {
  const found = [...notes.problems];
  for (const channel of channels) {
    const events = await readAll(client, channel);
    const ids = events.map(textOf);
    events.forEach(({ seq }, i) => {
      if (seq !== i + 1) found.push(`${channel}: seq ${seq} stands at place ${i + 1}`);
    });
    found.push(...faultsOf(channel, ids, notes));
    for (const { channel: where, head, newest, by } of notes.shown) {
      if (where !== channel) continue;
      const there = ids.slice(head - newest.length, head);
      if (there.join() !== newest.join()) found.push(`${by}: showed ${newest}, there is ${there}`);
    }
    notes.recorder.learnOutcomes(channel, ids);
  }
  const verdict = notes.recorder.check();
  if (verdict.verdict === 'not-linearizable')
    found.push(
      `${verdict.key}: no order explains the answers; after ${verdict.longest.slice(-5).join(', ')} comes none of ${verdict.stuckAt.join(', ')}`,
    );
  else if (verdict.verdict === 'unknown') found.push('the checker took too long to say');
  return found.slice(0, 10);
}

function faultsOf(channel: string, ids: readonly string[], notes: Notes): string[] {
  const found: string[] = [];
  const seqs = new Map<string, number>();
  const serials = new Map<string, number>();
  ids.forEach((id, i) => {
    if (seqs.has(id)) found.push(`${id} is there twice: ${seqs.get(id)} and ${i + 1}`);
    seqs.set(id, i + 1);
    if (notes.refused.has(id)) found.push(`${id} was refused and is there`);
    const [client = '', serial] = [id.slice(0, id.indexOf('/')), Number(id.slice(id.lastIndexOf('/') + 1))];
    if (serial <= (serials.get(client) ?? 0))
      found.push(`${id} came after ${client}'s ${serials.get(client)}`);
    serials.set(client, serial);
  });
  for (const { id, channel: where, seq } of notes.acknowledged)
    if (where === channel && seqs.get(id) !== seq)
      found.push(`${id}: acknowledged as ${seq}, is at ${seqs.get(id)}`);
  return found;
}
