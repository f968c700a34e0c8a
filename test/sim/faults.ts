/**
 * What breaks, one fault at a time. Which kinds a run has is drawn by its seed
 * (swarm testing): some runs have few kinds, some nearly all.
 */
import { Adversary } from './adversary.js';
import type { CrashKind, SimCluster, SimNode } from './cluster.js';
import { damageLog } from './damage.js';
import type { SimMembership } from './membership.js';
import type { SimRandom } from './sim-clock.js';
import { type KvDamage, kvDamages } from './sim-kv.js';

export const faultKinds = [
  'kill',
  'power',
  'killAll',
  'powerAll',
  'isolate',
  'oneWay',
  'break',
  'pause',
  'clock',
  /** Who takes a snapshot over next dies in that moment, or shortly after. */
  'install',
  /** A leader is cut off until another one is elected, and comes back believing that it leads. */
  'outlive',
  /** The log's disk, or LevelDB's, takes up to some seconds for one operation. */
  'stall',
  /** A log's disk fails: EIO on read, write or sync (whose pages read back clean), or it is full. */
  'diskError',
  /** LevelDB fails, and stays failed. */
  'kvError',
  /** One node's LevelDB loses or changes what was synced, while the process is down. Of one node alone in a run. */
  'kvDamage',
  /** The same of its log: flips, lost sectors and segments, writes that went astray; often with its database, and the record of faults. */
  'logDamage',
  /** A log's disk is slow at everything for a while. */
  'slow',
  /** A disk hangs, and the watchdog ends the process. */
  'hang',
  /** A process dies, or a machine loses power, just before or after an operation of its disk. */
  'crashPoint',
  /** What a dead process left in the page cache is lost after the next one has begun on it. */
  'relapse',
  /** Raft, figure 8: leaders follow one another with entries that only they have. */
  'figure8',
  /** A leader's disk stalls over entries that another leader's replace meanwhile. */
  'usurp',
  /** A leader is stopped until another one leads, and wakes up where only its followers reach it. */
  'haunt',
  /** Leadership is handed over. */
  'handover',
  /** Messages of consensus come twice, the second time late. All along a run. */
  'repeat',
  /** Calls of clients and their answers overtake one another and get lost. All along a run. */
  'calls',
  /** Clocks run fast or slow. All along a run. */
  'drift',
  /** Five nodes of which each partition has three, and members that change all the time. */
  'members',
  /** A node's disks are gone for good, and its replicas are replaced. Once in a run, with `members` alone. */
  'lostDisk',
  /** What a process does takes its time, and what comes meanwhile is handled in one go, before the next turn. All along a run. */
  'busy',
  /** A leader's clock jumps ahead, and it is gone before what it stamped then is applied elsewhere. */
  'leap',
] as const;
export type FaultKind = (typeof faultKinds)[number];

type DamagedPart = 'log' | 'database' | 'faults';

/** Not done at a moment, but all along. */
const lasting: ReadonlySet<FaultKind> = new Set(['repeat', 'calls', 'drift', 'members', 'lostDisk', 'busy']);
/** As often as one in so many runs; others are in two of three. */
const rare: Partial<Record<FaultKind, number>> = {
  logDamage: 3,
  members: 5,
  lostDisk: 2,
  repeat: 2,
  calls: 2,
  drift: 3,
  busy: 3,
  // Clocks that have leapt a few times count as wrong for the rest of a run, and excuse commit times.
  leap: 4,
};

export function drawKinds(random: SimRandom): FaultKind[] {
  return faultKinds.filter((kind) => {
    const oneIn = rare[kind];
    return oneIn === undefined ? random.below(3) > 0 : random.below(oneIn) === 0;
  });
}

export class Faults {
  readonly #cluster: SimCluster;
  readonly #kinds: readonly FaultKind[];
  readonly #has: ReadonlySet<FaultKind>;
  readonly #adversary: Adversary;
  /** Ends of processes whose disks hang. */
  readonly #hung = new Set<() => void>();
  readonly #membership: SimMembership | undefined;
  /** Whose synced data may be damaged: a minority of every partition's replicas. */
  readonly #damageable: SimNode;
  crashes = 0;
  /** Parts of a folder that were damaged. */
  damages = 0;

