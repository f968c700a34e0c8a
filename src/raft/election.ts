/** Standing for election, and voting. */

import type { Raft } from './raft.js';
import {
  CAMPAIGN_TRANSFER,
  MessageType as M,
  type Message,
  message,
  messageTypeNames,
  NONE,
  Role,
} from './types.js';

/** 'transfer': asked for by the leader, so without a pre-vote and in spite of leases. */
export type CampaignKind = 'pre-election' | 'election' | 'transfer';

/** Stands for election unless something speaks against it. */
export function campaign(r: Raft, kind: CampaignKind): void {
  if (r.role === Role.leader) {
    r.logger?.debug(`${r.id} ignoring MsgHup because already leader`);
    return;
  }
  if (!r.promotable()) {
    r.logger?.warn(`${r.id} is unpromotable and can not campaign`);
    return;
  }
  // A change that is committed and not applied here may have made us, or those
  // whose votes we would count, no voters.
  if (r.log.hasUnappliedConfChange()) {
    r.logger?.warn(
      `${r.id} cannot campaign at term ${r.term} since there are still pending configuration changes to apply`,
    );
    return;
  }
  r.logger?.info(`${r.id} is starting a new election at term ${r.term}`);
  requestVotes(r, kind);
}

/** The second half of `campaign`; a pre-candidate that has won goes on here. */
export function requestVotes(r: Raft, kind: CampaignKind): void {
  if (kind === 'pre-election') r.becomePreCandidate();
  else r.becomeCandidate();
  const type = kind === 'pre-election' ? M.MsgPreVote : M.MsgVote;
  const term = kind === 'pre-election' ? r.term + 1 : r.term;
  const lastIndex = r.log.lastIndex();
  const lastTerm = r.log.lastTerm();
  for (const id of r.tracker.voters()) {
    if (id === r.id) {
      // Our own vote counts once it is synced, like everybody's.
      const own = message(responseType(type), id);
      own.term = term;
      r.send(own);
      continue;
    }
    r.logger?.info(
      `${r.id} [logterm: ${lastTerm}, index: ${lastIndex}] sent ${messageTypeNames[type]} request to ${id} at term ${r.term}`,
    );
    const m = message(type, id);
    m.term = term;
    m.index = lastIndex;
    m.logTerm = lastTerm;
    if (kind === 'transfer') m.context = CAMPAIGN_TRANSFER;
    r.send(m);
  }
}

export function handleVoteRequest(r: Raft, m: Message): void {
  const canVote =
    r.vote === m.from || (r.vote === NONE && r.lead === NONE) || (m.type === M.MsgPreVote && m.term > r.term);
  // Whether we are a voter does not matter: a learner that was promoted and has
  // not heard of it must vote, or a group that needs its vote never elects.
  const granted = canVote && r.log.isUpToDate(m.logTerm, m.index);
  r.logger?.info(
    `${r.id} [logterm: ${r.log.lastTerm()}, index: ${r.log.lastIndex()}, vote: ${r.vote}] ${granted ? 'cast' : 'rejected'} ${messageTypeNames[m.type]} for ${m.from} [logterm: ${m.logTerm}, index: ${m.index}] at term ${r.term}`,
  );
  const answer = message(responseType(m.type), m.from);
  // A grant names the term asked for (a pre-vote's is above ours), or the
  // candidate would drop it as old; a refusal names ours, so that it learns it.
  answer.term = granted ? m.term : r.term;
  answer.reject = !granted;
  r.send(answer);
  if (granted && m.type === M.MsgVote) {
    r.electionElapsed = 0;
    r.vote = m.from;
  }
}

function responseType(type: M): M {
  return type === M.MsgVote ? M.MsgVoteResp : M.MsgPreVoteResp;
}
