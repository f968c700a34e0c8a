/**
 * Clients of the SDK whose every operation is noted down, to be judged afterwards (linearizability/channel-history.ts):
 * appends with and without an expected head, and reads at every level by every preference. One operation at a time
 * each, on connections of its own; what a client believes of a channel may be old.
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type Channel, type Client, HansardError } from '../../src/client/index.js';
import {
  ChannelHistory,
  type Judgement,
  judgeChannelHistory,
  type Level,
  levels,
} from '../linearizability/channel-history.js';
import { sleep } from './harness.js';
import { leavesOpen, readAll, textOf } from './workload.js';

/** Messages that a read asks for. */
export const newestCount = 3;
/** Short, so that outcomes stay unknown now and then. */
const timeoutMs = 2_500;
const pauseMaxMs = 60;

/** Of bounded reads: shorter than faults last, so that it matters. */
const boundMs = 800;
const weak = levels.filter((level) => level !== 'linearizable');
const preferences = ['primary', 'primary-preferred', 'secondary', 'secondary-preferred', 'nearest'] as const;

/** What all clients of a test note down together. */
export class Notes {
  readonly history = new ChannelHistory(() => Math.round(performance.now() * 1_000) / 1_000);
  /** Errors that no client should meet. */
  readonly problems: string[] = [];
  acknowledged = 0;
  unknown = 0;
  conflicts = 0;

  untyped(what: string, error: unknown): void {
    this.problems.push(`${what}: an error without a type: ${error}`);
  }
}

export class JudgedClient {
  #stopped = false;
  #serial = 0;
  /** What it believes that channels end with. */
  readonly #heads = new Map<string, number>();
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
      const channel = draw(this.#channels);
      if (n % 5 === 0) await this.#read(channel, 'linearizable');
      else if (n % 5 === 1) await this.#read(channel, weak[Math.floor(n / 5) % weak.length] as Level);
      else await this.#append(channel, Math.random() < 0.5);
      await sleep(1 + Math.random() * pauseMaxMs);
    }
  }

  async #append(channel: Channel, conditional: boolean): Promise<void> {
    const { notes, name: process } = this;
    const id = `${process}/${channel.name}/${++this.#serial}`;
    const expectedHead = conditional ? (this.#heads.get(channel.name) ?? 0) : undefined;
    const condition = expectedHead === undefined ? {} : { condition: { expectedHeadSeq: expectedHead } };
    const end = notes.history.begin({ type: 'append', process, channel: channel.name, id, expectedHead });
    try {
      const { seq } = await channel.append({ role: 'user', text: id }, { timeoutMs, ...condition });
      end({ type: 'appended', seq });
      this.#heads.set(channel.name, seq);
      notes.acknowledged++;
    } catch (error) {
      if (!(error instanceof HansardError)) {
        notes.untyped(id, error);
        return end({ type: 'unknown', reason: 'untyped' });
      }
      const { reason } = error;
      if (leavesOpen(error)) {
        notes.unknown++;
        end({ type: 'unknown', reason });
      } else if (reason === 'CONDITION_FAILED') {
        const actualHead = Number(error.fields.actual);
        end({ type: 'refused', actualHead });
        this.#heads.set(channel.name, actualHead);
        notes.conflicts++;
      } else end({ type: 'failed', reason });
    }
  }

  async #read(from: Channel, level: Level): Promise<void> {
    const { notes, name: process } = this;
    const { name: channel } = from;
    const preference = draw(preferences);
    const bound = level === 'bounded' ? { boundMs } : {};
    const end = notes.history.begin({ type: 'read', process, channel, level, preference, ...bound });
    try {
      const staleness = level === 'bounded' ? { maxStalenessMs: boundMs } : {};
      const options = { before: newestCount, level, preference, timeoutMs, ...staleness };
      const page = await from.list(options).page();
      const { nodeId: node, role } = page.servedBy;
      end({ type: 'page', head: page.headSeq, newest: page.events.map(textOf), node, role });
      if (level === 'linearizable') this.#heads.set(channel, page.headSeq);
    } catch (error) {
      const reason = error instanceof HansardError ? error.reason : 'untyped';
      // A read that failed said nothing; but that there is no such channel says that it is empty.
      if (reason === 'CHANNEL_NOT_FOUND')
        end({ type: 'page', head: 0, newest: [], node: -1, role: 'unknown' });
      else end({ type: 'failed', reason });
      if (reason === 'untyped') notes.untyped(`${level} read of ${channel}`, error);
    }
  }
}

export function draw<T>(from: readonly T[]): T {
  return from[Math.floor(Math.random() * from.length)] as T;
}

/**
 * Judges all that was noted, once all is healed and every client has stopped. Where HANSARD_HISTORIES names a folder the
 * history is kept there under `name`.
 */
export async function judge(
  client: Client,
  channels: readonly string[],
  notes: Notes,
  name: string,
): Promise<Judgement> {
  const { history } = notes;
  const problems = [...notes.problems];
  for (const channel of channels) {
    const events = await readAll(client, channel);
    for (const [i, { seq }] of events.entries())
      if (seq !== i + 1) problems.push(`${channel}: seq ${seq} stands at place ${i + 1}`);
    history.content(channel, events.map(textOf));
  }
  const judgement = judgeChannelHistory(history.events);
  const unsure = judgement.unknown ? ['the checker took too long to say'] : [];
  const all = [...problems, ...judgement.problems, ...unsure];
  const folder = process.env.HANSARD_HISTORIES;
  if (folder !== undefined) {
    mkdirSync(folder, { recursive: true });
    writeFileSync(join(folder, `${name}-ok.jsonl`), history.lines);
  }
  return { ...judgement, problems: all };
}
