/**
 * Planted bugs, each a mistake that systems of this kind have made. They are put into the
 * compiled code while it is loaded (hooks.ts): nothing in production knows of them. A
 * mutant that the simulator does not find is a hole in the simulator.
 */
import type { FaultKind } from '../faults.js';

export interface Patch {
  /** Compiled, below dist/. */
  readonly file: string;
  /** Occurs exactly once. */
  readonly find: string;
  readonly replace: string;
}

export interface PlantedBug {
  readonly name: string;
  /** What it breaks. */
  readonly breaks: string;
  readonly patches: readonly Patch[];
  /** Those that bring it out; absent: what the seed draws. */
  readonly faults?: readonly FaultKind[];
  readonly smallLogs?: boolean;
  /** Those who report deliveries take part. */
  readonly deliveries?: boolean;
  /** Load with faults, simulated ms. */
  readonly faultMs?: number;
  /** It must be found within so many seeds, from 1 on. */
  readonly withinSeeds: number;
}

export const defaultFaultMs = 6_000;

const replica = 'src/partition/replica.js';
const raftLog = 'src/raft/log.js';
const applyDelivery = 'src/conversation/apply-delivery.js';
const valueFiles = 'src/store/value-files.js';
const applyProducer = 'src/conversation/apply-producer.js';

