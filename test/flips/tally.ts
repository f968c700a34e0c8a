/**
 * A node of three is stopped, its files are damaged, and it is started again, over
 * and over, while the other two go on: it must refuse with a reason, become sound by
 * itself, or never have been harmed. Nobody is ever given wrong bytes; nothing that
 * was acknowledged is lost or there twice.
 */
import { cpSync, existsSync, readdirSync, renameSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import type { Client } from '../../src/client/index.js';
import { HansardError } from '../../src/common/errors.js';
import type { Failure } from '../api/harness.js';
import { Direct } from '../cluster/direct.js';
import { LocalCluster, type LocalNode } from '../support/local-cluster.js';
import { patienceMs, until } from '../support/until.js';
import { type Damage, type Draw, damage, drawFrom, namedDamages } from './damages.js';

export interface TallyOptions {
  readonly seed: number;
  /** Drawn ones; the named ones come before. */
  readonly damages: number;
  readonly named: boolean;
  /** Two things are changed before each start: what one of them alone would tell the other may take away. */
  readonly pairs?: boolean;
  /** At the end the whole folder of an earlier time is put in the node's place: what it has promised since is gone. */
  readonly olderFolder?: boolean;
  /** No new damage is begun behind it. */
  readonly untilMs: number;
  onTrial(trial: Trial): void;
}

/**
 * - `unharmed`: started, and all is as it should be; nobody noticed anything (unused bytes, a torn tail)
 * - `repaired`: started, noticed, and became sound by itself
 * - `refused`: did not start, with a reason of the catalogue
 * - `silent`: gave wrong bytes, or was said to be sound and is not. There must be none.
 * - `stuck`: started, and did not become sound in time
 */
export type Outcome = 'unharmed' | 'repaired' | 'refused' | 'silent' | 'stuck';

export interface Trial {
  readonly damage: Damage;
  readonly outcome: Outcome;
  /** Reason of a refusal, or what is wrong. */
  readonly detail: string;
}

export interface Tally {
  readonly trials: readonly Trial[];
  /** Read at the end from the whole cluster: what is not as it was acknowledged; empty: nothing. */
  readonly lost: readonly string[];
  readonly acknowledged: number;
}

const partitions = 4;
const channels = ['a', 'b', 'c', 'd', 'e', 'f'];
const segmentBytes = 1024 * 1024;
/** For a replica that must be fetched anew, on a busy machine. */
const soundMs = 60_000;

export async function tally(options: TallyOptions): Promise<Tally> {
  const cluster = await LocalCluster.format({
    partitions,
    segmentBytes,
    settings: { checkpointAge: '1s', diskReserve: '0B' },
  });
  try {
    return await new Trials(cluster, options).run();
  } finally {
    await cluster.end();
  }
}

class Trials {
  readonly #draw: Draw;
  readonly #expected = new Map(channels.map((name) => [name, [] as string[]]));
  readonly #client: Client;
  readonly #victim: LocalNode;
  readonly #base: string;
  readonly #older: string;
  readonly #trials: Trial[] = [];

  constructor(
    readonly cluster: LocalCluster,
    readonly options: TallyOptions,
  ) {
    this.#draw = drawFrom(options.seed);
    this.#victim = cluster.node(3);
    this.#base = join(cluster.root, 'base');
    this.#older = join(cluster.root, 'older');
    this.#client = cluster.connect();
  }

  async run(): Promise<Tally> {
    await this.cluster.startAll();
    for (let i = 0; i < 6; i++) await this.#write(20);
    const named = this.options.named ? Object.entries(namedDamages) : [];
    for (const [, make] of named) await this.#trial(async (dir) => make(dir));
    for (let i = 0; i < this.options.damages && Date.now() < this.options.untilMs; i++) {
      await this.#trial((dir) => this.#damage(dir));
    }
    if (this.options.olderFolder === true && existsSync(this.#older)) {
      await this.#trial(async (dir) => {
        rmSync(dir, { recursive: true });
        cpSync(this.#older, dir, { recursive: true });
        return { how: 'older', kind: 'whole folder', where: 'all of it of an earlier time' };
      });
    }
    return { trials: this.#trials, lost: await this.#lost(), acknowledged: this.#count() };
  }

  async #damage(dir: string): Promise<Damage | undefined> {
    const one = (): Promise<Damage | undefined> =>
      damage(dir, existsSync(this.#older) ? this.#older : undefined, this.#draw);
    const first = await one();
    if (this.options.pairs !== true) return first;
    const second = await one();
    if (first === undefined || second === undefined) return first ?? second;
    const kind = [first, second]
      .map((each) => `${each.how} ${each.kind}`)
      .sort()
      .join(', ');
    return { how: 'pair', kind, where: `${first.where}; ${second.where}` };
  }

  /** Each is acknowledged before the next damage. */
  async #write(count: number): Promise<void> {
    for (const name of channels) {
      const texts = this.#expected.get(name) as string[];
      const more = Array.from(
        { length: count },
        (_, i) => `${name} ${texts.length + i} ${'x'.repeat(this.#draw(200))}`,
      );
      await this.#client.channel(name).append(
        more.map((text) => ({ role: 'user' as const, text })),
        { timeoutMs: patienceMs },
      );
      texts.push(...more);
    }
  }

  async #trial(change: (dir: string) => Promise<Damage | undefined>): Promise<void> {
    const victim = this.#victim;
    // Sealed, or as a crash leaves it: with all of it in the log.
    await this.cluster.stop(victim, this.#draw(2) === 0 ? 'stop' : 'halt');
    rmSync(this.#base, { recursive: true, force: true });
    cpSync(victim.dir, this.#base, { recursive: true });
    for (const name of readdirSync(victim.dir)) {
      if (name.includes('.damaged-')) rmSync(join(victim.dir, name), { recursive: true });
    }
    const done = await change(victim.dir);
    if (done !== undefined) {
      const trial = await this.#outcome(done);
      this.#trials.push(trial);
      this.options.onTrial(trial);
    }
    if (this.#trials.at(-1)?.damage.kind === 'whole folder') return;
    if (victim.door === undefined) {
      // It never ran on what was damaged, so its own folder of before is not an old one.
      rmSync(victim.dir, { recursive: true, force: true });
      renameSync(this.#base, victim.dir);
      await this.cluster.start(victim);
      await this.cluster.ready([victim]);
    } else if (!existsSync(this.#older)) cpSync(this.#base, this.#older, { recursive: true });
    await this.#write(1 + this.#draw(5));
  }

  async #outcome(done: Damage): Promise<Trial> {
    const victim = this.#victim;
    const is = (outcome: Outcome, detail = ''): Trial => ({ damage: done, outcome, detail });
    try {
      await this.cluster.start(victim);
    } catch (error) {
      if (error instanceof HansardError && error.reason !== 'INTERNAL') return is('refused', error.reason);
      return is(
        'silent',
        `an error that is none of the catalogue: ${error instanceof Error ? error.stack : error}`,
      );
    }
    // Damaged or not: what it answers must be right.
    const early = await this.#wrongAt(victim, false);
    if (early !== undefined) return is('silent', early);
    const sound = await until(
      'sound',
      () => victim.failure !== undefined || this.#isSound(victim),
      soundMs,
    ).catch(() => false);
    if (victim.failure !== undefined) return this.#ended(is);
    if (sound === false) return is('stuck', this.#state(victim));
    // What nobody has read yet the scrubber finds.
    await this.#scrub(victim);
    if (victim.failure !== undefined) return this.#ended(is);
    if (!this.#isSound(victim)) {
      const isSound = (): boolean => victim.failure !== undefined || this.#isSound(victim);
      if (!(await until('sound', isSound, soundMs).catch(() => false)))
        return is('stuck', this.#state(victim));
      if (victim.failure !== undefined) return this.#ended(is);
    }
    const wrong = (await this.#wrongAt(victim, true)) ?? (await this.#differing(victim));
    if (wrong !== undefined) return is('silent', wrong);
    const repaired = victim.door?.running.node.repaired ?? 0;
    return is(repaired > 0 || victim.errors.length > 0 ? 'repaired' : 'unharmed');
  }

  /** It ran, and ended by itself; the next start must be a clean one, or none at all. */
  async #ended(is: (outcome: Outcome, detail: string) => Trial): Promise<Trial> {
    const victim = this.#victim;
    const { failure } = victim;
    const why = failure instanceof Error ? failure.message : String(failure);
    if (!(failure instanceof HansardError)) return is('silent', `ended by ${why}`);
    await this.cluster.stop(victim, 'halt');
    try {
      await this.cluster.start(victim);
      await until('sound', () => victim.failure !== undefined || this.#isSound(victim), soundMs);
      if (victim.failure !== undefined) throw victim.failure;
      const wrong = (await this.#wrongAt(victim, true)) ?? (await this.#differing(victim));
      return wrong === undefined ? is('repaired', `by a second start: ${why}`) : is('silent', wrong);
    } catch (error) {
      // Ended with its reason, and again: as good as a refusal.
      if (victim.failure instanceof HansardError && victim.failure.reason === failure.reason)
        return is('refused', why);
      return is('stuck', `ended (${why}), and then ${error instanceof Error ? error.message : error}`);
    }
  }

  async #scrub(node: LocalNode): Promise<void> {
    const scrubber = node.door?.running.node.scrubber;
    scrubber?.scrubNow(0);
    await until('the pass ends', () => node.failure !== undefined || scrubber?.status().state !== 'working');
  }

  #isSound(node: LocalNode): boolean {
    const { door } = node;
    if (door === undefined) return false;
    const at = door.running.node;
    if (at.faults().some(({ nodeId }) => nodeId === node.id)) return false;
    const replicas = at.replicas();
    if (replicas.length !== partitions || !replicas.every((replica) => replica.isInitialised)) return false;
    // As far as the others are.
    return replicas.every((replica) =>
      this.cluster.nodes
        .filter((other) => other !== node)
        .every((other) => {
          const theirs = other.door?.running.node
            .replicas()
            .find((each) => each.partition === replica.partition);
          return theirs !== undefined && replica.appliedIndex >= theirs.commitIndex && theirs.commitIndex > 0;
        }),
    );
  }

  #state(node: LocalNode): string {
    const at = node.door?.running.node;
    const replicas = at
      ?.replicas()
      .map(
        (replica) =>
          `${replica.partition}: applied ${replica.appliedIndex} of ${replica.commitIndex}, term ${replica.term}`,
      );
    const others = this.cluster
      .node(1)
      .door?.running.node.replicas()
      .map((replica) => `${replica.partition}: ${replica.commitIndex}`);
    return `${replicas?.join('; ')} (node 1: ${others?.join('; ')}); faults ${JSON.stringify(at?.faults())}; ${node.errors.join('; ')}`.slice(
      0,
      1500,
    );
  }

  /** What the node itself answers and is not what was acknowledged; `all`: it must have all of it. */
  async #wrongAt(node: LocalNode, all: boolean): Promise<string | undefined> {
    // Not by the SDK, which asks whichever node is near: another may answer with less, and rightly.
    const direct = new Direct(node.clientAddress);
    try {
      for (const [name, texts] of this.#expected) {
        const problem = await this.#wrongCopy(direct, node, name, texts, all);
        if (problem !== undefined) return problem;
      }
      return undefined;
    } finally {
      direct.close();
    }
  }

  async #wrongCopy(
    direct: Direct,
    node: LocalNode,
    name: string,
    texts: readonly string[],
    all: boolean,
  ): Promise<string | undefined> {
    try {
      const { events, servedBy } = await direct.copy(name);
      if (all && servedBy.some((id) => id !== node.id)) return `${name}: answered by nodes ${servedBy}`;
      const read = events.map(({ seq, message }) => ({
        seq: Number(seq),
        text: message?.parts?.[0]?.text?.text ?? '',
      }));
      return wrongAmong(name, read, texts, all);
    } catch (error) {
      // Said to be unable: no wrong answer.
      const reason = (error as Failure).error?.reason;
      return reason === undefined || (reason === 'CHANNEL_NOT_FOUND' && all)
        ? `${name}: ${reason ?? (error as Failure).message}`
        : undefined;
    }
  }

  async #differing(node: LocalNode): Promise<string | undefined> {
    for (let partition = 0; partition < partitions; partition++) {
      const at = async (of: LocalNode) => of.door?.running.store.partition(partition).digestAt();
      const [mine, theirs] = await Promise.all([at(node), at(this.cluster.node(1))]);
      if (mine?.appliedIndex === theirs?.appliedIndex && mine?.digest !== theirs?.digest) {
        return `partition ${partition} at ${mine?.appliedIndex}: digest ${mine?.digest}, node 1 has ${theirs?.digest}`;
      }
    }
    return undefined;
  }

  async #lost(): Promise<string[]> {
    const lost: string[] = [];
    for (const [name, texts] of this.#expected) {
      const problem = await wrongIn(this.#client, name, texts);
      if (problem !== undefined) lost.push(problem);
    }
    return lost;
  }

  #count(): number {
    return [...this.#expected.values()].reduce((sum, texts) => sum + texts.length, 0);
  }
}

async function wrongIn(client: Client, name: string, texts: readonly string[]): Promise<string | undefined> {
  const read: { seq: number; text: string }[] = [];
  for await (const { seq, message } of client.channel(name).list({ level: 'linearizable', after: 1_000 })) {
    const part = message?.parts?.[0];
    read.push({ seq, text: part?.type === 'text' ? part.text : '' });
  }
  return wrongAmong(name, read, texts, true);
}

function wrongAmong(
  name: string,
  read: readonly { readonly seq: number; readonly text: string }[],
  texts: readonly string[],
  all: boolean,
): string | undefined {
  for (const [i, { seq, text }] of read.entries()) {
    if (seq !== i + 1) return `${name}: event ${seq} follows ${i}`;
    if (text !== texts[i])
      return `${name}: event ${seq} is "${text.slice(0, 40)}", not "${texts[i]?.slice(0, 40)}"`;
  }
  return all && read.length < texts.length
    ? `${name}: ${read.length} of ${texts.length} events are there`
    : undefined;
}

export function tallyText({ trials, lost, acknowledged }: Tally): string {
  const kinds = [...new Set(trials.map(({ damage: { how, kind } }) => `${how} ${kind}`))].sort();
  const nameWidth = Math.max(24, ...kinds.map((kind) => kind.length + 2));
  const outcomes: readonly Outcome[] = ['unharmed', 'repaired', 'refused', 'stuck', 'silent'];
  const count = (name: string, outcome: Outcome): number =>
    trials.filter(
      (trial) =>
        trial.outcome === outcome && (name === '' || `${trial.damage.how} ${trial.damage.kind}` === name),
    ).length;
  const line = (name: string, title: string): string =>
    `${title.padEnd(nameWidth)}${outcomes.map((outcome) => String(count(name, outcome)).padStart(10)).join('')}`;
  return [
    `${''.padEnd(nameWidth)}${outcomes.map((outcome) => outcome.padStart(10)).join('')}`,
    ...kinds.map((kind) => line(kind, kind)),
    line('', 'all'),
    `${trials.length} damages; ${acknowledged} messages acknowledged, ${lost.length === 0 ? 'all of them there once' : `WRONG: ${lost.join('; ')}`}`,
  ].join('\n');
}