  /** `mayDamage`: no partition has so few replicas that one node's are not a minority. */
  constructor(
    cluster: SimCluster,
    kinds: readonly FaultKind[],
    membership: SimMembership | undefined,
    mayDamage: boolean,
  ) {
    this.#cluster = cluster;
    this.#membership = membership;
    this.#has = new Set(kinds);
    const isDone = (kind: FaultKind): boolean =>
      !lasting.has(kind) && (mayDamage || !(kind === 'kvDamage' || kind === 'logDamage'));
    this.#kinds = kinds.filter(isDone);
    this.#damageable = cluster.nodes[cluster.options.seed % cluster.nodes.length] as SimNode;
    this.#adversary = new Adversary(
      cluster,
      (nodes, kind) => this.kill(nodes, kind),
      (node) => this.restart(node, true),
    );
  }

  /** Load goes on while they happen; never more than a minority is down for ever. */
  async run(ms: number): Promise<void> {
    const { clock, random, network, callers } = this.#cluster;
    network.faults.breakChance = random.below(3) === 0 ? 0.002 : 0;
    network.faults.delayMaxMs = random.below(3) === 0 ? 20 : 1;
    network.faults.bytesPerSecond = random.below(5) === 0 ? 100_000 + random.below(1_000_000) : 0;
    if (this.#has.has('repeat')) this.#cluster.repeatChance = random.below(2) === 0 ? 0.2 : 0.01;
    if (this.#has.has('busy')) this.#cluster.busyMaxMs = [3, 20, 60][random.below(3)] as number;
    if (this.#has.has('calls')) {
      callers.faults.delayMaxMs = [2, 20, 400][random.below(3)] as number;
      callers.faults.lossChance = random.below(2) === 0 ? 0.02 : 0;
    }
    const endMs = clock.monotonicMs() + ms;
    const lostAtMs = this.#has.has('lostDisk')
      ? clock.monotonicMs() + random.below(ms)
      : Number.POSITIVE_INFINITY;
    while (clock.monotonicMs() < endMs && this.#cluster.violations.length === 0) {
      await this.#pass(50 + random.below(800));
      if (clock.monotonicMs() >= lostAtMs) this.#loseDisk();
      const kind = this.#kinds[random.below(Math.max(1, this.#kinds.length))];
      if (kind !== undefined) await this.#fault(kind);
      for (const node of this.#cluster.nodes)
        if (!node.isUp && random.below(2) === 0) await this.restart(node, random.below(2) === 0);
      if (random.below(3) === 0) network.healAll();
    }
  }

  /**
   * Nothing breaks any more but for one node, which is down or cut off: the one that was
   * damaged, if there is one. Undefined: not with members that change, who may be two.
   */
  async endForMajority(): Promise<SimNode | undefined> {
    if (this.#membership !== undefined) return undefined;
    const { random, network, nodes } = this.#cluster;
    const drawn = nodes[random.below(nodes.length)] as SimNode;
    const broken = this.#damageable.isDamaged ? this.#damageable : drawn;
    const isDown = random.below(2) === 0;
    this.#log(`all is well but node ${broken.nodeId}, which is ${isDown ? 'down' : 'cut off'}`);
    if (isDown) this.kill([broken], 'process');
    await this.#healAll(nodes.filter((node) => node !== broken));
    if (!isDown) network.isolate(broken.nodeId, this.#idsBut(broken));
    return broken;
  }

  /** Nothing breaks any more, and whoever can starts. */
  async end(): Promise<void> {
    await this.#healAll(this.#cluster.nodes);
  }

  async #healAll(healed: readonly SimNode[]): Promise<void> {
    const { network, callers } = this.#cluster;
    network.healAll();
    network.faults.breakChance = 0;
    network.faults.delayMaxMs = 1;
    network.faults.bytesPerSecond = 0;
    callers.faults.delayMaxMs = 0;
    callers.faults.lossChance = 0;
    this.#cluster.repeatChance = 0;
    this.#cluster.busyMaxMs = 0;
    for (const end of [...this.#hung]) end();
    for (const node of healed) {
      node.repair();
      node.database.resume();
      if (!node.isUp) await this.restart(node, true);
    }
  }

  #idsBut(node: SimNode): number[] {
    return this.#cluster.nodes.filter((one) => one !== node).map(({ nodeId }) => nodeId);
  }

  kill(nodes: readonly SimNode[], kind: CrashKind): void {
    for (const node of nodes) {
      if (!node.isUp) continue;
      this.crashes++;
      node.kill(kind);
    }
  }

  /** A failed disk is seldom well at the next start. */
  async restart(node: SimNode, isWell: boolean): Promise<void> {
    if (node.refused !== undefined || node.isUp) return;
    if (isWell) node.repair();
    node.start();
    await this.#cluster.pass(1);
  }

  /** With members that change: a change is begun every moment, also between faults and in the midst of what they do. */
  async #pass(ms: number): Promise<void> {
    if (this.#membership === undefined) return this.#cluster.pass(ms);
    const { clock, random } = this.#cluster;
    const endMs = clock.monotonicMs() + ms;
    while (clock.monotonicMs() < endMs) {
      this.#membership.begin();
      await this.#cluster.pass(Math.min(20 + random.below(200), endMs - clock.monotonicMs()));
    }
  }

  async #fault(kind: FaultKind): Promise<void> {
    const { random, network, nodes } = this.#cluster;
    const victim = nodes[random.below(nodes.length)] as SimNode;
    const others = this.#idsBut(victim);
    const other = others[random.below(others.length)] as number;
    switch (kind) {
      case 'kill':
        return this.kill([victim], 'process');
      case 'power':
        return this.kill([victim], 'power');
      case 'killAll':
        return this.kill(nodes, 'process');
      case 'powerAll':
        return this.kill(nodes, 'power');
      case 'isolate':
        this.#log(`node ${victim.nodeId} is cut off`);
        return network.isolate(victim.nodeId, others);
      case 'oneWay':
        this.#log(`nothing from ${victim.nodeId} reaches ${other}`);
        return network.block(victim.nodeId, other);
      case 'break':
        this.#log(`streams between ${victim.nodeId} and ${other} break`);
        return network.breakStreams(victim.nodeId, other);
      case 'pause':
        return this.#adversary.pause(victim, 200 + random.below(4_000));
      case 'clock':
        return this.#setClock(victim);
      case 'stall':
        return this.#stall(victim, 50 + random.below(3_000));
      case 'slow':
        return this.#slow(victim, 200 + random.below(3_000));
      case 'hang':
        return this.#hang(victim, 500 + random.below(2_500));
      case 'diskError':
        return this.#failDisk(victim);
      case 'kvError':
        this.#log(`the database of node ${victim.nodeId} fails`);
        victim.mayEndWith('DISK_FAILED');
        victim.database.failWrites = true;
        return;
      case 'kvDamage':
        return this.#damage(this.#damageable, ['database']);
      case 'logDamage':
        return this.#damageLog(this.#damageable);
      case 'handover':
        return this.#handOver();
      case 'crashPoint':
        return this.#adversary.setCrashPoint(victim);
      case 'relapse':
        return this.#adversary.relapse(victim);
      case 'install':
        return this.#adversary.dieInstalling();
      case 'outlive':
        return this.#adversary.outlive();
      case 'figure8':
        return this.#adversary.figure8();
      case 'usurp':
        return this.#adversary.usurp();
      case 'haunt':
        return this.#adversary.haunt();
      case 'leap':
        return this.#adversary.leap();
      default:
        throw new Error(`${kind} lasts all along a run`);
    }
  }

  /** Up to four seconds either way, and now and then a day: nothing but commit times may depend on it. */
  #setClock(node: SimNode): void {
    const { random } = this.#cluster;
    node.clock.offsetUs = random.below(10) === 0 ? 25 * 3_600e6 : (random.below(8_000) - 4_000) * 1_000;
    this.#log(`the clock of node ${node.nodeId} is off by ${node.clock.offsetUs / 1e6} s`);
  }

  #failDisk(node: SimNode): void {
    const { random } = this.#cluster;
    const operations = ['sync', 'write', 'read', 'create', 'rename'] as const;
    const operation = operations[random.below(operations.length)] as (typeof operations)[number];
    const errno = operation === 'write' || operation === 'create' ? 'ENOSPC' : 'EIO';
    this.#log(`${operation} of node ${node.nodeId} will fail: ${errno}`);
    node.mayEndWith('DISK_FAILED');
    node.disk.failNext(operation, errno);
  }

  async #damageLog(node: SimNode): Promise<void> {
    const { random } = this.#cluster;
    const parts: DamagedPart[] = ['log'];
    if (random.below(3) === 0) parts.push('database');
    if (random.below(4) === 0) parts.push('faults');
    if (random.below(2) === 0) this.#damage(node, parts);
    else await this.#adversary.forget(node, () => this.#damage(node, parts));
  }

  /** It starts, and becomes sound by itself. All that the log holds is synced by then: behind what is not, nothing proves damage. */
  #damage(node: SimNode, parts: readonly DamagedPart[]): void {
    const isKept = !parts.includes('log') && this.#cluster.random.below(2) === 0;
    this.kill([node], isKept ? 'process' : 'power');
    for (const part of parts) {
      const what = this.#damagePart(node, part);
      if (what === undefined) continue;
      this.#log(`of node ${node.nodeId}: ${what}`);
      node.isDamaged = true;
      this.damages++;
    }
  }

  #damagePart(node: SimNode, part: DamagedPart): string | undefined {
    const { random } = this.#cluster;
    if (part === 'log') return damageLog(node.disk, random);
    if (part === 'faults') {
      node.folder.loseFaults();
      return 'the record of faults is gone';
    }
    const damage = kvDamages[random.below(kvDamages.length)] as KvDamage;
    return node.database.lose(damage) ? `the database is damaged: ${damage}` : undefined;
  }

  /** A kill in the meantime ends the operation, as it may. */
  #stall(node: SimNode, ms: number): void {
    const { random, clock } = this.#cluster;
    if (random.below(2) === 0) {
      this.#log(`the log's disk of node ${node.nodeId} stalls for ${ms} ms`);
      // Between two segments there is a moment that chance alone seldom meets.
      if (random.below(3) === 0) node.disk.stallNextSegment(ms);
      else node.disk.stallNext(ms);
      return;
    }
    const database = node.database;
    this.#log(`the database of node ${node.nodeId} stalls for ${ms} ms`);
    database.stall();
    clock.after(ms, () => database.resume());
  }

  #slow(node: SimNode, ms: number): void {
    const { random, clock } = this.#cluster;
    node.disk.slowMs = 1 + random.below(300);
    this.#log(
      `the log's disk of node ${node.nodeId} takes ${node.disk.slowMs} ms for everything, for ${ms} ms`,
    );
    clock.after(ms, () => {
      node.disk.slowMs = 0;
    });
  }

  /** wal/watchdog.ts ends a process whose disk hangs for longer than 10 s, by SIGKILL; here sooner. */
  #hang(node: SimNode, ms: number): void {
    const { random, clock } = this.#cluster;
    const { node: process } = node;
    if (process === undefined) return;
    this.#log(`a disk of node ${node.nodeId} hangs`);
    if (random.below(2) === 0) node.disk.stallNext(10 * ms);
    else node.database.stall();
    const end = (): void => {
      if (this.#hung.delete(end) && node.node === process) this.kill([node], 'process');
    };
    this.#hung.add(end);
    clock.after(ms, end);
  }

  #handOver(): void {
    const { random, options } = this.#cluster;
    const partition = random.below(options.partitions);
    const node = this.#cluster.nodes.find(({ node }) => node === this.#cluster.leaderOf(partition));
    const replica = node?.replicas().find((one) => one.partition === partition);
    if (node === undefined || replica === undefined) return;
    const heirs = replica.voters.filter(({ replicaId }) => replica.membership.isHeir(replicaId));
    const heir = heirs[random.below(Math.max(1, heirs.length))];
    if (heir === undefined || heir.replicaId === replica.replicaId) return;
    this.#log(`node ${node.nodeId} hands partition ${partition} to node ${heir.nodeId}`);
    node.clock.whenRunning(() => replica.transferLeadership(heir.replicaId));
  }

  /** A minority of each partition's voters, where none has fewer than three. */
  #loseDisk(): void {
    if (this.#membership === undefined || this.#membership.lost !== undefined) return;
    const { random, nodes } = this.#cluster;
    const node = nodes[random.below(nodes.length)] as SimNode;
    this.kill([node], 'power');
    this.#log(`node ${node.nodeId} has lost its disks`);
    node.refused = 'REPLICA_LOST';
    this.#membership.lost = node.nodeId;
  }

  #log(line: string): void {
    this.#cluster.log(line);
  }
}
