/** `hansard partition …`: where a partition's replicas are, and changing that while it works. */
import { HansardError, type PartitionDetail, type Reason, type ReplicaChange } from '../../client/index.js';
import type { ActionContext } from '../action.js';
import { ExitCode } from '../exit-codes.js';
import { count, type Output } from '../output.js';
import { type ClientOptions, openSession, type Session } from '../session.js';

interface ChangeOptions extends ClientOptions {
  readonly node?: number;
  readonly replica?: number;
  readonly force?: boolean;
  /** `--no-wait` makes it false. */
  readonly wait?: boolean;
}

/** Between two looks at what a replica still lacks, ms. */
const lookMs = 500;
/** Between two attempts where leaders come and go, ms. */
const retryMs = 200;
/** Nothing but such errors for so long: the cluster has another problem, ms. */
const patienceMs = 60_000;

export async function list({ output, options }: ActionContext<ClientOptions>): Promise<ExitCode> {
  const session = openSession(options);
  try {
    const { partitions, nodes } = await session.client.cluster();
    const lost = new Set(nodes.filter((node) => node.state !== 'connected').map(({ nodeId }) => nodeId));
    output.json({
      partitions: partitions.map((each) => ({
        partition: each.partition,
        leader: each.leaderNodeId,
        replicas: each.replicas.map((r) => ({
          replica_id: r.replicaId,
          node: r.nodeId,
          learner: r.learner,
          reachable: !lost.has(r.nodeId),
        })),
      })),
    });
    const c = output.colors;
    output.table(
      [
        { title: 'PARTITION', align: 'right' },
        { title: 'LEADER', align: 'right' },
        { title: 'REPLICAS (id on node)' },
      ],
      partitions.map((each) => [
        each.partition,
        each.leaderNodeId === 0 ? c.red('none') : each.leaderNodeId,
        each.replicas
          .map((r) => {
            const text = `${r.replicaId} on ${r.nodeId}${r.learner ? ' (learner)' : ''}`;
            return lost.has(r.nodeId) ? c.red(`${text} unreachable`) : text;
          })
          .join(', '),
      ]),
    );
    return partitions.some((each) => each.leaderNodeId === 0) ? ExitCode.unreachable : ExitCode.ok;
  } finally {
    await session.close();
  }
}

/** Exit code 3 where it has no leader. */
export async function show({ output, options, args }: ActionContext<ClientOptions>): Promise<ExitCode> {
  const session = openSession(options);
  try {
    const detail = await session.client.partition(partitionOf(args));
    tell(output, detail);
    return detail.leaderNodeId === 0 ? ExitCode.unreachable : ExitCode.ok;
  } finally {
    await session.close();
  }
}

export function addLearner(context: ActionContext<ChangeOptions>): Promise<ExitCode> {
  const nodeId = context.options.node as number;
  return change(context, { kind: 'add-learner', nodeId }, ({ members }) =>
    members.find((member) => member.nodeId === nodeId),
  );
}

export function promote(context: ActionContext<ChangeOptions>): Promise<ExitCode> {
  return change(context, { kind: 'promote', replicaId: context.options.replica as number });
}

export function demote(context: ActionContext<ChangeOptions>): Promise<ExitCode> {
  return change(context, { kind: 'demote', replicaId: context.options.replica as number });
}

export function remove(context: ActionContext<ChangeOptions>): Promise<ExitCode> {
  return change(context, { kind: 'remove', replicaId: context.options.replica as number });
}

export function replace(context: ActionContext<ChangeOptions>): Promise<ExitCode> {
  const { replica, node } = context.options;
  return change(context, { kind: 'replace', replicaId: replica as number, nodeId: node as number });
}

/** `until`: the replica that must have caught up before the command is done. */
async function change(
  { output, options, args }: ActionContext<ChangeOptions>,
  wanted: ReplicaChange,
  until?: (detail: PartitionDetail) => PartitionDetail['members'][number] | undefined,
): Promise<ExitCode> {
  const session = openSession(options);
  const partition = partitionOf(args);
  const waits = options.wait !== false;
  try {
    let isDone = await changed(session, partition, wanted, options.force === true, waits, output);
    for (;;) {
      const detail = await patiently(waits, () => session.client.partition(partition));
      const behind = isDone ? until?.(detail) : undefined;
      if (isDone && (behind === undefined || behind.caughtUp || !waits)) {
        tell(output, detail, { done: true });
        return ExitCode.ok;
      }
      if (!waits) {
        output.note('not done yet: repeat the command when the learner has caught up');
        tell(output, detail, { done: false });
        return ExitCode.ok;
      }
      const learner = behind ?? detail.members.find(({ role }) => role === 'learner');
      if (learner !== undefined) noteProgress(output, detail, learner);
      await sleep(lookMs);
      if (!isDone) isDone = await changed(session, partition, wanted, options.force === true, waits, output);
    }
  } finally {
    await session.close();
  }
}

