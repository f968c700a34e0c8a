/**
 * One group's history under faults, as a trace. The trace specification does not
 * know some of what Hansard does, so these runs do without it: pre-vote and
 * check-quorum are off, logs are not cut (no snapshots), and processes die while
 * their logs are idle (it takes what is handed to the disk for synced, and the
 * commit index for stored).
 */

import { encodeAppend } from '../../../src/conversation/command.js';
import type { ReplicaChange } from '../../../src/node/change-replicas.js';
import type { HansardNode } from '../../../src/node/node.js';
import type { Replica } from '../../../src/partition/replica.js';
import { SimCluster, type SimNode } from '../cluster.js';
import { textEvent } from '../content.js';
import { History } from '../history.js';
import { type TraceEvent, TraceFilter, traceEvent, traceLine } from './event.js';

export interface TraceOptions {
  readonly seed: number;
  readonly nodes?: number;
  /** Replicas come and go: of five nodes three have one at first. */
  readonly members?: boolean;
  /** About so many lines; the model checker takes minutes for 3,000. */
  readonly lines?: number;
}

export interface TracedRun {
  readonly events: readonly TraceEvent[];
  /** As the specification reads it. */
  readonly text: string;
  readonly violations: readonly string[];
  readonly acknowledged: number;
  readonly crashes: number;
  /** Of members, in force. */
  readonly changes: number;
  readonly simulatedMs: number;
}

/** By then every log has been idle, closed, and holds the commit index. */
const restMs = 500;
/** For what must come to pass where nothing is in its way. */
const patienceMs = 10_000;

export async function traceSeed(options: TraceOptions): Promise<TracedRun> {
  const run = new TracedSeed(options);
  return run.run();
}

class TracedSeed {
  readonly #cluster: SimCluster;
  readonly #lines: number;
  readonly #events: TraceEvent[] = [];
  readonly #filter = new TraceFilter();
  #text = '';
  #acknowledged = 0;
  #serial = 0;
  #crashes = 0;
  #changes = 0;
  readonly #members: boolean;

