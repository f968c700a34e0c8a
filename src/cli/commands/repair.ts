/**
 * `hansard repair`: folders of a stopped cluster in which a majority of a partition's
 * replicas is damaged or gone. Shows replica by replica what is there and what each
 * choice would lose; carries out the operator's choice, and nothing without one.
 */
import { readFile } from 'node:fs/promises';
import { createInterface } from 'node:readline/promises';
import { HansardError } from '../../common/errors.js';
import { noPlace, unknownIndex } from '../../common/faults.js';
import type { NodeId, PartitionId } from '../../common/ids.js';
import { silentLogger } from '../../common/logger.js';
import type { Member } from '../../node/identity-file.js';
import { answering } from '../../node/trust/answering.js';
import { type Choice, carryOut } from '../../node/trust/carry-out.js';
import {
  type FoundChannel,
  type FoundNode,
  type FoundReplica,
  findChannels,
  findReplicas,
  withStateRead,
} from '../../node/trust/find.js';
import { decisions, incarnationAfter } from '../../node/trust/incarnation.js';
import { freshStart, judge, type Loss, lossOf, type Refused } from '../../node/trust/judge.js';
import { closeFolders, type OpenFolder, openFolders } from '../../node/trust/open-folder.js';
import type { ActionContext, CommonOptions } from '../action.js';
import { ExitCode } from '../exit-codes.js';
import { type Output, printable } from '../output.js';

export interface RepairOptions extends CommonOptions {
  readonly trust?: readonly string[];
  readonly acceptLoss?: boolean;
  readonly dryRun?: boolean;
  readonly with?: readonly string[];
  readonly missing?: readonly string[];
  readonly incarnation?: number;
}

/** Of one partition and node: more of them fill no screen, and nobody compares them by eye. */
const channelsMax = 10_000;
const linesShown = 20;
/** Of what `--json` says, for `--with`. */
const format = 1;

/** A node as it was found, and what it has of the partitions that are refused. */
interface Told extends FoundNode {
  readonly channels: Readonly<
    Record<string, { readonly all: readonly FoundChannel[]; readonly leftOut: boolean }>
  >;
}

interface Option {
  readonly replica: FoundReplica;
  readonly loss: Loss;
}

interface Case {
  readonly refused: Refused;
  readonly options: readonly Option[];
}

export async function repair({ output, options, args }: ActionContext<RepairOptions>): Promise<ExitCode> {
  const others = await readOthers(options.with ?? []);
  const nodes = [...(await look(args, others)), ...others];
  checkNodes(nodes);
  const cases = refusedOf(nodes).map((refused) => caseOf(refused, nodes));
  const trust = parseTrust(options.trust ?? []);
  const sound = namedAndSound(cases, nodes, trust);
  const choices = chosen(cases, nodes, trust);
  const incarnation = incarnationOf(cases, nodes, trust, options);
  const members = nodes[0]?.members ?? [];
  const absent = members
    .map(({ nodeId }) => nodeId)
    .filter((id) => !nodes.some((node) => node.nodeId === id));
  output.json({
    format,
    cluster_id: nodes[0]?.clusterId,
    incarnation_after: choices.length > 0 ? incarnation : undefined,
    refused: cases.map((each) => caseAsJson(each, choices)),
    absent_nodes: absent,
    found: nodes,
  });
  printCases(output, nodes, cases, absent);
  for (const partition of sound)
    output.note(`partition ${partition} needs no repair, or none any more: nothing is done about it`);
  if (cases.length === 0) {
    output.note(
      'every partition can elect a leader among these nodes; they mend what is damaged by themselves: start them',
    );
    return ExitCode.ok;
  }
  if (choices.length === 0) {
    printNext(output, args, cases);
    return ExitCode.damaged;
  }
  checkAbsent(absent, options.missing ?? []);
  checkIncarnation(incarnation, options.incarnation);
  await checkStopped(nodes.slice(0, args.length), members);
  printChoices(output, cases, choices, incarnation);
  if (options.dryRun === true) {
    output.note('nothing was changed');
    return ExitCode.ok;
  }
  if (options.acceptLoss !== true) await confirm(output, choices);
  await carryOut(args, choices, incarnation, silentLogger);
  output.line(
    `done: ${choices.length} partitions go on from the replicas chosen; incarnation ${incarnation}`,
  );
  output.note(
    'start the nodes; the other replicas are fetched anew (hansard status). Tokens from before fail with INCARNATION_CHANGED. Then: hansard verify',
  );
  return choices.length < cases.length ? ExitCode.damaged : ExitCode.ok;
}

