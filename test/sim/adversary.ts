/**
 * Faults of several steps, each a pattern that chance alone seldom meets: they
 * look at the cluster, wait for a moment, and strike there. Nothing in them but
 * what networks, disks and schedulers do.
 */
import type { Replica } from '../../src/partition/replica.js';
import type { CrashKind, SimCluster, SimNode } from './cluster.js';
import type { SimOperation } from './sim-disk.js';
import { type KvPhase, kvPhases } from './sim-kv.js';

/** Until another leader is there, simulated ms; none is elected where too much is broken already. */
const electionMs = 4_000;

/** All leaps together: less than invariants/commit-time-near.ts allows. */
const leptMaxUs = 20e6;

interface Led {
  readonly partition: number;
  readonly node: SimNode;
  readonly term: number;
}

export class Adversary {
  readonly #cluster: SimCluster;
  readonly #kill: (nodes: readonly SimNode[], kind: CrashKind) => void;
  readonly #restart: (node: SimNode) => Promise<void>;

  constructor(
    cluster: SimCluster,
    kill: (nodes: readonly SimNode[], kind: CrashKind) => void,
    restart: (node: SimNode) => Promise<void>,
  ) {
    this.#cluster = cluster;
    this.#kill = kill;
    this.#restart = restart;
  }

  /** SIGSTOP, and SIGCONT later: the process wakes up believing what it believed. */
  pause(node: SimNode, ms: number): void {
    const { clock } = node;
    if (!node.isUp || clock.isPaused) return;
    this.#log(`node ${node.nodeId} is stopped for ${ms} ms`);
    clock.pause();
    this.#cluster.clock.after(ms, () => clock.resume());
  }

