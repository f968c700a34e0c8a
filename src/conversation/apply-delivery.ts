/**
 * What a recipient says of a channel's events (from apply version 4 on): up to where it is done with them, and which
 * of these failed. An event is pending, then delivered or failed, and a failed one may be delivered later; what
 * was delivered stays so. So reports may be repeated, come late or out of turn: they never take anything back.
 */
import type { TimeUs } from '../common/ids.js';
import { checkNames } from './apply-channel.js';
import { checkHolder, checkPlace } from './apply-cursor.js';
import { applyLimits } from './apply-limits.js';
import { liveChannel } from './apply-trash.js';
import type { ReportDeliveryInput } from './delivery-command.js';
import { refuse } from './refuse.js';
import type { ApplyState, CommandAnswer, FailedDelivery, ReadCursor, Refused } from './types.js';

export function reportDelivery(
  state: ApplyState,
  report: ReportDeliveryInput,
  commitTimeUs: TimeUs,
): CommandAnswer {
  const { tenant, channel: name, recipient } = report;
  const problem = checkNames(tenant, name) ?? checkHolder('recipient', recipient) ?? checkReport(report);
  if (problem !== undefined) return problem;
  const channel = liveChannel(state, tenant, name);
  if (channel === undefined) {
    return refuse('CHANNEL_NOT_FOUND', 'there is no channel of that name', { channel: name });
  }
  const beyond = checkPlace('up_to_seq', report.upToSeq, channel);
  if (beyond !== undefined) return beyond;
  const { headSeq, baseSeq } = channel;
  const current = state.cursor(tenant, name, recipient, 'delivery');
  const doneSeq = current?.seq ?? 0;
  // Events of an earlier life of the name can't be delivered any more.
  const seq = Math.max(doneSeq, report.upToSeq, baseSeq);
  const known = (current?.failed ?? []).filter((each) => each.seq > baseSeq);
  const failed = new Map(known.map((each) => [each.seq, each]));
  for (const each of report.failed) {
    if (each.seq > seq) {
      return refuse('INVALID_ARGUMENT', 'what failed lies within what is done with', {
        field: 'failed',
        seq,
      });
    }
    const before = failed.get(each.seq);
    const wasDelivered = before === undefined && each.seq <= Math.max(doneSeq, baseSeq);
    if (wasDelivered || (before !== undefined && before.attempts >= each.attempts)) continue;
    const { attempts, reason } = each;
    failed.set(each.seq, { seq: each.seq, timeUs: commitTimeUs, attempts, reason });
  }
  for (const recovered of report.recovered) failed.delete(recovered);
  if (failed.size > applyLimits.failedDeliveries) {
    return refuse('TOO_MANY_FAILED_DELIVERIES', 'too many deliveries to this recipient have failed', {
      recipient,
      limit: applyLimits.failedDeliveries,
    });
  }
  const list = [...failed.values()].sort((a, b) => a.seq - b.seq);
  const isSame =
    list.length === current?.failed?.length && list.every((each, i) => each === current.failed?.[i]);
  if (current !== undefined && seq === current.seq && isSame)
    return { kind: 'cursor', cursor: current, headSeq };
  const cursor: ReadCursor = {
    tenant,
    channel: name,
    reader: recipient,
    seq,
    timeUs: commitTimeUs,
    failed: list,
  };
  if (current === undefined) state.meta.cursorCount = (state.meta.cursorCount ?? 0) + 1;
  state.putCursor(cursor);
  return { kind: 'cursor', cursor, headSeq };
}

function checkReport({ failed, recovered }: ReportDeliveryInput): Refused | undefined {
  const limit = applyLimits.failedDeliveries;
  for (const [field, { length }] of Object.entries({ failed, recovered })) {
    if (length > limit) return refuse('INVALID_ARGUMENT', 'too many at once', { field, limit });
  }
  const isWrong = ({ seq, attempts, reason }: Omit<FailedDelivery, 'timeUs'>): boolean =>
    seq === 0 || attempts === 0 || Buffer.byteLength(reason) > applyLimits.deliveryReasonBytes;
  if (!failed.some(isWrong)) return undefined;
  return refuse('INVALID_ARGUMENT', 'a failure has a seq, attempts, and a reason of at most 256 bytes', {
    field: 'failed',
  });
}
