/**
 * A random life of a durable subscription: leaders change, answers to steps are lost, streams break, consumers are
 * killed, handlers fail, letters die and are replayed, places are set back, and some of it at once. Whatever happens, of each channel no event is handled before the one in front of
 * it was, none is passed over, and nothing counts as acknowledged that nobody handled.
 *
 * SEED=n repeats one life's draws (not its timing), ROUNDS=n makes more of them (`npm run lives`).
 */
import t from 'tap';
import { type Client, connect, RetryLater, type WorkItem } from '../../src/client/index.js';
import type { SubscriptionWorker } from '../../src/client/subscription-worker.js';
import { ByteReader } from '../../src/common/bytes.js';
import { HansardError } from '../../src/common/errors.js';
import {
  decodeSubscriptionCommand,
  SubscriptionCommandKind,
} from '../../src/conversation/subscription-command.js';
import type { ProposeOptions, ProposeResult } from '../../src/node/types.js';
import { SimRandom } from '../sim/sim-clock.js';
import { sleep, until } from '../support/until.js';
import { type Door, Doors } from './doors.js';

t.setTimeout(600_000);

const channelCount = 6;
const disturbances = 25;
/** Of calls that are not what is tried here, on a busy machine. */
const timeoutMs = 60_000;

/** What was handled, and what must hold of it. */
class Done {
  readonly problems: string[] = [];
  readonly #handled = new Set<string>();
  /** Events that became dead letters and were not handled since: what is behind them goes on. */
  readonly #dead = new Set<string>();
  readonly #upTo = new Map<string, number>();

  /** All up to here is handled or dead. */
  upTo(channel: string): number {
    let seq = this.#upTo.get(channel) ?? 0;
    while (this.#isOver(channel, seq + 1)) seq++;
    this.#upTo.set(channel, seq);
    return seq;
  }

  get dead(): number {
    return this.#dead.size;
  }

  #isOver(channel: string, seq: number): boolean {
    return this.#handled.has(`${channel} ${seq}`) || this.#dead.has(`${channel} ${seq}`);
  }

  begin({ channel, event }: WorkItem): void {
    const last = this.upTo(channel);
    if (event.seq > last + 1)
      this.problems.push(`${channel} ${event.seq} came, and ${last + 1} was not handled`);
  }

  end({ channel, event }: WorkItem): void {
    this.#handled.add(`${channel} ${event.seq}`);
    this.#dead.delete(`${channel} ${event.seq}`);
  }

  acknowledged(channel: string, seq: number): void {
    if (seq > this.upTo(channel))
      this.problems.push(`${channel} ${seq} is acknowledged, and was not handled`);
  }

  died(channel: string, seq: number): void {
    if (!this.#handled.has(`${channel} ${seq}`)) this.#dead.add(`${channel} ${seq}`);
  }
}

/** Loses, delays or doubts steps of subscriptions; what is done of them is held against what was handled. */
class Faults {
  isOn = true;
  readonly counts = { steps: 0, lost: 0, doubted: 0, late: 0, slow: 0 };

  constructor(
    readonly random: SimRandom,
    readonly done: Done,
  ) {}

  on(door: Door): void {
    const propose = door.propose.bind(door);
    door.propose = async (partition, command, options) => {
      if (command[0] !== SubscriptionCommandKind.stepSubscription)
        return propose(partition, command, options);
      this.counts.steps++;
      const apply = () => this.#applied(command, propose(partition, command, options));
      return this.isOn ? this.#faulty(door, apply, options) : apply();
    };
  }

  async #faulty(
    door: Door,
    apply: () => Promise<ProposeResult>,
    { deadlineMs }: ProposeOptions,
  ): Promise<ProposeResult> {
    const unknown = new HansardError('COMMIT_UNKNOWN', 'drawn');
    const drawn = this.random.below(100);
    if (door.leader !== door.identity.nodeId) throw unknown;
    if (drawn < 4) {
      this.counts.lost++;
      const refused = [
        unknown,
        new HansardError('OVERLOADED', 'drawn'),
        new HansardError('DISK_FULL', 'drawn'),
      ];
      throw refused[drawn] ?? new HansardError('NO_QUORUM', 'drawn');
    }
    if (drawn < 8) {
      this.counts.doubted++;
      await apply();
      throw unknown;
    }
    if (drawn < 12) {
      this.counts.late++;
      // It is still on its way when its proposer has given up.
      setTimeout(() => void apply().catch(() => undefined), this.random.below(600));
      throw unknown;
    }
    if (drawn < 40) {
      this.counts.slow++;
      await sleep(this.random.below(20));
      if (deadlineMs <= door.monotonicMs()) throw unknown;
    }
    return apply();
  }