  /** A leader is cut off until another one leads, and comes back for all, or for those who voted alone. */
  async outlive(): Promise<void> {
    const { random, network } = this.#cluster;
    const old = this.#leader();
    if (old === undefined) return;
    this.#log(`node ${old.node.nodeId} is cut off until another leads partition ${old.partition}`);
    network.isolate(old.node.nodeId, this.#others(old.node));
    const next = await this.#successor(old);
    if (next === undefined) return;
    await this.#cluster.pass(random.below(100));
    if (random.below(2) === 0) return network.healAll();
    this.#log(`node ${old.node.nodeId} is back, not for node ${next.node.nodeId}`);
    this.#rejoinBut(old.node, next.node);
  }

  /**
   * What a majority has kept while one node was away: one of the two loses it, the other is
   * down, and the third is back and asks the forgetful one for its vote.
   */
  async forget(forgetful: SimNode, damage: () => void): Promise<void> {
    const { random, network, nodes } = this.#cluster;
    const others = nodes.filter((node) => node !== forgetful);
    const away = others[random.below(others.length)] as SimNode;
    this.#log(`node ${away.nodeId} misses what node ${forgetful.nodeId} will forget`);
    network.isolate(away.nodeId, this.#others(away));
    await this.#cluster.pass(random.below(1_500));
    damage();
    const rest = others.filter((node) => node !== away);
    this.#kill(rest, 'process');
    network.healAll();
    for (const node of [away, forgetful]) await this.#restart(node);
    await this.#cluster.pass(random.below(electionMs));
    for (const node of rest) await this.#restart(node);
  }

  /**
   * Raft, figure 8: (a) a leader takes entries that nobody else gets; (b) another
   * is elected, and is cut off before it says anything; (c) the first one leads
   * again and sends its old entries on; (d) it dies, and the second one is back.
   */
  async figure8(): Promise<void> {
    const { random, network } = this.#cluster;
    const first = this.#leader();
    if (first === undefined) return;
    const { node, partition } = first;
    this.#log(`figure 8: node ${node.nodeId}, which leads partition ${partition}, is cut off`);
    network.isolate(node.nodeId, this.#others(node));
    const second = await this.#successor(first);
    if (second === undefined) return;
    this.#log(`figure 8: so is node ${second.node.nodeId} as soon as it leads`);
    network.isolate(second.node.nodeId, this.#others(second.node));
    // What is on its way is lost, not late.
    for (const other of this.#others(second.node)) network.breakStreams(second.node.nodeId, other);
    await this.#cluster.pass(random.below(300));
    network.healAll();
    if (random.below(2) === 0) this.#kill([second.node], random.below(2) === 0 ? 'process' : 'power');
    else network.isolate(second.node.nodeId, this.#others(second.node));
    const back = (): boolean => (this.#leading(node, partition)?.term ?? 0) > second.term;
    if (!(await this.#cluster.passUntil(back, electionMs))) return;
    this.#log(`figure 8: node ${node.nodeId} leads again`);
    // With what comes now the old entries reach others, in one message or in many.
    await this.#cluster.passFinely(random.fraction() * 15);
    if (random.below(3) > 0) this.#kill([node], random.below(2) === 0 ? 'process' : 'power');
    network.healAll();
    await this.#restart(second.node);
  }

  /** Its write is under way for as long as it takes another leader to be elected, and to send it what replaces that. */
  async usurp(): Promise<void> {
    const { random, network } = this.#cluster;
    const old = this.#leader();
    if (old === undefined) return;
    this.#log(`the disk of node ${old.node.nodeId}, which leads partition ${old.partition}, stalls`);
    old.node.disk.stallNext(2_000 + random.below(3_000));
    await this.#cluster.pass(random.fraction() * 30);
    network.isolate(old.node.nodeId, this.#others(old.node));
    if ((await this.#successor(old)) === undefined) return;
    await this.#cluster.pass(random.below(200));
    this.#log(`node ${old.node.nodeId} is back, its disk is not`);
    network.healAll();
  }

  /**
   * It is stopped until another one leads and has told clients so, and wakes up
   * where that one does not reach it: until its followers tell it of their term
   * it believes what it believed, and so do clients that are used to it.
   */
  async haunt(): Promise<void> {
    const { random, network } = this.#cluster;
    const old = this.#leader();
    if (old === undefined || old.node.clock.isPaused) return;
    const { clock } = old.node;
    this.#log(`node ${old.node.nodeId}, which leads partition ${old.partition}, is stopped, and cut off`);
    clock.pause();
    // What it has sent arrives still: late, it would tell of the new term by its refusal.
    await this.#cluster.pass(50);
    network.isolate(old.node.nodeId, this.#others(old.node));
    const next = await this.#successor(old);
    if (next !== undefined) {
      // Clients that waited for the old one find the new one.
      await this.#cluster.pass(random.below(2_000));
      this.#rejoinBut(old.node, next.node);
    }
    this.#log(`node ${old.node.nodeId} goes on`);
    clock.resume();
    await this.#cluster.pass(random.below(300));
    network.healAll();
  }

  /**
   * A leader's clock jumps ahead of all others, and it is gone a moment later: the next leader has what it stamped then
   * in its log, and has applied none of it when it stamps itself.
   */
  async leap(): Promise<void> {
    const { random, nodes } = this.#cluster;
    const leader = this.#leader();
    if (leader === undefined) return;
    const { node } = leader;
    const fromUs = Math.min(Math.max(0, node.clock.offsetUs), leptMaxUs);
    for (const each of nodes) each.clock.offsetUs = fromUs;
    node.clock.offsetUs += (1 + random.below(4)) * 1e6;
    this.#log(`the clock of node ${node.nodeId}, which leads partition ${leader.partition}, leaps ahead`);
    await this.#cluster.passFinely(random.fraction() * 5);
    this.#kill([node], 'process');
    await this.#successor(leader);
  }

  /** The process dies, or the machine, at some operation of its disks from here on. */
  setCrashPoint(node: SimNode): void {
    const { random } = this.#cluster;
    const kind: CrashKind = random.below(2) === 0 ? 'process' : 'power';
    const when = random.below(2) === 0 ? 'before' : 'after';
    const skip = random.below(random.below(2) === 0 ? 2 : 20);
    const die = (): void => this.#kill([node], kind);
    if (random.below(4) === 0) {
      const phase = kvPhases[random.below(kvPhases.length)] as KvPhase;
      this.#log(
        `node ${node.nodeId} will die with a batch of its database ${phase}, not with the first ${skip}`,
      );
      node.database.trap = { phase, skip, spring: die };
      return;
    }
    const operations: readonly SimOperation[] = [
      'sync',
      'write',
      'table',
      'table',
      'create',
      'rename',
      'remove',
    ];
    const operation = operations[random.below(operations.length)] as SimOperation;
    const rareOnes = operation === 'write' || operation === 'sync' ? skip : random.below(2);
    this.#log(`node ${node.nodeId} will die ${when} a ${operation}, not with the first ${rareOnes}`);
    node.disk.trap = { operation, when, skip: rareOnes, spring: die };
  }

  /**
   * A process dies between a write and its sync, or its sync fails; the next one
   * finds the bytes in the page cache, begins on them, and the machine loses power.
   */
  async relapse(node: SimNode): Promise<void> {
    const { random } = this.#cluster;
    if (!node.isUp) return;
    if (random.below(2) === 0) {
      this.#log(`node ${node.nodeId} will die before a sync`);
      const spring = (): void => this.#kill([node], 'process');
      node.disk.trap = { operation: 'sync', when: 'before', skip: random.below(4), spring };
    } else {
      this.#log(`a sync of node ${node.nodeId} will fail`);
      node.mayEndWith('DISK_FAILED');
      node.disk.failNext('sync', 'EIO');
    }
    if (!(await this.#cluster.passUntil(() => !node.isUp, 1_000))) return;
    await this.#restart(node);
    if (random.below(2) === 0) {
      const spring = (): void => this.#kill([node], 'power');
      node.disk.trap = { operation: 'sync', when: 'before', skip: random.below(6), spring };
      await this.#cluster.passUntil(() => !node.isUp, 2_000);
    } else {
      await this.#cluster.pass(random.below(600));
      this.#kill([node], 'power');
    }
    node.disk.trap = undefined;
    await this.#restart(node);
  }

  /** Between the store's decision and the log's there is a moment that chance alone seldom meets. */
  async dieInstalling(): Promise<void> {
    const { clock, random, nodes } = this.#cluster;
    const installing = (): { node: SimNode; replica: Replica } | undefined =>
      nodes.flatMap((node) =>
        node
          .replicas()
          .filter((r) => r.isInstalling)
          .map((replica) => ({ node, replica })),
      )[0];
    if (!(await clock.until(() => installing() !== undefined, 500))) return;
    const found = installing();
    if (found === undefined) return;
    const { node, replica } = found;
    const before = replica.store.installedIndex;
    if (random.below(3) > 0) await clock.until(() => replica.store.installedIndex !== before, 100);
    if (random.below(2) > 0) await clock.run(random.fraction() * 3);
    this.#log(`node ${node.nodeId} dies taking a snapshot over`);
    this.#kill([node], random.below(2) > 0 ? 'process' : 'power');
  }

  /** Of a partition drawn at random. */
  #leader(): Led | undefined {
    const { random, options, nodes } = this.#cluster;
    const partition = random.below(options.partitions);
    for (const node of nodes) {
      const replica = this.#leading(node, partition);
      if (replica !== undefined) return { partition, node, term: replica.term };
    }
    return undefined;
  }

  /** Only who voted reaches it, not who was elected; nor does what that one has sent meanwhile. */
  #rejoinBut(node: SimNode, not: SimNode): void {
    const { network } = this.#cluster;
    for (const other of this.#others(node)) {
      if (other === not.nodeId) continue;
      network.unblock(other, node.nodeId);
      network.unblock(node.nodeId, other);
    }
  }

  /** Elected while the other is away. */
  async #successor({ partition, node, term }: Led): Promise<Led | undefined> {
    const find = (): Led | undefined => {
      for (const other of this.#cluster.nodes) {
        const replica = other === node ? undefined : this.#leading(other, partition);
        if (replica !== undefined && replica.term > term)
          return { partition, node: other, term: replica.term };
      }
      return undefined;
    };
    await this.#cluster.passUntil(() => find() !== undefined, electionMs);
    return find();
  }

  #leading(node: SimNode, partition: number): Replica | undefined {
    return node.replicas().find((replica) => replica.partition === partition && replica.isLeader);
  }

  #others(node: SimNode): number[] {
    return this.#cluster.nodes.filter((one) => one !== node).map(({ nodeId }) => nodeId);
  }

  #log(line: string): void {
    this.#cluster.log(line);
  }
}
