/**
 * One seed: load with faults, then healing, then the checks. The same seed gives
 * the same history, byte for byte.
 */
import { HansardError } from '../../src/common/errors.js';
import type { Replica } from '../../src/partition/replica.js';
import { ChannelRecorder } from '../linearizability/recorder.js';
import type { Lulls } from './callers.js';
import { type ClientWorld, SimClient } from './client.js';
import { type Mutant, SimCluster } from './cluster.js';
import { contentOf } from './content.js';
import { drawKinds, type FaultKind, Faults } from './faults.js';
import { checkFollowing } from './follow.js';
import { History } from './history.js';
import { JudgedClient } from './judged.js';
import { checkLiveness } from './liveness.js';
import { SimMembership } from './membership.js';
import { SimReader } from './reader.js';
import { Deliveries, SimRecipient } from './recipient.js';
import { SimRandom } from './sim-clock.js';
import { checkReceived, type Received, SimSubscriber } from './subscriber.js';
import { SimWeakReader } from './weak-reader.js';

export interface SimResult {
  readonly seed: number;
  readonly violations: string[];
  readonly acknowledged: number;
  readonly crashes: number;
  /** Logs, databases and records of faults of a node that lost or changed what was synced. */
  readonly damages: number;
  /** Digests at one index that were compared along the way. */
  readonly digestsCompared: number;
  /** Snapshots that nodes took in. */
  readonly snapshots: number;
  /** Changes of members that took effect, by what they were. */
  readonly memberChanges: Readonly<Record<string, number>>;
  /** Of each client of the weaker levels: answers that it had, and its batches. */
  readonly weakReads: readonly { session: number; bounded: number; batches: number }[];
  /** Of each who worked on the durable subscription. */
  readonly subscribed: readonly { steps: number; refused: number; received: number; buried: number }[];
  /** Of each who reports deliveries and moves read cursors. */
  readonly delivered: readonly { reports: number; moves: number; reads: number; bySession: number }[];
  readonly simulatedMs: number;
  readonly trace: readonly string[];
  /** Two runs of a seed must agree on it. */
  readonly fingerprint: string;
}

export interface SimOptions {
  readonly seed: number;
  readonly nodes?: number;
  /** Load with faults, simulated ms. */
  readonly faultMs?: number;
  /** Only these kinds of fault; absent: what the seed draws. */
  readonly faults?: readonly FaultKind[];
  /** A planted bug that the checks must find. */
  readonly mutant?: Mutant;
  /** Logs so small that snapshots happen all the time; absent: what the seed draws. */
  readonly smallLogs?: boolean;
  /** Five nodes of which each partition has three, and members that change all the time. */
  readonly membership?: boolean;
  /** One node's log and database are damaged again and again, beside what the seed draws. */
  readonly damage?: boolean;
  /** Clients of the weaker read levels and of batches beside the others. */
  readonly reads?: boolean;
  /** Two who work on one durable subscription beside the others. */
  readonly subscriptions?: boolean;
  /** Two who report deliveries and move read cursors beside the others. */
  readonly deliveries?: boolean;
}

/** Those whose every operation is judged by the linearizability checker. */
const judgedNames = ['judged-1', 'judged-2'];
const channelNames = ['a', 'b', 'c', 'd', 'shared', 'gone', ...judgedNames];

/** With `damage`: as many faults of a run as several kinds have. */
const damagedOften: readonly FaultKind[] = ['kvDamage', 'logDamage', 'logDamage', 'logDamage'];

/** Keeps what a seed draws first apart from what its cluster draws. */
const kindsSalt = 0x5eed;
/** Everything must have settled by then once nothing breaks any more, simulated ms. */
const healMs = 60_000;

export async function runSeed(options: SimOptions): Promise<SimResult> {
  const run = new SeedRun(options);
  return run.run();
}