export const plantedBugs: readonly PlantedBug[] = [
  {
    name: 'early-acknowledgement-by-follower',
    breaks: 'a follower acknowledges entries that it has not synced',
    patches: [
      {
        file: replica,
        find: 'this.#writes.push(responses);',
        replace:
          'this.#deliver(responses.filter((r) => r.type === MessageType.MsgAppResp && r.to !== this.replicaId)); this.#writes.push(responses.filter((r) => r.type !== MessageType.MsgAppResp || r.to === this.replicaId));',
      },
    ],
    withinSeeds: 2,
  },
  {
    name: 'vote-not-persisted',
    breaks: 'the log keeps the term and forgets the vote',
    patches: [
      {
        file: replica,
        find: 'vote: this.#hardVote, commit: this.#ridingCommit',
        replace: 'vote: 0, commit: this.#ridingCommit',
      },
    ],
    withinSeeds: 2,
  },
  {
    name: 'vote-twice',
    breaks: 'a replica votes for whoever asks in a term',
    patches: [
      { file: 'src/raft/election.js', find: 'const canVote = ', replace: 'const canVote = true || ' },
    ],
    withinSeeds: 10,
  },
  {
    name: 'vote-for-shorter-log',
    breaks: 'a replica votes for a candidate whose log lacks what it has itself',
    patches: [
      {
        file: raftLog,
        find: 'return term > ours || (term === ours && index >= this.lastIndex());',
        replace: 'return term >= ours;',
      },
    ],
    faults: ['kill', 'power', 'isolate', 'oneWay', 'pause', 'stall'],
    withinSeeds: 10,
  },
  {
    name: 'vote-request-before-it-is-kept',
    breaks: "a candidate asks for votes before its own term and vote are synced (design rule 9's gate)",
    patches: [
      {
        file: replica,
        find: 'if (mustSync && message.type === MessageType.MsgVote) {',
        replace: 'if (false) {',
      },
    ],
    withinSeeds: 2,
  },
  {
    name: 'old-term-by-counting',
    breaks: 'a leader commits entries of earlier terms by counting replicas (Raft, figure 8)',
    patches: [{ file: raftLog, find: ' || !this.matches(index, term))', replace: ')' }],
    faults: ['figure8'],
    withinSeeds: 20,
  },
  {
    name: 'read-before-own-term-commits',
    breaks: 'a new leader gives out a read index before an entry of its term has committed',
    patches: [
      { file: 'src/raft/reads.js', find: 'if (r.committedInCurrentTerm())', replace: 'if (true)' },
      {
        file: 'src/partition/read-barrier.js',
        find: ' && raft.committedInCurrentTerm;',
        replace: ';',
      },
    ],
    faults: ['outlive', 'handover', 'stall', 'slow'],
    withinSeeds: 30,
  },
  {
    name: 'truncation-below-commit',
    breaks: "a follower cuts its log at an append's place even where it holds the same entries",
    patches: [
      { file: raftLog, find: 'const skip = this.#firstConflict(entries);', replace: 'const skip = 0;' },
      {
        file: 'src/raft/step-follower.js',
        find: 'if (m.index < r.log.committed) {',
        replace: 'if (false) {',
      },
    ],
    withinSeeds: 10,
  },
  {
    name: 'stale-append-acknowledged',
    breaks: 'a completed write of an earlier term makes entries stable that replaced what it wrote',
    patches: [
      {
        file: 'src/raft/raft.js',
        // biome-ignore lint/suspicious/noTemplateCurlyInString: text of the compiled code.
        find: 'this.logger?.info(`${this.id} [term: ${this.term}] ignored entry appends of lower term ${m.term}`);',
        replace: 'this.log.unstable.stableTo(m.logTerm, m.index);',
      },
      {
        file: 'src/raft/unstable.js',
        find: 'if (index < this.offset || this.term(index) !== term)',
        replace: 'if (index < this.offset || this.term(index) === undefined)',
      },
    ],
    faults: ['usurp', 'slow'],
    withinSeeds: 20,
  },
  {
    name: 'reordered-completion',
    breaks: "a completed write delivers a later write's responses",
    patches: [
      {
        file: replica,
        find: 'const responses = this.#writes.shift();',
        replace: 'const responses = this.#writes.pop();',
      },
    ],
    withinSeeds: 5,
  },
  {
    name: 'leader-counts-itself-unsynced',
    breaks: 'a leader counts itself among those that hold an entry before it has synced it',
    patches: [
      {
        file: 'src/raft/raft.js',
        find: 'this.send(ack);',
        replace: 'this.tracker.get(this.id)?.maybeUpdate(index); this.send(ack);',
      },
    ],
    faults: ['stall', 'kill', 'power', 'isolate'],
    withinSeeds: 5,
  },
  {
    name: 'unsynced-applied',
    breaks: 'committed entries are applied before they are synced here',
    patches: [
      {
        file: raftLog,
        find: 'return allowUnstable ? this.committed : Math.min(this.committed, this.unstable.offset - 1);',
        replace: 'return this.committed;',
      },
    ],
    faults: ['stall', 'kill', 'power'],
    withinSeeds: 5,
  },
  {
    name: 'snapshot-over-newer-state',
    breaks: 'a replica takes over a snapshot that is older than what it has',
    patches: [
      { file: replica, find: 'return index > this.#raft.commitIndex && ', replace: 'return ' },
      { file: 'src/raft/step-follower.js', find: 'if (index <= r.log.committed)', replace: 'if (false)' },
    ],
    smallLogs: true,
    faults: ['repeat', 'isolate', 'pause', 'break'],
    faultMs: 10_000,
    withinSeeds: 40,
  },
  {
    name: 'snapshot-keeps-the-log',
    breaks: 'after a snapshot the log goes on where it was',
    patches: [{ file: replica, find: 'this.log.reset(index, term);', replace: '' }],
    smallLogs: true,
    withinSeeds: 5,
  },
  {
    name: 'keys-lost-at-checkpoint',
    breaks: 'a checkpoint drops the keys of its tail',
    patches: [{ file: 'src/store/sealer.js', find: 'await keyEntries(frozen, out)', replace: '[]' }],
    withinSeeds: 5,
  },
  {
    name: 'producers-lost-at-checkpoint',
    breaks: "a checkpoint drops what its tail knows of producers' counters",
    patches: [
      {
        file: 'src/store/sealer.js',
        find: 'await sealProducers(state, frozen, out)',
        replace: 'state.sealed.producers.size',
      },
    ],
    withinSeeds: 5,
  },
  {
    name: 'tail-dropped-before-its-batch',
    breaks: "a checkpoint drops the frozen tail before LevelDB's batch is written",
    patches: [
      {
        file: 'src/store/checkpoint.js',
        find: 'await batch.write();\n            for',
        replace: 'void batch.write().catch(() => undefined);\n            for',
      },
    ],
    faults: ['stall', 'kill', 'power'],
    withinSeeds: 5,
  },
  {
    name: 'log-cut-before-it-is-sealed',
    breaks: 'the log is cut up to what is applied instead of what is sealed',
    patches: [
      {
        file: 'src/node/checkpoints.js',
        find: 'let kept = replica.cuttableIndex;',
        replace: 'let kept = replica.appliedIndex;',
      },
    ],
    faults: ['kill', 'killAll', 'power'],
    withinSeeds: 15,
  },
  {
    name: 'replay-past-commit',
    breaks: 'a start takes all that the log holds for committed',
    patches: [
      {
        file: 'src/partition/raft-storage.js',
        find: 'commit: Math.max(commit, appliedIndex, ',
        replace: 'commit: Math.max(this.lastIndex(), appliedIndex, ',
      },
    ],
    faults: ['kill', 'killAll', 'isolate', 'stall'],
    withinSeeds: 10,
  },
  {
    name: 'recycled-with-the-only-vote',
    breaks: "a new segment's table lacks the votes, and the segments that hold them are given back",
    patches: [
      {
        file: 'src/wal/group-log.js',
        find: 'term: this.#term,\n            vote: this.#vote,',
        replace: 'term: this.#term,\n            vote: 0,',
      },
    ],
    smallLogs: true,
    withinSeeds: 5,
  },
  {
    name: 'recycled-before-its-table',
    breaks: 'segments are given back before the table that replaces them is synced',
    patches: [
      {
        file: 'src/wal/wal.js',
        find: 'const retirable = this.#segments.retirable();',
        replace: 'const retirable = 0; this.#segments.retire(this.#segments.retirable());',
      },
    ],
    faults: ['crashPoint', 'power'],
    smallLogs: true,
    withinSeeds: 40,
  },
  {
    name: 'batch-packed-twice',
    breaks:
      'a batch that is not written on this thread after all is packed anew, and its rows say no more whose they are',
    patches: [
      {
        file: 'src/wal/wal.js',
        find: 'const batch = this.#pack(flight);',
        replace:
          'const batch = this.#pack(flight); if (batch !== undefined && !here.suits(batch.bytes)) return false;',
      },
    ],
    withinSeeds: 10,
  },
  {
    name: 'unsynced-tail-acknowledged-after-restart',
    breaks: 'a start relies on a last batch that may only be in the page cache',
    patches: [
      {
        file: 'src/wal/wal.js',
        find: 'await this.#rewriteLast(found);',
        replace:
          'const { last } = found; this.#number = last.batch.number + 1; this.#previous = last.batch.checksum; this.#current = { segment: last.segment, bytes: this.#segmentBytes }; this.#offset = last.offset + last.batch.bytes; this.#staging = this.#device.allocate(alignUp(this.#maxBatchBytes)); found.applyLast(last.segment, last.offset); this.#closed = (last.batch.flags & BatchFlag.closing) !== 0;',
      },
    ],
    faults: ['relapse', 'power'],
    withinSeeds: 10,
  },
  {
    name: 'apply-reads-a-local-setting',
    breaks: "applying depends on how full this node's tail is",
    patches: [
      {
        file: applyProducer,
        find: 'answers.length + 1 - state.meta.settings.producerWindow;',
        replace: 'answers.length - (state.tailBytes % 3);',
      },
    ],
    withinSeeds: 2,
  },
  {
    name: 'producer-gap-not-refused',
    breaks: 'an append beyond the next counter of its producer is taken (producers by highest counter)',
    patches: [
      {
        file: applyProducer,
        find: 'if (firstCounter === expected)',
        replace: 'if (firstCounter >= expected)',
      },
    ],
    faults: ['calls', 'kill', 'outlive'],
    withinSeeds: 10,
  },
  {
    name: 'counter-applied-twice',
    breaks: "a repeat by its producer's counter is applied again",
    patches: [
      {
        file: applyProducer,
        find: 'if (firstCounter === expected)',
        replace: 'if (firstCounter <= expected)',
      },
    ],
    faults: ['kill', 'isolate', 'pause'],
    withinSeeds: 5,
  },
  {
    name: 'append-condition-ignored',
    breaks: 'an append is taken although its condition does not hold',
    patches: [
      {
        file: 'src/conversation/apply-append.js',
        find: 'undefined : checkCondition(command.condition, channel)',
        replace: 'undefined : undefined',
      },
    ],
    withinSeeds: 2,
  },
  {
    name: 'stamps-of-any-clock',
    breaks: 'a leader stamps what its wall clock shows, however far that is ahead of the others',
    patches: [
      {
        file: 'src/node/clock-watch.js',
        find: 'if (nowUs > mostUs)',
        replace: 'if (false)',
      },
    ],
    faults: ['clock', 'kill'],
    withinSeeds: 10,
  },
  {
    name: 'commit-time-of-the-leader',
    breaks: "commit times follow the leader's clock backwards",
    patches: [
      {
        file: 'src/conversation/apply.js',
        find: 'Math.max(decoded.leaderTimeUs, meta.lastCommitTimeUs)',
        replace: 'decoded.leaderTimeUs',
      },
    ],
    faults: ['leap'],
    withinSeeds: 60,
  },
  {
    name: 'answer-of-a-replaced-entry',
    breaks: "a proposal whose entry another leader's replaced gets that one's answer",
    patches: [
      { file: 'src/partition/proposals.js', find: 'if (entry.term !== term) {', replace: 'if (false) {' },
    ],
    faults: ['outlive', 'isolate', 'pause', 'oneWay'],
    withinSeeds: 10,
  },
  {
    name: 'heartbeat-without-terms',
    breaks: 'heartbeats and their answers name no term',
    patches: [
      {
        file: 'src/node/heartbeats.js',
        find: 'message.term = beat.term;',
        replace: "message.term = kind === 'acknowledgements' ? beat.term : 0;",
      },
    ],
    faults: ['isolate', 'pause', 'oneWay'],
    withinSeeds: 10,
  },
  {
    name: 'heartbeat-commits-unmatched',
    breaks: "a heartbeat carries a commit index beyond what the follower's log is known to match",
    patches: [
      {
        file: 'src/raft/replication.js',
        find: 'm.commit = Math.min(pr.match, r.log.committed);',
        replace: 'm.commit = r.log.committed;',
      },
    ],
    withinSeeds: 10,
  },
  {
    name: 'vouching-in-any-term',
    breaks: 'a replica vouches for a leader of an earlier term',
    patches: [{ file: replica, find: 'this.isMute || this.#raft.term !== term)', replace: 'this.isMute)' }],
    faults: ['haunt'],
    withinSeeds: 20,
  },
  {
    name: 'leads-as-of-its-last-turn',
    breaks:
      'a replica says that it leads, as long as it has had no turn since it was deposed, in the term of who deposed it',
    patches: [
      {
        file: replica,
        find: 'return this.#raft.role === Role.leader;',
        replace: 'return this.#role === Role.leader;',
      },
    ],
    faults: ['busy', 'outlive', 'haunt', 'handover'],
    withinSeeds: 20,
  },
  {
    name: 'read-rounds-share-a-context',
    breaks: 'all read rounds have one number, in all terms',
    patches: [
      {
        file: 'src/partition/reads.js',
        find: 'const context = ++this.#contexts;',
        replace: 'const context = this.#contexts;',
      },
      {
        file: 'src/node/read-rounds.js',
        find: 'const number = ++this.#number;',
        replace: 'const number = this.#number;',
      },
    ],
    faults: ['outlive', 'pause', 'isolate', 'oneWay', 'break'],
    withinSeeds: 20,
  },
  {
    name: 'forgetful-votes',
    breaks: 'a replica whose log lost entries votes for candidates that lack them',
    patches: [
      {
        file: replica,
        find: 'return isAtLeast({ term: message.logTerm, index: message.index }, floor) ? message : undefined;',
        replace: 'return message;',
      },
    ],
    faults: ['logDamage'],
    withinSeeds: 20,
  },
  {
    name: 'newest-segment-not-missed',
    breaks: 'a log whose newest segment is gone counts as whole',
    patches: [
      { file: 'src/wal/types.js', find: 'if (newest >= current && isNextThere)', replace: 'if (true)' },
    ],
    faults: ['logDamage'],
    withinSeeds: 20,
  },
  {
    name: 'lost-vote-given-again',
    breaks: 'a replica whose vote may be lost takes part as before',
    patches: [
      {
        file: 'src/node/repairs.js',
        find: 'const lostVote = votes !== undefined && votes.replicaId >= replicaId;',
        replace: 'const lostVote = false;',
      },
    ],
    faults: ['logDamage'],
    withinSeeds: 10,
  },
  {
    name: 'read-before-it-is-applied',
    breaks: 'a confirmed read is answered before its index is applied here',
    patches: [{ file: 'src/partition/reads.js', find: 'if (read.minIndex <= index)', replace: 'if (true)' }],
    withinSeeds: 2,
  },
  {
    name: 'late-report-takes-back',
    breaks: 'a report of less than was reported before takes deliveries back',
    patches: [
      {
        file: applyDelivery,
        find: 'Math.max(doneSeq, report.upToSeq, baseSeq);',
        replace: 'Math.max(report.upToSeq, baseSeq);',
      },
    ],
    deliveries: true,
    withinSeeds: 1,
  },
  {
    name: 'delivered-fails-again',
    breaks: 'an event that was delivered can fail by a late report',
    patches: [
      {
        file: applyDelivery,
        find: 'const wasDelivered = before === undefined && each.seq <= Math.max(doneSeq, baseSeq);',
        replace: 'const wasDelivered = false;',
      },
    ],
    deliveries: true,
    withinSeeds: 1,
  },
  {
    name: 'read-cursor-goes-back',
    breaks: 'a late call moves a read cursor back',
    patches: [
      {
        file: 'src/conversation/apply-cursor.js',
        find: '(seq < current.seq && !mayGoBack)',
        replace: 'false',
      },
    ],
    deliveries: true,
    withinSeeds: 1,
  },
  {
    name: 'failures-not-sealed',
    breaks: 'a checkpoint writes how far a recipient is, and not what failed',
    patches: [
      {
        file: 'src/store/cursors.js',
        find: 'writer.uvarint(seq).u64(timeUs);\n    if (failed !== undefined)\n        writeFailures(writer, failed);\n}',
        replace:
          'writer.uvarint(seq).u64(timeUs);\n    if (failed !== undefined)\n        writeFailures(writer, []);\n}',
      },
    ],
    deliveries: true,
    smallLogs: true,
    withinSeeds: 4,
  },
  {
    name: 'value-file-not-synced',
    breaks: 'a batch points to values whose file is not synced',
    patches: [{ file: valueFiles, find: 'await active.handle.sync();', replace: '' }],
    withinSeeds: 10,
  },
  {
    name: 'value-file-name-not-synced',
    breaks: 'a batch points to a value file whose name is not synced',
    patches: [{ file: valueFiles, find: 'await this.#folder.syncNames();', replace: '' }],
    withinSeeds: 20,
  },
  {
    name: 'value-file-given-up-with-values',
    breaks: 'a value file is removed before the values in it that still count are moved',
    patches: [{ file: valueFiles, find: 'if (found.live.size === 0)', replace: 'if (true)' }],
    withinSeeds: 20,
  },
  {
    name: 'batch-beside-moving-values',
    breaks: 'a batch does not wait for the values that are being moved between files',
    patches: [
      {
        file: 'src/store/values-kv.js',
        find: 'await this.#kv.values.alone(() => this.#writeValues());',
        replace: 'await this.#writeValues();',
      },
    ],
    withinSeeds: 20,
  },
];