// ---- what is there

async function look(dirs: readonly string[], others: readonly Told[]): Promise<Told[]> {
  const folders = await openFolders(dirs, () => 'look', silentLogger);
  try {
    const found: FoundNode[] = [];
    for (const folder of folders) found.push(await findReplicas(folder));
    await readCandidates(folders, found, others);
    const refused = refusedOf([...found, ...others]);
    const told: Told[] = [];
    for (const [i, node] of found.entries()) {
      const channels: Record<string, { all: FoundChannel[]; leftOut: boolean }> = {};
      for (const { partition, replicas } of refused) {
        const mine = replicas.find(({ nodeId }) => nodeId === node.nodeId);
        const store = folders[i]?.store;
        if (mine?.end === undefined || store === undefined) continue;
        const { channels: all, leftOut } = await findChannels(store.partition(partition), channelsMax);
        channels[partition] = { all, leftOut };
      }
      told.push({ ...node, channels });
    }
    return told;
  } finally {
    await closeFolders(folders);
  }
}

/** Whoever may be trusted is read to the last row first. */
async function readCandidates(
  folders: readonly OpenFolder[],
  found: FoundNode[],
  others: readonly Told[],
): Promise<void> {
  for (const { partition, replicas } of refusedOf([...found, ...others])) {
    for (const [i, folder] of folders.entries()) {
      const node = found[i] as FoundNode;
      const mine = replicas.find(({ nodeId }) => nodeId === node.nodeId);
      if (mine === undefined) continue;
      const read = await withStateRead(folder, mine);
      found[i] = {
        ...node,
        replicas: node.replicas.map((one) => (one.partition === partition ? read : one)),
      };
    }
  }
}

function refusedOf(nodes: readonly FoundNode[]): Refused[] {
  const replicas = nodes.flatMap((node) => node.replicas);
  const partitions = [...new Set(replicas.map(({ partition }) => partition))].sort((a, b) => a - b);
  return partitions.map((partition) => judge(partition, replicas)).filter((one) => one !== undefined);
}

function caseOf(refused: Refused, nodes: readonly Told[]): Case {
  const told = nodes.map((node) => ({ nodeId: node.nodeId, ...node.channels[refused.partition] }));
  const channels = new Map(told.map(({ nodeId, all }) => [nodeId, all ?? []]));
  const cut = told.filter(({ leftOut }) => leftOut).map(({ nodeId }) => nodeId);
  const notCompared = `of nodes ${cut.join(', ')} only the first ${channelsMax} channels, by name, were compared`;
  const options = refused.candidates.map((replica) => {
    const { events, gone } = lossOf(replica, refused, channels);
    return { replica, loss: { events, gone: cut.length > 0 ? [...gone, notCompared] : gone } };
  });
  return { refused, options };
}

async function readOthers(files: readonly string[]): Promise<Told[]> {
  const told: Told[] = [];
  for (const file of files) {
    const { format: found, found: nodes } = parse(await readFile(file, 'utf8').catch(() => ''));
    if (found !== format || !Array.isArray(nodes))
      throw wrong(`${file} is not what \`hansard repair --json\` of this version says`, 'with');
    told.push(...(nodes as Told[]));
  }
  return told;
}

function parse(text: string): { readonly format?: unknown; readonly found?: unknown } {
  try {
    return (JSON.parse(text) as object | null) ?? {};
  } catch (error) {
    if (error instanceof SyntaxError) return {};
    throw error;
  }
}