  async #applied(command: Uint8Array, result: Promise<ProposeResult>): Promise<ProposeResult> {
    const { answer } = await result;
    if (answer.kind !== 'stepped') return result;
    const step = decodeSubscriptionCommand(command[0] as number, new ByteReader(command.subarray(1)));
    if (step.kind !== 'stepSubscription') return result;
    for (const [i, op] of step.ops.entries()) {
      if (answer.results[i] === 0) continue;
      if (op.kind === 'ack') this.done.acknowledged(op.channel, op.seq);
      else if (op.kind === 'bury') this.done.died(op.channel, op.seq);
    }
    return result;
  }
}

interface Worker {
  readonly client: Client;
  readonly worker: SubscriptionWorker;
  /** Its handlers do nothing any more. */
  kill(): void;
}

class Life {
  readonly done = new Done();
  readonly random: SimRandom;
  readonly faults: Faults;
  readonly doors = new Doors(2);
  readonly heads = new Map<string, number>();
  readonly events: string[] = [];
  readonly #workers = new Map<string, Worker>();
  #made = 0;
  #client: Client | undefined;

  constructor(
    seed: number,
    readonly textBytes: number,
    /** 0: whatever fails is tried again without end. */
    readonly maxDeliveries: number,
  ) {
    this.random = new SimRandom(seed);
    this.faults = new Faults(this.random, this.done);
  }

  async start(): Promise<void> {
    for (const door of this.doors.nodes) {
      // Deadlines and delays pass.
      door.nowUs = () => Math.floor((performance.timeOrigin + performance.now()) * 1_000);
      await door.open();
      this.faults.on(door);
    }
    this.#client = this.connect();
    await this.subscription.create({
      prefix: 'c',
      fromBeginning: true,
      maxDeliveries: this.maxDeliveries,
      retryDelayMs: 20,
      ackDeadlineMs: 1_000,
      maxPendingChannels: 1 + this.random.below(8),
    });
  }

  connect(): Client {
    return connect(`hansard://${this.doors.endpoints}`);
  }

  get client(): Client {
    return this.#client as Client;
  }

  get subscription() {
    return this.client.subscription('w');
  }

  async write(): Promise<void> {
    const channel = `c${this.random.below(channelCount)}`;
    const count = 1 + this.random.below(this.random.below(10) === 0 ? 60 : 10);
    const text = 'x'.repeat(this.random.below(this.textBytes) + 1);
    this.heads.set(channel, (this.heads.get(channel) ?? 0) + count);
    await this.client.channel(channel).append(
      Array.from({ length: count }, () => ({ text })),
      {
        timeoutMs,
      },
    );
  }

  work(id = `worker-${++this.#made}`): void {
    const client = this.connect();
    let isKilled = false;
    const handler = async (item: WorkItem): Promise<void> => {
      if (isKilled) return new Promise(() => undefined);
      this.done.begin(item);
      if (this.random.below(4) === 0) await sleep(this.random.below(8));
      if (this.random.below(400) === 0) await sleep(1_500);
      if (isKilled) return new Promise(() => undefined);
      const drawn = this.faults.isOn ? this.random.below(60) : 60;
      if (drawn === 0) throw new Error('drawn');
      if (drawn === 1) throw new RetryLater(30);
      this.done.end(item);
    };
    const worker = client.subscription('w').consume({
      consumerId: id,
      concurrency: 1 + this.random.below(4),
      creditEvents: 1 + this.random.below(60),
      maxBatch: 1 + this.random.below(50),
      timeoutMs,
      handler,
    });
    worker.done.catch((error) => {
      if (!isKilled) this.done.problems.push(`${id} ended: ${error}`);
    });
    const kill = (): void => {
      isKilled = true;
    };
    this.#workers.set(id, { worker, client, kill });
  }

