/** The operator's choice, and whether it may be carried out. */
import { HansardError } from '../../common/errors.js';
import type { NodeId, PartitionId } from '../../common/ids.js';
import type { Member } from '../../node/identity-file.js';
import { answering } from '../../node/trust/answering.js';
import type { Choice } from '../../node/trust/carry-out.js';
import type { FoundNode } from '../../node/trust/find.js';
import { decisions, incarnationAfter } from '../../node/trust/incarnation.js';
import { freshStart } from '../../node/trust/judge.js';
import { type Case, wrong } from './look.js';

/** Whom to trust, by partition; of `undefined`: wherever nobody is named. */
export type Trust = ReadonlyMap<PartitionId | undefined, NodeId>;

export function parseTrust(texts: readonly string[]): Trust {
  const nodes = new Map<PartitionId | undefined, NodeId>();
  for (const text of texts) {
    const match = /^(?:(\d+)=)?(\d+)$/.exec(text);
    if (match === null)
      throw wrong(`${text} is neither a node (3) nor a partition and a node (12=3)`, 'trust');
    const partition = match[1] === undefined ? undefined : Number(match[1]);
    if (nodes.has(partition)) throw wrong(`two nodes are to be trusted for the same, with ${text}`, 'trust');
    nodes.set(partition, Number(match[2]));
  }
  return nodes;
}

/** A repair that was interrupted is done with some already: the same command passes over them. */
export function namedAndSound(
  cases: readonly Case[],
  nodes: readonly FoundNode[],
  trust: Trust,
): PartitionId[] {
  const sound: PartitionId[] = [];
  for (const [partition, nodeId] of trust) {
    if (partition === undefined || cases.some(({ refused }) => refused.partition === partition)) continue;
    const replicas = nodes.find((node) => node.nodeId === nodeId)?.replicas ?? [];
    if (!replicas.some((one) => one.partition === partition))
      throw wrong(`no replica of partition ${partition} on node ${nodeId} is here`, 'trust');
    sound.push(partition);
  }
  return sound.sort((a, b) => a - b);
}

/** In the order of the partitions; empty: none was made. */
export function chosen(cases: readonly Case[], nodes: readonly FoundNode[], trust: Trust): Choice[] {
  const removed = nodes.flatMap((node) => node.removed);
  const choices: Choice[] = [];
  for (const { refused, options } of cases) {
    const { partition } = refused;
    const nodeId = trust.get(partition) ?? trust.get(undefined);
    if (nodeId === undefined) continue;
    const replica = options.find((option) => option.replica.nodeId === nodeId)?.replica;
    if (replica === undefined)
      throw wrong(
        `node ${nodeId} has no replica of partition ${partition} that could be gone on from`,
        'trust',
      );
    const { replicaId, lostEvents = [] } = replica;
    choices.push({
      partition,
      trusted: { replicaId, nodeId },
      fresh: freshStart(refused, removed),
      lostEvents,
    });
  }
  return choices;
}

export function incarnationOf(
  cases: readonly Case[],
  nodes: readonly FoundNode[],
  trust: Trust,
  { with: files = [], missing = [] }: { with?: readonly string[]; missing?: readonly string[] },
): number {
  // All folders are here: nobody else decides.
  if (files.length === 0 && missing.length === 0)
    return Math.max(...nodes.map((node) => node.incarnation)) + 1;
  const refused = cases.map((each) => each.refused);
  const decided = decisions(refused, nodes, (partition) => trust.get(partition) ?? trust.get(undefined));
  return incarnationAfter(nodes, decided);
}

/** What another machine said: it must have decided the same. */
export function checkIncarnation(incarnation: number, told: number | undefined): void {
  if (told === undefined || told === incarnation) return;
  const what = `these folders and choices lead to incarnation ${incarnation}, not ${told}: give all machines the same choices, and what was found on all of them`;
  throw wrong(what, 'incarnation');
}

/** A node that is only somewhere else must not be given up by an oversight. */
export function checkAbsent(absent: readonly NodeId[], given: readonly string[]): void {
  const left = absent.filter((id) => !given.includes(String(id)));
  if (left.length === 0) return;
  const what = `the folders of nodes ${left.join(', ')} are not here: give what \`hansard repair --json\` says of them (--with), or say that they are lost for good (--missing ${left.join(' ')})`;
  throw wrong(what, 'missing');
}

/** Those whose folders are here are stopped: they could not be opened else. */
export async function checkStopped(here: readonly FoundNode[], members: readonly Member[]): Promise<void> {
  const elsewhere = members.filter((member) => !here.some(({ nodeId }) => nodeId === member.nodeId));
  const running = await answering(elsewhere);
  if (running.length === 0) return;
  const names = running.map(({ nodeId, peerAddress }) => `node ${nodeId} (${peerAddress})`).join(', ');
  const what = `somebody answers at the address of ${names}: nothing is repaired while other nodes run; stop them all first`;
  throw new HansardError('NODE_RUNNING', what, { nodes: running.map(({ nodeId }) => nodeId).join(',') });
}
