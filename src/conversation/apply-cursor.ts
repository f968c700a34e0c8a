/** Read cursors (from apply version 3 on): how far a reader has got in a channel. They belong to the name, as its seqs do. */
import type { Seq, TimeUs } from '../common/ids.js';
import { checkNames } from './apply-channel.js';
import { applyLimits } from './apply-limits.js';
import { liveChannel } from './apply-trash.js';
import type { MoveCursorCommand } from './command.js';
import { refuse } from './refuse.js';
import type { ApplyState, ChannelState, CommandAnswer, ReadCursor, Refused } from './types.js';

/** Whose cursor it is. */
export function checkHolder(field: string, id: string): Refused | undefined {
  if (id !== '' && Buffer.byteLength(id) <= applyLimits.idBytes) return undefined;
  return refuse('INVALID_ARGUMENT', `a ${field} has 1 to 128 bytes`, { field });
}

export function checkPlace(field: string, seq: Seq, { headSeq }: ChannelState): Refused | undefined {
  if (seq <= headSeq) return undefined;
  return refuse('INVALID_ARGUMENT', 'the channel has no such event yet', { field, head_seq: headSeq });
}

/** Forward alone, unless it may go back: so repeats and late ones do nothing. */
export function moveCursor(
  state: ApplyState,
  { tenant, channel: name, reader, seq, mayGoBack }: MoveCursorCommand,
  commitTimeUs: TimeUs,
): CommandAnswer {
  const problem = checkNames(tenant, name) ?? checkHolder('reader', reader);
  if (problem !== undefined) return problem;
  const channel = liveChannel(state, tenant, name);
  if (channel === undefined) {
    return refuse('CHANNEL_NOT_FOUND', 'there is no channel of that name', { channel: name });
  }
  const beyond = checkPlace('seq', seq, channel);
  if (beyond !== undefined) return beyond;
  const current = state.cursor(tenant, name, reader);
  const { headSeq } = channel;
  if (current !== undefined && (seq === current.seq || (seq < current.seq && !mayGoBack))) {
    return { kind: 'cursor', cursor: current, headSeq };
  }
  const cursor: ReadCursor = { tenant, channel: name, reader, seq, timeUs: commitTimeUs };
  if (current === undefined) state.meta.cursorCount = (state.meta.cursorCount ?? 0) + 1;
  state.putCursor(cursor);
  return { kind: 'cursor', cursor, headSeq };
}
