/** Read cursors (from apply version 3 on): how far a reader has got in a channel. They belong to the name, as its seqs do. */
import type { TimeUs } from '../common/ids.js';
import { checkNames } from './apply-channel.js';
import { applyLimits } from './apply-limits.js';
import { liveChannel } from './apply-trash.js';
import type { MoveCursorCommand } from './command.js';
import { refuse } from './refuse.js';
import type { ApplyState, CommandAnswer, ReadCursor } from './types.js';

/** Forward alone, unless it may go back: so repeats and late ones do nothing. */
export function moveCursor(
  state: ApplyState,
  { tenant, channel: name, reader, seq, mayGoBack }: MoveCursorCommand,
  commitTimeUs: TimeUs,
): CommandAnswer {
  const problem = checkNames(tenant, name);
  if (problem !== undefined) return problem;
  if (reader === '' || Buffer.byteLength(reader) > applyLimits.idBytes) {
    return refuse('INVALID_ARGUMENT', 'a reader has 1 to 128 bytes', { field: 'reader' });
  }
  const channel = liveChannel(state, tenant, name);
  if (channel === undefined) {
    return refuse('CHANNEL_NOT_FOUND', 'there is no channel of that name', { channel: name });
  }
  if (seq > channel.headSeq) {
    return refuse('INVALID_ARGUMENT', 'the channel has no such event yet', {
      field: 'seq',
      head_seq: channel.headSeq,
    });
  }
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