/** Repeats where that is safe, and somebody waits. */
async function changed(
  session: Session,
  partition: number,
  wanted: ReplicaChange,
  force: boolean,
  waits: boolean,
  output: Output,
): Promise<boolean> {
  for (;;) {
    try {
      return (await patiently(waits, () => session.client.changeReplicas(partition, [wanted], { force })))
        .done;
    } catch (error) {
      if (!waits || !(error instanceof HansardError) || error.reason !== 'LEARNER_LAGS') throw error;
      const { match = '?', commit_index = '?' } = error.fields;
      output.note(`it has ${match} of ${commit_index} entries`);
      await sleep(retryMs);
    }
  }
}

/** What passes by itself when the next leader is there; asking again for a change is always safe. */
const passing: ReadonlySet<Reason> = new Set([
  'COMMIT_UNKNOWN',
  'DEADLINE_EXCEEDED',
  'MEMBERSHIP_BUSY',
  'NOT_LEADER',
  'NO_QUORUM',
  'OVERLOADED',
  'SHUTTING_DOWN',
  'UNREACHABLE',
]);

async function patiently<T>(waits: boolean, call: () => Promise<T>): Promise<T> {
  const endMs = performance.now() + patienceMs;
  for (;;) {
    try {
      return await call();
    } catch (error) {
      const passes = error instanceof HansardError && passing.has(error.reason);
      if (!waits || !passes || performance.now() > endMs) throw error;
      await sleep(retryMs);
    }
  }
}

function noteProgress(
  output: Output,
  { commitIndex }: PartitionDetail,
  { replicaId, nodeId, matchIndex }: PartitionDetail['members'][number],
): void {
  output.note(
    `replica ${replicaId} on node ${nodeId} has ${count(matchIndex)} of ${count(commitIndex)} entries`,
  );
}

function tell(output: Output, detail: PartitionDetail, more: Readonly<Record<string, unknown>> = {}): void {
  output.json({
    ...more,
    partition: detail.partition,
    leader: detail.leaderNodeId,
    term: detail.term,
    commit_index: detail.commitIndex,
    told_by_leader: detail.toldByLeader,
    joint: detail.joint,
    changes: detail.changes,
    replicas: detail.members.map((member) => ({
      replica_id: member.replicaId,
      node: member.nodeId,
      role: member.role,
      connected: member.connected,
      match_index: member.matchIndex,
      caught_up: member.caughtUp,
    })),
  });
  const c = output.colors;
  const leader = detail.leaderNodeId === 0 ? c.red('nobody') : `node ${detail.leaderNodeId}`;
  const joint = detail.joint ? '; between two configurations' : '';
  output.line(
    `partition ${detail.partition}, led by ${leader} in term ${detail.term}, commit ${count(detail.commitIndex)}${joint}`,
  );
  output.table(
    [
      { title: 'REPLICA', align: 'right' },
      { title: 'NODE', align: 'right' },
      { title: 'ROLE' },
      { title: 'STATE' },
      { title: 'HAS', align: 'right' },
      { title: 'LACKS', align: 'right' },
    ],
    detail.members.map((member) => [
      member.replicaId,
      member.nodeId,
      member.role,
      member.connected ? c.green('connected') : c.red('unreachable'),
      detail.toldByLeader ? count(member.matchIndex) : '?',
      detail.toldByLeader ? count(Math.max(0, detail.commitIndex - member.matchIndex)) : '?',
    ]),
  );
}

function partitionOf([text = '']: readonly string[]): number {
  const partition = Number(text);
  if (/^\d+$/.test(text) && partition <= 65_535) return partition;
  throw new HansardError('INVALID_ARGUMENT', `${text} is no partition: a number from 0 on`, {
    field: 'partition',
  });
}

function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
