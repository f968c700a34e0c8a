/**
 * Carries out an operator's choice: the trusted replica becomes the only member of its
 * partition, with all that its log has; the others count as lost, and come back under
 * new ids from the trusted one (repairs.ts), as any replica does that lost its votes.
 *
 * The order is what makes it safe to be interrupted anywhere and begun anew: nobody
 * talks to a node that was left out (the incarnation), then those that are given up are
 * silenced, and only then the trusted one may lead alone.
 */
import { isDeepStrictEqual } from 'node:util';
import { entryChecksum } from '../../common/entry-checksum.js';
import { HansardError, InvariantError } from '../../common/errors.js';
import type { NodeId, PartitionId } from '../../common/ids.js';
import { type Entry, EntryType } from '../../common/log-types.js';
import type { Logger } from '../../common/logger.js';
import { changedMembership, type ReplicaMember } from '../../common/membership.js';
import type { LostEvents } from '../../store/give-up.js';
import { Pace } from '../../store/pace.js';
import type { GroupWrite, Wal } from '../../wal/types.js';
import { openDirectory, writeIncarnation } from '../directory.js';
import { realClock } from '../real-env.js';
import { newFault } from '../replace-log.js';
import { heldBy, votesLostBy } from './find.js';
import type { FreshStart } from './judge.js';
import { closeFolders, HeldDatabases, type OpenFolder, openFolders } from './open-folder.js';
import { replayRest } from './replay.js';
import { standingsOf } from './standing.js';

export interface Choice {
  readonly partition: PartitionId;
  readonly trusted: ReplicaMember;
  readonly fresh: FreshStart;
  /** Damaged events of the trusted replica that the plan told of: no others are given up. */
  readonly lostEvents: readonly LostEvents[];
}

export interface Plan {
  readonly choices: readonly Choice[];
  /** That the cluster's is raised to. */
  readonly incarnation: number;
  /** What the choices rest on, of each folder (standing.ts). */
  readonly standings: ReadonlyMap<NodeId, string>;
}

/** Changes nothing where the folders are not those any more that were looked at (REPAIR_OUTDATED). */
export async function carryOut(dirs: readonly string[], plan: Plan, logger: Logger): Promise<void> {
  const held = new HeldDatabases();
  try {
    const found = await standingsOf(dirs, logger, held);
    for (const [node, standing] of found) {
      if (plan.standings.get(node) === standing) continue;
      const what = `the folder of node ${node} has changed since the plan was made: nothing was changed by this repair; run it again, and look at the new plan`;
      throw new HansardError('REPAIR_OUTDATED', what, { node });
    }
    // From here to the end nobody else changes them.
    await change(dirs, plan, logger, held);
  } finally {
    await held.close();
  }
}

async function change(
  dirs: readonly string[],
  { choices, incarnation }: Plan,
  logger: Logger,
  held: HeldDatabases,
): Promise<void> {
  await raiseBelow(dirs, incarnation);
  const isTrusted = (node: NodeId): boolean => choices.some(({ trusted }) => trusted.nodeId === node);
  const folders = await openFolders(dirs, (node) => (isTrusted(node) ? 'trust' : 'give-up'), logger, held);
  try {
    for (const folder of folders) await giveUpOthers(folder, choices);
    for (const folder of folders) {
      const { nodeId } = folder.directory.identity;
      for (const choice of choices) if (choice.trusted.nodeId === nodeId) await trust(folder, choice, logger);
    }
  } finally {
    await closeFolders(folders);
  }
}

/** The same command again goes on where it was. */
async function raiseBelow(dirs: readonly string[], incarnation: number): Promise<void> {
  for (const dir of dirs) {
    const { identity } = await openDirectory(dir);
    if (identity.incarnation < incarnation) await writeIncarnation(dir, incarnation);
  }
}

async function giveUpOthers(folder: OpenFolder, choices: readonly Choice[]): Promise<void> {
  const { ledger, directory } = folder;
  const { nodeId } = directory.identity;
  const held = heldBy(folder);
  // Where it lives alone nobody gets anything from elsewhere: a start goes on refusing what it refuses.
  if (!choices.some(({ partition }) => held.some((one) => one.partition === partition))) return;
  // What a start would find; on record first, since a repaired partition must not count as lost by it again.
  const lost = votesLostBy(folder, held);
  if (lost !== '')
    await ledger.add(held.map((one) => newFault(one, 'term-or-vote-lost', lost, realClock.nowUs())));
  for (const { partition, trusted } of choices) {
    const one = held.find((each) => each.partition === partition);
    if (one === undefined || trusted.nodeId === nodeId) continue;
    const why = `hansard repair: node ${trusted.nodeId} is trusted in its place`;
    await ledger.add([newFault(one, 'term-or-vote-lost', why, realClock.nowUs())]);
    await ledger.clear(partition, ['state-damaged', 'log-damaged']);
  }
}

async function trust(
  folder: OpenFolder,
  { partition, trusted, fresh, lostEvents }: Choice,
  logger: Logger,
): Promise<void> {
  const { store, wal, ledger } = folder;
  const { replicaId } = trusted;
  const state = store.partition(partition);
  const known = wal.group(partition);
  const log = known === undefined || known.replicaId < replicaId ? wal.addGroup(partition, replicaId) : known;
  const pace = new Pace(realClock, 0);
  const found = await store.findLostEvents(partition, pace);
  if (!isDeepStrictEqual(found, lostEvents))
    throw new HansardError(
      'STORE_DAMAGED',
      `partition ${partition}: other events are damaged now than the plan told`,
      {
        partition,
      },
    );
  if (found.length > 0) await store.giveUpLostEvents(partition, pace);
  if (await store.giveUpBrokenChanges(partition))
    logger.warn(
      { partition, replicaId },
      'its list of changes has a gap and begins anew: who follows the partition from before is told so (TOKEN_TOO_OLD); no event is lost by it',
    );
  await replayRest(state, log);
  const { appliedIndex, appliedTerm } = state;
  // Its log ends before what is sealed, or says something else there: it goes on from what is sealed.
  if (log.term(appliedIndex) !== appliedTerm || log.lastIndex() !== appliedIndex)
    log.reset(appliedIndex, appliedTerm);
  const index = appliedIndex + 1;
  const { term } = fresh;
  const place = { term, index, type: EntryType.normal, data: new Uint8Array(0) };
  const entry: Entry = { ...place, sizeBytes: 0, checksum: entryChecksum(partition, place) };
  // The log first: a state that is sealed beyond its log's end would look like a log that lost it.
  const write = { partition, hardState: { term, vote: 0, commit: index }, entries: [entry] };
  await Promise.race([written(wal, write), folder.failed]);
  const confState = {
    voters: [replicaId],
    votersOutgoing: [],
    learners: [],
    learnersNext: [],
    autoLeave: false,
  };
  const before = { members: [trusted], nextReplicaId: fresh.nextReplicaId, changes: fresh.changes - 1 };
  const membership = changedMembership(before, confState, []);
  if (membership === undefined) throw new InvariantError(`replica ${replicaId} is nowhere`);
  state.beginEntry();
  state.setConfState(confState, membership);
  state.endEntry(index, term);
  await state.checkpoint();
  // Last: until here it is held back as before.
  await ledger.trusted(partition);
  logger.info(
    { partition, replicaId, index, term },
    'this replica is trusted: its partition goes on from it alone',
  );
}

function written(wal: Wal, write: GroupWrite): Promise<void> {
  return new Promise((resolve) => wal.write([write], resolve));
}