  constructor({ seed, members = false, nodes = members ? 5 : 3, lines = 2_000 }: TraceOptions) {
    this.#lines = lines;
    this.#members = members;
    this.#cluster = new SimCluster({
      seed,
      nodes,
      partitions: 1,
      history: new History(),
      tracer: (name, raft, detail) => {
        const event = traceEvent(name, raft, detail);
        if (!this.#filter.isWritten(event)) return;
        this.#events.push(event);
        this.#text += traceLine(event, this.#cluster.clock.monotonicMs(), this.#events.length);
      },
    });
  }

  async run(): Promise<TracedRun> {
    const { clock, nodes, network, random, violations } = this.#cluster;
    for (const node of nodes) node.start();
    await clock.run(1_500);
    while (this.#events.length < this.#lines && violations.length === 0) {
      for (let i = random.below(4); i > 0; i--) this.#append();
      await clock.run(5 + random.below(150));
      await this.#fault();
      if (this.#members && random.below(4) === 0) await this.#change();
      if (random.below(3) === 0) network.healAll();
      for (const node of nodes) if (!node.isUp && random.below(2) === 0) await this.#restart(node);
    }
    network.healAll();
    for (const node of nodes) if (!node.isUp) await this.#restart(node);
    await clock.run(2_000);
    return {
      events: this.#events,
      text: this.#text,
      violations,
      acknowledged: this.#acknowledged,
      crashes: this.#crashes,
      changes: this.#changes,
      simulatedMs: clock.monotonicMs(),
    };
  }

  async #fault(): Promise<void> {
    const { nodes, network, random } = this.#cluster;
    const victim = nodes[random.below(nodes.length)] as SimNode;
    const others = nodes.filter((node) => node !== victim).map(({ nodeId }) => nodeId);
    const other = others[random.below(others.length)] as number;
    switch (random.below(8)) {
      case 0:
        return network.isolate(victim.nodeId, others);
      case 1:
        return network.block(victim.nodeId, other);
      case 2:
        return network.breakStreams(victim.nodeId, other);
      case 3:
        await this.#rest();
        return this.#kill([victim]);
      case 4:
        if (random.below(3) > 0) return;
        await this.#rest();
        return this.#kill(nodes);
    }
  }

  /** The specification takes a configuration for kept that is in force; here it is, once it is sealed. */
  async #rest(): Promise<void> {
    const { clock } = this.#cluster;
    const isSealed = (): boolean =>
      this.#replicas().every(({ store }) => store.sealedMembership.changes === store.membership.changes);
    const commits = (): string =>
      this.#replicas()
        .map(({ commitIndex }) => commitIndex)
        .join();
    // What comes to be committed meanwhile is recorded once the log has been idle again.
    for (let known = ''; known !== commits(); await clock.run(restMs)) known = commits();
    if (!(await clock.until(isSealed, patienceMs))) this.#cluster.violations.push('no checkpoint comes');
  }

  #replicas(): readonly Replica[] {
    return this.#cluster.nodes
      .flatMap((node) => node.replicas())
      .filter(({ isInitialised }) => isInitialised);
  }

  /**
   * One replica comes, gets its vote, or goes. As the specification knows it: one after the
   * other, each known to all members before the next, and in force while its leader leads.
   * So nobody is cut off or dies meanwhile; streams break all the same.
   */
  async #change(): Promise<void> {
    const { clock, nodes, network, random } = this.#cluster;
    network.healAll();
    for (const node of nodes) if (!node.isUp) await this.#restart(node);
    if (!(await clock.until(() => this.#isSettled(), patienceMs))) return;
    const leader = this.#cluster.leaderOf(0) as HansardNode;
    const change = this.#drawChange(leader.replicas()[0] as Replica);
    if (change === undefined) return;
    let ended = false;
    const end = (): void => {
      ended = true;
    };
    leader
      .changeReplicas(0, [change], { deadlineMs: leader.monotonicMs() + 2_000, force: false })
      .then(() => this.#changes++)
      // Refused: not caught up yet, or its leader is to go and hands over first.
      .catch(() => undefined)
      .finally(end);
    while (!ended) {
      await clock.run(5 + random.below(50));
      network.breakStreams(1 + random.below(nodes.length), 1 + random.below(nodes.length));
    }
    await clock.until(() => this.#isSettled(), patienceMs);
  }

  /** All members are there and have applied all that is committed. */
  #isSettled(): boolean {
    const leader = this.#cluster.leaderOf(0)?.replicas()[0];
    if (leader === undefined) return false;
    const all = this.#replicas();
    return leader.members.every(({ replicaId }) => {
      const replica = all.find((one) => one.replicaId === replicaId);
      return replica?.appliedIndex === leader.commitIndex && leader.commitIndex === leader.lastIndex;
    });
  }

  #drawChange({ members, conf, voters }: Replica): ReplicaChange | undefined {
    const { nodes, random } = this.#cluster;
    const taken = members.map(({ nodeId }) => nodeId);
    const free = nodes.find(({ nodeId }) => !taken.includes(nodeId));
    const [learner] = conf.learners;
    const goes = voters[random.below(voters.length)]?.replicaId;
    if (learner !== undefined && random.below(4) > 0) return { kind: 'promote', replicaId: learner };
    if (voters.length > 3 && goes !== undefined) return { kind: 'remove', replicaId: goes };
    return free === undefined ? undefined : { kind: 'addLearner', nodeId: free.nodeId };
  }

  #kill(nodes: readonly SimNode[]): void {
    const { random } = this.#cluster;
    for (const node of nodes) {
      if (!node.isUp) continue;
      this.#crashes++;
      node.kill(random.below(2) === 0 ? 'process' : 'power');
    }
  }

  async #restart(node: SimNode): Promise<void> {
    node.start();
    await this.#cluster.clock.run(20);
  }

  #append(): void {
    const leader = this.#cluster.leaderOf(0);
    if (leader === undefined) return;
    const text = `text ${++this.#serial}`;
    const command = encodeAppend({
      tenant: 'default',
      channel: `c${this.#serial % 3}`,
      events: [textEvent(text, 1)],
    });
    leader.propose(0, command, { deadlineMs: leader.monotonicMs() + 1_000, producer: undefined }).then(
      () => this.#acknowledged++,
      // What became of it is for the trace to show.
      () => undefined,
    );
  }
}