function checkNodes(nodes: readonly FoundNode[]): void {
  for (const [i, { nodeId, clusterId, dir }] of nodes.entries()) {
    if (clusterId !== nodes[0]?.clusterId)
      throw wrong(`${dir} is of another cluster than ${nodes[0]?.dir}`, 'with');
    const twin = nodes.slice(i + 1).find((other) => other.nodeId === nodeId);
    if (twin !== undefined) throw wrong(`${dir} and ${twin.dir} are both of node ${nodeId}`, 'folder');
  }
}

// ---- the choice

/** Whom to trust, by partition; of `undefined`: wherever nobody is named. */
type Trust = ReadonlyMap<PartitionId | undefined, NodeId>;

function parseTrust(texts: readonly string[]): Trust {
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
function namedAndSound(cases: readonly Case[], nodes: readonly FoundNode[], trust: Trust): PartitionId[] {
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
function chosen(cases: readonly Case[], nodes: readonly FoundNode[], trust: Trust): Choice[] {
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

function incarnationOf(
  cases: readonly Case[],
  nodes: readonly FoundNode[],
  trust: Trust,
  { with: files = [], missing = [] }: RepairOptions,
): number {
  // All folders are here: nobody else decides.
  if (files.length === 0 && missing.length === 0)
    return Math.max(...nodes.map((node) => node.incarnation)) + 1;
  const refused = cases.map((each) => each.refused);
  const decided = decisions(refused, nodes, (partition) => trust.get(partition) ?? trust.get(undefined));
  return incarnationAfter(nodes, decided);
}

/** What another machine said: it must have decided the same. */
function checkIncarnation(incarnation: number, told: number | undefined): void {
  if (told === undefined || told === incarnation) return;
  const what = `these folders and choices lead to incarnation ${incarnation}, not ${told}: give all machines the same choices, and what was found on all of them`;
  throw wrong(what, 'incarnation');
}

/** A node that is only somewhere else must not be given up by an oversight. */
function checkAbsent(absent: readonly NodeId[], given: readonly string[]): void {
  const left = absent.filter((id) => !given.includes(String(id)));
  if (left.length === 0) return;
  const what = `the folders of nodes ${left.join(', ')} are not here: give what \`hansard repair --json\` says of them (--with), or say that they are lost for good (--missing ${left.join(' ')})`;
  throw wrong(what, 'missing');
}

/** Those whose folders are here are stopped: they could not be opened else. */
async function checkStopped(here: readonly FoundNode[], members: readonly Member[]): Promise<void> {
  const elsewhere = members.filter((member) => !here.some(({ nodeId }) => nodeId === member.nodeId));
  const running = await answering(elsewhere);
  if (running.length === 0) return;
  const names = running.map(({ nodeId, peerAddress }) => `node ${nodeId} (${peerAddress})`).join(', ');
  const what = `somebody answers at the address of ${names}: nothing is repaired while other nodes run; stop them all first`;
  throw new HansardError('NODE_RUNNING', what, { nodes: running.map(({ nodeId }) => nodeId).join(',') });
}

async function confirm(output: Output, choices: readonly Choice[]): Promise<void> {
  const word = `lose what is lost in ${choices.length} partitions`;
  if (output.isJson || process.stdin.isTTY !== true)
    throw wrong(
      'nobody can be asked here: say --accept-loss, or --dry-run to see what would be done',
      'accept-loss',
    );
  const asked = createInterface({ input: process.stdin, output: process.stderr });
  try {
    const answer = await asked.question(`Type "${word}" to go on: `);
    if (answer.trim() !== word) throw wrong('that was not typed: nothing was changed', 'accept-loss');
  } finally {
    asked.close();
  }
}

function wrong(what: string, setting: string): HansardError {
  return new HansardError('INVALID_SETTINGS', what, { setting });
}

// ---- telling

function printCases(
  output: Output,
  nodes: readonly FoundNode[],
  cases: readonly Case[],
  absent: readonly NodeId[],
): void {
  const c = output.colors;
  const ids = nodes.map(({ nodeId, incarnation }) => `${nodeId} (incarnation ${incarnation})`);
  output.line(`cluster ${nodes[0]?.clusterId}; folders of nodes ${ids.join(', ')}`);
  if (absent.length > 0) output.line(c.red(`no folder of nodes ${absent.join(', ')}`));
  for (const { refused, options } of cases) {
    output.line();
    output.line(c.red(`partition ${refused.partition} can elect no leader: ${refused.why}`));
    output.table(
      [
        { title: 'NODE', align: 'right' },
        { title: 'REPLICA', align: 'right' },
        { title: 'TERM', align: 'right' },
        { title: 'CHECKPOINT', align: 'right' },
        { title: 'LOG ENDS', align: 'right' },
        { title: 'STANDS AT', align: 'right' },
        { title: 'WHAT WAS FOUND' },
      ],
      refused.replicas.map((one) => [
        one.nodeId,
        one.replicaId,
        one.term,
        one.sealed.index,
        placeText(one.last),
        one.end === undefined ? c.red('no state') : placeText(one.end),
        one.faults.length === 0
          ? c.green('sound')
          : one.faults.map(({ kind, why, floor }) => `${kind}${floorText(floor)}: ${why}`).join('; '),
      ]),
    );
    for (const { replica, loss } of options) printLoss(output, replica, loss);
    if (options.length === 0)
      output.line('no replica has a state to go on from: put back a sound copy of one of the folders');
  }
}

function printLoss(output: Output, { nodeId }: FoundReplica, { events, gone }: Loss): void {
  output.line(`if node ${nodeId} is trusted:`);
  for (const { tenant, channel, firstSeq, lastSeq, nodes } of events.slice(0, linesShown))
    output.line(
      `  lost: ${printable(`${tenant}/${channel}`)}, events ${firstSeq} to ${lastSeq} (node ${nodes.join(', ')} has them)`,
    );
  if (events.length > linesShown)
    output.line(`  … and of ${events.length - linesShown} more channels; --json has all`);
  if (events.length === 0) output.line('  nothing is lost that another folder here still has');
  for (const text of gone.slice(0, linesShown)) output.line(`  ${printable(text)}`);
  if (gone.length > linesShown) output.line(`  … and ${gone.length - linesShown} more; --json has all`);
}

function printNext(output: Output, dirs: readonly string[], cases: readonly Case[]): void {
  const best = cases.flatMap(({ refused, options }) =>
    options[0] === undefined ? [] : [`${refused.partition}=${options[0].replica.nodeId}`],
  );
  if (best.length === 0) return;
  output.line();
  output.line('the furthest of each (least is lost, as far as the logs tell; the choice is yours):');
  output.line(`  hansard repair ${dirs.join(' ')} --trust ${best.join(' ')} --dry-run`);
}

function printChoices(
  output: Output,
  cases: readonly Case[],
  choices: readonly Choice[],
  incarnation: number,
): void {
  output.line();
  for (const { partition, trusted, fresh } of choices) {
    const others = cases
      .find(({ refused }) => refused.partition === partition)
      ?.refused.replicas.filter(({ nodeId }) => nodeId !== trusted.nodeId)
      .map(({ nodeId }) => nodeId);
    output.line(
      `partition ${partition}: node ${trusted.nodeId} is trusted, from term ${fresh.term} on; what nodes ${others?.join(', ') || 'elsewhere'} have of it is given up and fetched anew`,
    );
  }
  output.line(`the cluster's incarnation becomes ${incarnation}: tokens from before fail`);
}

function placeText({ index, term }: { index: number; term: number }): string {
  return index === 0 ? '0' : `${index} (term ${term})`;
}

function floorText({ index, term }: { index: number; term: number }): string {
  if (term === noPlace.term && index === noPlace.index) return '';
  return index === unknownIndex ? ` (ended in term ${term})` : ` (ended at ${index}, term ${term})`;
}

function caseAsJson({ refused, options }: Case, choices: readonly Choice[]) {
  const { partition, why, voters, missing } = refused;
  return {
    partition,
    why,
    voters,
    missing_nodes: missing,
    trusted_node: choices.find((choice) => choice.partition === partition)?.trusted.nodeId,
    choices: options.map(({ replica, loss }) => ({
      node: replica.nodeId,
      replica: replica.replicaId,
      stands_at: replica.end,
      lost_events: loss.events,
      lost_or_unknown: loss.gone,
    })),
  };
}
