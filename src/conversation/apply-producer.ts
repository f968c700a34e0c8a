/**
 * Producers: by their dense counters retries are recognised and kept in order. A
 * producer's appends take effect in the order of its counters or not at all.
 */
import type { TimeUs } from '../common/ids.js';
import { isTenantName } from '../common/names.js';
import { AnswerWindow } from './answer-window.js';
import type { AppendCommand } from './append-command.js';
import { applyLimits } from './apply-limits.js';
import type { ExpireProducersCommand, OpenProducerCommand } from './command.js';
import { producerId } from './names.js';
import { refuse } from './refuse.js';
import type { AppendAnswer, ApplyState, CommandAnswer, ProducerState, Refused } from './types.js';

/**
 * The answer that an append gets because of its counters alone; undefined: it is
 * the producer's next one. Nothing answered here takes a counter.
 */
export function answerByCounter(producer: ProducerState, command: AppendCommand): AppendAnswer | undefined {
  const { firstCounter } = command;
  const count = command.records.length;
  const lastCounter = firstCounter + count - 1;
  const expected = producer.lastCounter + 1;
  if (firstCounter === expected) return undefined;
  if (firstCounter > expected || lastCounter >= expected) {
    // Also where the append begins with counters used before: it is no repeat of one append.
    return refuse('PRODUCER_GAP', 'the append does not begin with the next counter of its producer', {
      expected_counter: expected,
      first_counter: firstCounter,
    });
  }
  const { answers } = producer;
  if (answers.length === 0 || lastCounter < answers.firstCounterAt(0)) {
    // No longer remembered. It was applied or refused; never is it applied again.
    return {
      kind: 'appended',
      firstSeq: 0,
      count,
      commitTimeUs: 0,
      seqs: undefined,
      duplicate: true,
      channelUid: '',
    };
  }
  const first = answers.find(firstCounter);
  if (first?.lastCounter !== lastCounter || first.digest !== command.digest) {
    return refuse('PRODUCER_REUSED', 'the counters were used with another append', {
      expected_counter: expected,
      first_counter: firstCounter,
    });
  }
  return first.answer.kind === 'refused' ? first.answer : { ...first.answer, duplicate: true };
}

/** Remembers the answer; the append's counters are used from now on. */
export function rememberAnswer(
  state: ApplyState,
  producer: ProducerState,
  command: AppendCommand,
  answer: AppendAnswer,
  commitTimeUs: TimeUs,
): void {
  const lastCounter = command.firstCounter + command.records.length - 1;
  const { answers } = producer;
  // Room first: the ring is no larger than the window.
  const excess = answers.length + 1 - state.meta.settings.producerWindow;
  if (excess > 0) answers.drop(Math.min(excess, answers.length));
  answers.push(command.firstCounter, lastCounter, command.digest, answer);
  if (answer.kind === 'appended' && answer.seqs !== undefined) forgetSeqs(answers);
  producer.lastCounter = lastCounter;
  producer.lastActiveUs = commitTimeUs;
  state.putProducer(producer);
}

/**
 * Answers to batches with repeats by key name each seq: without a bound on them a
 * window of such could take 80 MB. The oldest answers go first; the newest stays.
 */
function forgetSeqs(answers: AnswerWindow): void {
  let total = 0;
  let kept = answers.length;
  while (kept > 0) {
    total += answers.seqsAt(kept - 1);
    if (total > applyLimits.rememberedSeqs && kept < answers.length) break;
    kept--;
  }
  answers.drop(kept);
}

export function producerExpired(): Refused {
  return refuse('PRODUCER_EXPIRED', 'the producer is unknown in this partition');
}

/** A named producer is opened once; opening it again tells where it stands. */
export function openProducer(
  state: ApplyState,
  command: OpenProducerCommand,
  commitTimeUs: TimeUs,
): CommandAnswer {
  const { tenant, name } = command;
  const { meta } = state;
  if (!isTenantName(tenant))
    return refuse('INVALID_NAME', 'a tenant name is not allowed', { field: 'tenant' });
  if (Buffer.byteLength(name) > applyLimits.idBytes) {
    return refuse('INVALID_NAME', 'a producer name is too long', {
      field: 'name',
      max_bytes: applyLimits.idBytes,
    });
  }
  const known = name === '' ? undefined : state.producerByName(tenant, name);
  if (known !== undefined) return opened(state, known);
  if (meta.nextProducer >= applyLimits.producersPerPartition) {
    return refuse('OVERLOADED', 'the partition has no producer numbers left');
  }
  const producer: ProducerState = {
    id: producerId(meta.partition, meta.nextProducer),
    tenant,
    name,
    lastCounter: 0,
    lastActiveUs: commitTimeUs,
    answers: new AnswerWindow(),
  };
  meta.nextProducer++;
  state.putProducer(producer);
  return opened(state, producer);
}

/**
 * Evicts the named producers that are anonymous, idle for long enough, and have
 * done nothing since the proposer looked (an append may have overtaken the command).
 */
export function expireProducers(
  state: ApplyState,
  command: ExpireProducersCommand,
  commitTimeUs: TimeUs,
): CommandAnswer {
  const activeBefore = commitTimeUs - state.meta.settings.producerIdleUs;
  for (const { id, lastActiveUs } of command.producers) {
    const producer = state.producer(id);
    if (producer === undefined || producer.name !== '') continue;
    if (producer.lastActiveUs !== lastActiveUs || lastActiveUs > activeBefore) continue;
    state.deleteProducer(id);
  }
  return { kind: 'done' };
}

function opened(state: ApplyState, producer: ProducerState): CommandAnswer {
  return {
    kind: 'producer',
    producerId: producer.id,
    nextCounter: producer.lastCounter + 1,
    window: state.meta.settings.producerWindow,
  };
}
