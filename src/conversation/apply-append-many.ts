/**
 * Appends to several channels that take effect together or not at all: each is
 * checked as it would be alone, and the first refusal is that of the whole. No
 * producer stamps it; a request id makes a repeat safe.
 */
import { ByteWriter } from '../common/bytes.js';
import type { TimeUs } from '../common/ids.js';
import type { AppendCommand } from './append-command.js';
import { type AppendPlan, planAppend, storeAppend } from './apply-append.js';
import { liveKey } from './apply-keys.js';
import { applyLimits } from './apply-limits.js';
import { bodyDigest, firstRequest, keepRequest, requestChannelId } from './apply-request.js';
import { liveChannel } from './apply-trash.js';
import type { AppendManyCommand } from './command.js';
import { requestItemKey } from './names.js';
import { refuse } from './refuse.js';
import type { Appended, ApplyState, CommandAnswer, Refused } from './types.js';

export function appendMany(
  state: ApplyState,
  bytes: Buffer,
  command: AppendManyCommand,
  commitTimeUs: TimeUs,
): CommandAnswer {
  const { tenant, requestId, appends } = command;
  if (Buffer.byteLength(requestId) > applyLimits.idBytes)
    return refuse('INVALID_ARGUMENT', 'a text of the request is too long', { field: 'request_id' });
  const digest = digestOf(appends);
  const first = firstRequest(state, command, digest);
  if (first?.refused !== undefined) return first.refused;
  if (first !== undefined)
    return {
      kind: 'appendedMany',
      appended: appends.map((each, i) => firstAnswer(state, command, each, i)),
    };
  const plans: AppendPlan[] = [];
  const names = new Set<string>();
  for (const [i, append] of appends.entries()) {
    if (append.tenant !== tenant || append.producerId !== 0 || names.has(append.channel))
      return ofItem(
        i,
        refuse('INVALID_ARGUMENT', 'an item of another tenant, with a producer, or of a channel twice'),
      );
    names.add(append.channel);
    const plan = planAppend(state, bytes, append);
    if (plan.kind === 'refused') return ofItem(i, plan);
    plans.push(plan);
  }
  // All of it holds: the first change of state is behind this line.
  const appended = plans.map((plan) => storeAppend(state, bytes, plan, commitTimeUs));
  keepRequest(state, command, digest, appended.length, commitTimeUs);
  if (requestId !== '')
    for (const [i, { firstSeq }] of appended.entries()) {
      const key = requestItemKey(tenant, requestId, i);
      state.putKey(requestChannelId, key, { seq: firstSeq, contentDigest: digest, commitTimeUs });
    }
  return { kind: 'appendedMany', appended };
}

function ofItem(item: number, refused: Refused): Refused {
  return { ...refused, fields: { ...refused.fields, item } };
}

/** By what the client sent; salts and the like differ from one packing to another. */
function digestOf(appends: readonly AppendCommand[]): Uint8Array {
  const writer = new ByteWriter(4 * appends.length);
  for (const { digest } of appends) writer.u32(digest);
  return bodyDigest(writer.finish());
}

/** Of a repeat; seq 0 where the first answer's were not consecutive. */
function firstAnswer(
  state: ApplyState,
  { tenant, requestId }: AppendManyCommand,
  { channel, records }: AppendCommand,
  item: number,
): Appended {
  const record = liveKey(state, requestChannelId, requestItemKey(tenant, requestId, item));
  return {
    kind: 'appended',
    firstSeq: record?.seq ?? 0,
    count: records.length,
    commitTimeUs: record?.commitTimeUs ?? 0,
    seqs: undefined,
    duplicate: true,
    channelUid: liveChannel(state, tenant, channel)?.uid ?? '',
  };
}