  /** As a process that is killed: what it was about to do is never heard of. */
  kill(): void {
    const id = [...this.#workers.keys()][this.random.below(this.#workers.size)];
    const known = this.#workers.get(id ?? '');
    if (id === undefined || known === undefined) return;
    this.#workers.delete(id);
    known.kill();
    void known.client.close();
    // The same name may come again at once.
    this.work(this.random.chance(0.5) ? id : undefined);
  }

  async stopOne(): Promise<void> {
    const [first] = this.#workers;
    if (first === undefined) return;
    const [id, { worker, client }] = first;
    this.#workers.delete(id);
    await worker.stop({ timeoutMs: 100 });
    await client.close();
    this.work();
  }

  async disturb(): Promise<void> {
    const drawn = this.random.below(14);
    const note = (what: string) => this.events.push(what);
    if (drawn < 3) {
      const next = 1 + this.random.below(2);
      note(`lead ${next}`);
      this.doors.lead(next);
    } else if (drawn < 5) {
      note('kill');
      this.kill();
    } else if (drawn === 5) {
      note('stop');
      await this.stopOne();
    } else if (drawn === 6) {
      note('pause');
      await this.subscription.update({ paused: true, timeoutMs });
      await sleep(this.random.below(50));
      await this.subscription.update({ paused: false, timeoutMs });
    } else if (drawn === 7) {
      note('settings');
      await this.subscription.update({ maxPendingChannels: 1 + this.random.below(8), timeoutMs });
    } else if (drawn === 12) {
      note('seek');
      // In the midst of leases; all of it comes again.
      await this.subscription.seek({ fromBeginning: true, timeoutMs });
    } else if (drawn === 13) {
      note('replay');
      await this.subscription.replayDeadLetters([], { timeoutMs });
    } else if (drawn === 8) {
      const door = this.doors.nodes[1] as Door;
      note('door');
      this.doors.lead(1);
      await door.kill();
      await sleep(this.random.below(100));
      await door.open();
    } else await sleep(this.random.below(150));
  }

  async end(): Promise<void> {
    this.faults.isOn = false;
    await this.subscription.update({ paused: false, maxPendingChannels: 100, timeoutMs });
    let last: unknown;
    try {
      await until('the end of it', async () => {
        if (this.done.problems.length > 0) return true;
        const { progress } = await this.subscription.info({ timeoutMs });
        last = progress;
        if (progress.deadLetters > 0) await this.subscription.replayDeadLetters([], { timeoutMs });
        return progress.pendingChannels + progress.deadLetters === 0 && progress.caughtUp;
      });
    } catch (error) {
      throw new Error(`${error}: ${JSON.stringify(last)}; ${this.events.join(', ')}`);
    }
  }

  async close(): Promise<void> {
    for (const { worker, client } of this.#workers.values()) {
      await worker.stop({ timeoutMs: 10 }).catch(() => undefined);
      await client.close();
    }
    await this.#client?.close();
    for (const door of this.doors.nodes) await door.kill();
  }
}

const firstSeed = Number(process.env.SEED ?? 1);
const rounds = Number(process.env.ROUNDS ?? 2);
for (let seed = firstSeed; seed < firstSeed + rounds; seed++) {
  t.test(`life ${seed}`, async (t) => {
    const life = new Life(seed, seed % 3 === 0 ? 60_000 : 50, seed % 2 === 0 ? 2 : 0);
    t.teardown(() => life.close());
    await life.start();
    for (let i = 0; i < 3; i++) life.work();
    let isOver = false;
    const writing = (async () => {
      while (!isOver) {
        await life.write();
        await sleep(life.random.below(10));
      }
    })();
    for (let i = 0; i < disturbances; i++) {
      await life.disturb();
      await sleep(life.random.below(120));
    }
    isOver = true;
    await writing;
    await life.end();
    t.same(life.done.problems, [], `${life.events.join(', ')}; ${JSON.stringify(life.faults.counts)}`);
    t.equal(life.done.dead, 0, 'dead letters were handled when they came again');
    for (const [channel, head] of life.heads) t.equal(life.done.upTo(channel), head, `${channel} is whole`);
  });
}