class SeedRun {
  readonly #cluster: SimCluster;
  readonly #history = new History();
  readonly #recorder = new ChannelRecorder();
  readonly #faultMs: number;
  readonly #faults: Faults;
  readonly #membership: SimMembership | undefined;
  readonly #weakReaders: SimWeakReader[] = [];
  readonly #reads: boolean;
  readonly #subscribers: SimSubscriber[] = [];
  readonly #received: Received = new Map();
  readonly #subscribes: boolean;
  readonly #recipients: SimRecipient[] = [];
  readonly #deliveries = new Deliveries();
  readonly #delivers: boolean;
  readonly #seed: number;

  constructor(options: SimOptions) {
    this.#seed = options.seed;
    this.#reads = options.reads ?? false;
    this.#subscribes = options.subscriptions ?? false;
    this.#delivers = options.deliveries ?? false;
    this.#faultMs = options.faultMs ?? 10_000;
    const drawn = options.faults ?? drawKinds(new SimRandom(options.seed ^ kindsSalt));
    const kinds = options.damage ? [...drawn.filter((kind) => kind !== 'lostDisk'), ...damagedOften] : drawn;
    const hasMembers = options.membership ?? kinds.includes('members');
    // Then every partition must have a majority without any one of its voters.
    const mayLose = options.damage || kinds.includes('lostDisk');
    this.#cluster = new SimCluster({
      seed: options.seed,
      nodes: options.nodes ?? (hasMembers ? 5 : 3),
      partitions: 3,
      history: this.#history,
      mutant: options.mutant,
      smallLogs: options.smallLogs ?? options.seed % 3 === 0,
      drift: kinds.includes('drift'),
      oldestApplyVersion: this.#subscribes || this.#delivers ? 4 : this.#reads ? 3 : 2,
    });
    this.#cluster.callers.lulls = (['none', 'all', 'one', 'one'] as const)[options.seed % 4] as Lulls;
    this.#cluster.log(`faults: ${kinds.join(' ')}; apply version ${this.#cluster.upgrade.from}`);
    this.#membership = hasMembers ? new SimMembership(this.#cluster, mayLose) : undefined;
    this.#faults = new Faults(this.#cluster, kinds, this.#membership, options.damage ?? !hasMembers);
  }

  async run(): Promise<SimResult> {
    const { clock, nodes, violations } = this.#cluster;
    for (const node of nodes) node.start();
    await clock.run(3_000);
    const clients = [...this.#startClients(), ...this.#startReaders(), ...this.#startJudged()];
    if (this.#reads) this.#startWeakReaders();
    if (this.#subscribes) this.#startSubscribers();
    if (this.#delivers) this.#startRecipients();
    const all = [...clients, ...this.#weakReaders, ...this.#subscribers, ...this.#recipients];
    this.#cluster.upgrade.start();
    await this.#faults.run(this.#faultMs);
    // A broken promise ends the run: what follows from it would only hide it.
    if (violations.length > 0) return this.#result();
    await this.#heal();
    const stopping = Promise.all(all.map((one) => one.stop()));
    let stopped = false;
    stopping.then(
      () => {
        stopped = true;
      },
      (error) => this.#violation('a client failed', error),
    );
    if (!(await clock.until(() => stopped, healMs)))
      violations.push('liveness: calls did not end after healing');
    await this.#becomeSound();
    await this.#settle();
    if (!(await clock.until(() => this.#cluster.upgrade.isDone, healMs)))
      violations.push('liveness: the apply version was not raised in all partitions');
    if (violations.length === 0) await this.#drain();
    if (this.#membership !== undefined && violations.length === 0) await this.#move(this.#membership);
    if (violations.length === 0) await this.#check();
    return this.#result();
  }

  #result(): SimResult {
    const { clock, violations } = this.#cluster;
    return {
      seed: this.#seed,
      violations,
      acknowledged: this.#history.acknowledged.length,
      crashes: this.#faults.crashes,
      damages: this.#faults.damages,
      digestsCompared: this.#cluster.digestsCompared,
      snapshots: this.#cluster.nodes.reduce((sum, node) => sum + node.snapshots, 0),
      memberChanges: Object.fromEntries(this.#membership?.outcomes ?? []),
      subscribed: this.#subscribers.map(({ counts }) => ({ ...counts })),
      delivered: this.#recipients.map(({ counts }) => ({ ...counts })),
      weakReads: this.#weakReaders.map(({ counts }) => ({ ...counts })),
      simulatedMs: clock.monotonicMs(),
      trace: this.#history.trace,
      fingerprint: `${this.#history.lines}/${this.#history.acknowledged.length}/${clock.monotonicMs()}`,
    };
  }

  #clientWorld(): ClientWorld {
    const { clock, random, options, callers } = this.#cluster;
    return {
      clock,
      random,
      history: this.#history,
      callers,
      partitionCount: options.partitions,
      leaderOf: (partition: number) => this.#cluster.anyLeaderOf(partition),
      partitionOf: (channel: string) => this.#cluster.partitionOf(channel),
    };
  }

  #startClients(): SimClient[] {
    const world = this.#clientWorld();
    return [
      new SimClient('p1', 'producer', ['a', 'b', 'shared'], 8, world),
      new SimClient('p2', 'producer', ['c', 'shared'], 3, world),
      new SimClient('k1', 'keys', ['d', 'shared'], 4, world),
      new SimClient('x1', 'deleter', ['gone'], 3, world),
    ];
  }

  #startJudged(): JudgedClient[] {
    const { nodes, random } = this.#cluster;
    const world = {
      ...this.#clientWorld(),
      recorder: this.#recorder,
      anyNode: () => nodes[random.below(nodes.length)]?.node,
      level: this.#readLevel(),
    };
    return ['j1', 'j2', 'j3', 'j4'].map((name) => new JudgedClient(name, judgedNames, world));
  }

  #readLevel(): 'linearizable' | 'eventual' {
    return this.#cluster.options.mutant === 'unasked-reads' ? 'eventual' : 'linearizable';
  }

  #startReaders(): SimReader[] {
    const { clock, random, violations, nodes, callers } = this.#cluster;
    const world = {
      clock,
      callers,
      leaderOf: (partition: number) => this.#cluster.anyLeaderOf(partition),
      random,
      violations,
      history: this.#history,
      partitionOf: (channel: string) => this.#cluster.partitionOf(channel),
      anyNode: () => nodes[random.below(nodes.length)]?.node,
      level: this.#readLevel(),
    };
    // A deleted channel has no head to compare; its texts are looked at in the end.
    const names = channelNames.filter((name) => name !== 'gone');
    return (['any', 'any', 'loyal'] as const).map((kind) => new SimReader(kind, names, world));
  }

  /** For those with randomness of their own: whatever else happens stays as it is without them, as far as it can. */
  #ownWorld() {
    const { nodes, violations } = this.#cluster;
    return {
      ...this.#clientWorld(),
      violations,
      anyNode: (random: SimRandom) => nodes[random.below(nodes.length)]?.node,
    };
  }

  #startWeakReaders(): void {
    const world = this.#ownWorld();
    const names = channelNames.filter((name) => name !== 'gone');
    for (const i of [1, 2])
      this.#weakReaders.push(new SimWeakReader(`weak-${i}`, names, world, this.#seed * 1_000 + i));
  }

  #startSubscribers(): void {
    const world = this.#ownWorld();
    for (const i of [1, 2])
      this.#subscribers.push(new SimSubscriber(`worker-${i}`, this.#received, world, this.#seed * 2_000 + i));
  }

  #startRecipients(): void {
    const world = this.#ownWorld();
    const names = channelNames.filter((name) => name !== 'gone');
    for (const i of [1, 2]) {
      const seed = this.#seed * 3_000 + i;
      this.#recipients.push(new SimRecipient(`recipient-${i}`, names, this.#deliveries, world, seed));
    }
  }

  /** With nothing in the way one of them comes to the end of all that is there. */
  async #drain(): Promise<void> {
    const [last] = this.#subscribers;
    if (last === undefined) return;
    const { clock, violations } = this.#cluster;
    const endMs = clock.monotonicMs() + healMs;
    for (let isDone = false; !isDone; ) {
      isDone = await this.#wait(last.step(true));
      if (!isDone) await this.#cluster.pass(20);
      if (clock.monotonicMs() > endMs) {
        violations.push(`liveness: the durable subscription does not come to an end: ${last.lastSeen}`);
        return;
      }
    }
  }

  /** With nothing in the way a replica of each partition moves; and who was removed is gone from its node. */
  async #move(membership: SimMembership): Promise<void> {
    const moved = new Map<number, { replicaId: number; nodeId: number }>();
    // A leader that is to go needs an heir, and a node whose clock is ahead is none.
    for (const node of this.#cluster.nodes) node.clock.offsetUs = 0;
    await this.#cluster.pass(5_000);
    const endMs = this.#cluster.clock.monotonicMs() + healMs;
    let isDone = false;
    while (!isDone && this.#cluster.clock.monotonicMs() < endMs) {
      isDone = membership.moveOne(moved);
      await this.#cluster.pass(500);
    }
    if (!isDone) this.#cluster.violations.push(`liveness: replicas do not move: ${this.#places()}`);
    const isTidy = (): boolean => {
      for (let partition = 0; partition < this.#cluster.options.partitions; partition++) {
        const members = this.#membersOf(partition);
        if (members === undefined) return false;
        const here = this.#cluster.nodes.flatMap(({ node }) => node?.replicas() ?? []);
        for (const replica of here) {
          if (replica.partition !== partition || !replica.isInitialised) continue;
          if (!members.includes(replica.replicaId) || replica.conf.votersOutgoing.length > 0) return false;
        }
      }
      return true;
    };
    if (!(await this.#cluster.clock.until(isTidy, healMs)))
      this.#cluster.violations.push(
        `liveness: a removed replica stays, or a change is not over: ${this.#places()}`,
      );
    await this.#settle();
  }

  /** As its leader has applied it. */
  #membersOf(partition: number): number[] | undefined {
    const leader = this.#cluster
      .leaderOf(partition)
      ?.replicas()
      .find((replica) => replica.partition === partition);
    return leader?.members.map(({ replicaId }) => replicaId);
  }

  async #heal(): Promise<void> {
    const { clock, violations } = this.#cluster;
    const broken = await this.#faults.endForMajority();
    if (broken !== undefined) violations.push(...(await checkLiveness(this.#cluster, broken, healMs)));
    await this.#faults.end();
    const led = (): boolean =>
      Array.from({ length: this.#cluster.options.partitions }, (_, p) => this.#cluster.leaderOf(p)).every(
        Boolean,
      );
    if (!(await clock.until(led, healMs)))
      this.#cluster.violations.push('liveness: a partition has no leader after healing');
    await this.#cluster.pass(2_000);
  }

  /** Without load: whose log is drawn too small to hold what comes while a snapshot is taken is brought up by none. */
  async #becomeSound(): Promise<void> {
    const { clock, nodes, violations } = this.#cluster;
    const sound = (): boolean =>
      nodes.every(
        ({ node, faults, refused }) => refused !== undefined || (node !== undefined && faults.length === 0),
      );
    if (!(await clock.until(sound, healMs))) {
      const faults = nodes.map(({ nodeId, faults }) => `node ${nodeId}: ${JSON.stringify(faults)}`);
      violations.push(`liveness: damaged replicas do not become sound: ${faults.join(' ')}`);
    }
  }

  /** Lets every replica apply all that is committed. */
  async #settle(): Promise<void> {
    const equal = (): boolean => {
      for (let partition = 0; partition < this.#cluster.options.partitions; partition++) {
        const indexes = new Set(this.#replicas(partition).map((replica) => replica.appliedIndex));
        const commits = new Set(this.#replicas(partition).map((replica) => replica.commitIndex));
        if (indexes.size !== 1 || commits.size !== 1 || [...indexes][0] !== [...commits][0]) return false;
      }
      return true;
    };
    if (!(await this.#cluster.clock.until(equal, healMs))) {
      this.#cluster.violations.push(
        `liveness: replicas did not reach the same index after healing: ${this.#places()}`,
      );
    }
  }

  /** Where every replica stands, for the reader of a failure. */
  #places(): string {
    return this.#cluster.nodes
      .flatMap(({ node, nodeId }) =>
        (node?.replicas() ?? []).map(
          (r) =>
            `${nodeId}/${r.partition}${r.isLeader ? '*' : ''}${this.#membership === undefined ? '' : ` replica ${r.replicaId} of ${JSON.stringify(r.conf)}`} term ${r.term} last ${r.log.lastIndex()} commit ${r.commitIndex} applied ${r.appliedIndex}`,
        ),
      )
      .concat(
        this.#cluster.nodes.map(({ node, nodeId, settings }) => {
          const stores =
            node
              ?.replicas()
              .map(
                (r) =>
                  `${r.store.tailBytes}${r.store.sealing ? ' sealing' : ''} dirty ${r.store.dirtySinceMs}`,
              ) ?? [];
          return `node ${nodeId}: tails ${stores.join()} of ${settings.tailBytes}`;
        }),
      )
      .join('; ');
  }

  /** Of members: one that was removed may not know it yet. */
  #replicas(partition: number) {
    const members = this.#membership === undefined ? undefined : this.#membersOf(partition);
    return this.#cluster.nodes.flatMap(
      ({ node }) =>
        node
          ?.replicas()
          .filter((r) => r.partition === partition && (members?.includes(r.replicaId) ?? true)) ?? [],
    );
  }

  /** Applied state equal; channels dense; acknowledged never lost; nothing applied twice. */
  async #check(): Promise<void> {
    const texts = new Map<string, string[]>();
    for (let partition = 0; partition < this.#cluster.options.partitions; partition++) {
      const digests: string[] = [];
      const members = this.#replicas(partition);
      for (const node of this.#cluster.nodes) {
        const replica = node.node?.replicas().find((one) => members.includes(one));
        if (replica === undefined) continue;
        try {
          digests.push(await this.#checkReplica(replica, texts));
        } catch (error) {
          // It says that it can't read, which is all that is asked of it.
          const says = error instanceof HansardError && error.reason === 'STORE_DAMAGED';
          if (node.isDamaged && (says || !node.isUp)) continue;
          this.#violation(`node ${node.nodeId}, partition ${partition} can't be read`, error);
        }
      }
      if (new Set(digests).size > 1)
        this.#cluster.violations.push(`partition ${partition}: digests differ: ${digests.join(' ')}`);
      const sound = this.#cluster.nodes
        .filter(({ isDamaged }) => !isDamaged)
        .map(({ node }) => node?.replicas() ?? []);
      const stores = members
        .filter((one) => sound.some((ones) => ones.includes(one)))
        .map(({ store }) => store);
      const problems = await checkFollowing(stores, channelNames, (reading) => this.#wait(reading));
      this.#cluster.violations.push(...problems);
    }
    for (const reader of this.#weakReaders) {
      for (const { node, isDamaged } of this.#cluster.nodes) {
        if (node === undefined || isDamaged || this.#membership !== undefined) continue;
        this.#cluster.violations.push(...(await this.#wait(reader.check(node))));
      }
    }
    if (this.#subscribers.length > 0) {
      const whole = channelNames.filter((name) => name !== 'gone');
      const heads = new Map(whole.map((name) => [name, texts.get(name)?.length ?? 0]));
      this.#cluster.violations.push(...checkReceived(this.#received, heads));
    }
    for (const { channel, seq, text, client } of this.#history.acknowledged) {
      const found = texts.get(channel)?.[seq - 1];
      const deletedUpTo = this.#history.deletedUpTo.get(channel) ?? 0;
      if (seq <= deletedUpTo) {
        if (found === text && deletedUpTo !== Number.POSITIVE_INFINITY)
          this.#cluster.violations.push(`back: ${text} was deleted with ${channel}, and is there`);
      } else if (found !== text)
        this.#cluster.violations.push(
          `lost: ${client} was told that ${text} is ${channel}#${seq}; there is ${found}`,
        );
    }
    for (const [channel, list] of texts) {
      const twice = list.filter((text, i) => list.indexOf(text) !== i);
      if (twice.length > 0) this.#cluster.violations.push(`twice in ${channel}: ${twice.slice(0, 5).join()}`);
    }
    for (const text of this.#history.refusedAsReused)
      this.#cluster.violations.push(`order: ${text} came after a later one of its producer had been taken`);
    this.#checkOrder(texts);
    this.#judge(texts);
  }

  /** Its digest; its channels are compared with those of replicas seen before. */
  async #checkReplica(replica: Replica, texts: Map<string, string[]>): Promise<string> {
    const digest = await this.#wait(replica.store.digest());
    if (this.#delivers) {
      const here = channelNames.filter((name) => this.#cluster.partitionOf(name) === replica.partition);
      this.#cluster.violations.push(...(await this.#wait(this.#deliveries.check(replica, here))));
    }
    for (const channel of channelNames) {
      if (this.#cluster.partitionOf(channel) !== replica.partition) continue;
      const list = await this.#textsOf(replica, channel);
      const known = texts.get(channel);
      if (known === undefined) texts.set(channel, list);
      else if (known.join() !== list.join())
        this.#cluster.violations.push(`channel ${channel} differs on replica ${replica.replicaId}`);
    }
    return digest;
  }

  /** All that clients saw of the judged channels fits one order. */
  #judge(texts: ReadonlyMap<string, readonly string[]>): void {
    for (const channel of judgedNames) {
      const list = texts.get(channel) ?? [];
      this.#recorder.learnOutcomes(channel, list);
      const read = this.#recorder.begin('end', { kind: 'read', channel });
      read.returned({ kind: 'page', head: list.length, newest: list });
    }
    const verdict = this.#recorder.check();
    if (verdict.verdict === 'unknown') {
      this.#cluster.violations.push(`not judged: ${this.#recorder.length} operations took too many steps`);
    } else if (verdict.verdict === 'not-linearizable') {
      const { key, longest, stuckAt } = verdict;
      this.#cluster.violations.push(
        `not linearizable: ${key}: after ${longest.slice(-5).join('; ')} nothing fits: ${stuckAt.slice(0, 6).join('; ')}`,
      );
    }
  }

  /** A producer's texts stand in the order in which it sent them. */
  #checkOrder(texts: ReadonlyMap<string, readonly string[]>): void {
    for (const [channel, list] of texts) {
      const last = new Map<string, number>();
      for (const text of list) {
        const [client = '', , serial = ''] = text.split('/');
        if (!client.startsWith('p')) continue;
        if ((last.get(client) ?? 0) > Number(serial)) {
          this.#cluster.violations.push(`order: ${text} after ${last.get(client)} in ${channel}`);
        }
        last.set(client, Number(serial));
      }
    }
  }

  async #textsOf(replica: Replica, name: string): Promise<string[]> {
    const { store } = replica;
    const channel = await this.#wait(store.channelByName('default', name));
    if (channel === undefined) return [];
    // Places of seqs that a deleted channel of the name had.
    const list = Array.from({ length: channel.baseSeq }, (_, i) => `deleted/${i}`);
    let lastTime = 0;
    while (list.length < channel.headSeq) {
      const page = await this.#wait(
        store.events(channel, {
          fromSeq: list.length + 1,
          toSeq: channel.headSeq,
          reverse: false,
          maxEvents: 100,
          maxBytes: 1 << 20,
        }),
      );
      for (const event of page) {
        if (event.seq !== list.length + 1)
          this.#cluster.violations.push(`${name}: ${event.seq} after ${list.length}`);
        if (event.commitTimeUs < lastTime)
          this.#cluster.violations.push(`${name}#${event.seq}: commit time went back`);
        lastTime = event.commitTimeUs;
        list.push(contentOf(event));
      }
      if (page.length === 0) {
        this.#cluster.violations.push(`${name}: no event ${list.length + 1} of ${channel.headSeq}`);
        break;
      }
    }
    return list;
  }

  /** Simulated time passes while simulated disks answer. */
  async #wait<T>(promise: Promise<T>): Promise<T> {
    let ended = false;
    const watched = promise.finally(() => {
      ended = true;
    });
    watched.catch(() => {});
    if (!(await this.#cluster.clock.until(() => ended, 10_000)))
      throw new Error('a read of the checks did not end within ten simulated seconds');
    return watched;
  }

  #violation(what: string, error: unknown): void {
    this.#cluster.violations.push(
      `${what}: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`,
    );
  }
}
