/** `hansard append-batch`. */
import type { BatchItem } from '../../client/index.js';
import type { AppendCondition } from '../../client/requests.js';
import type { NewMessage } from '../../client/types.js';
import { HansardError } from '../../common/errors.js';
import type { ActionContext } from '../action.js';
import { parseLine } from '../import-line.js';
import { openLines } from '../json-lines.js';
import { BadLine } from '../line-fields.js';
import { count } from '../output.js';
import { type ClientOptions, openSession } from '../session.js';
import { formatTime } from '../times.js';

interface BatchOptions extends ClientOptions {
  readonly requestId?: string;
  /** channel=seq each. */
  readonly expectHead: readonly string[];
  readonly mustExist?: boolean;
}

export async function appendBatch({
  output,
  options,
  args,
}: ActionContext<BatchOptions>): Promise<undefined> {
  const { requestId } = options;
  const items = itemsOf(await messagesOf(args[0] ?? '-'), options);
  const session = await openSession(options);
  try {
    const results = await session.client.appendBatch(items, requestId === undefined ? {} : { requestId });
    const appended = results.map((result, i) => {
      const { channel } = items[i] as BatchItem;
      return {
        channel,
        seqs: result.seqs,
        commit_time: formatTime(result.commitTimeUs),
        duplicate: result.duplicate,
      };
    });
    output.json({ appended });
    for (const { channel, seqs, duplicate } of appended)
      output.line(`${channel}: ${placeOf(seqs)}${duplicate ? ' (was there before)' : ''}`);
  } finally {
    await session.close();
  }
}

/** Repeats by keys need not be consecutive, and where they are not a repeat of the whole does not say where they are. */
function placeOf(seqs: readonly number[]): string {
  const [first] = seqs;
  if (first === undefined) return 'appended';
  const areConsecutive = seqs.every((seq, i) => seq === first + i);
  return areConsecutive ? `${count(seqs.length)} from event ${first} on` : `events ${seqs.join(', ')}`;
}

/** By channel, in the order of the lines. */
async function messagesOf(file: string): Promise<Map<string, NewMessage[]>> {
  const found = new Map<string, NewMessage[]>();
  try {
    for await (const lines of openLines(file).lines())
      for (const line of lines) {
        const parsed = parseLine(line, { exported: false, ignored: new Map() });
        if (parsed === undefined || !('message' in parsed)) continue;
        const list = found.get(parsed.channel);
        if (list === undefined) found.set(parsed.channel, [parsed.message]);
        else list.push(parsed.message);
      }
  } catch (error) {
    if (error instanceof BadLine)
      throw new HansardError('INVALID_ARGUMENT', error.message, { field: 'file' });
    throw error;
  }
  if (found.size === 0)
    throw new HansardError('INVALID_ARGUMENT', 'there is no line in it', { field: 'file' });
  return found;
}

function itemsOf(messages: ReadonlyMap<string, NewMessage[]>, options: BatchOptions): BatchItem[] {
  const heads = new Map(options.expectHead.map(headOf));
  for (const channel of heads.keys())
    if (!messages.has(channel))
      throw new HansardError('INVALID_ARGUMENT', `nothing is appended to ${channel}`, {
        field: '--expect-head',
      });
  return [...messages].map(([channel, list]) => {
    const expectedHeadSeq = heads.get(channel);
    const condition: AppendCondition | undefined =
      expectedHeadSeq !== undefined
        ? { expectedHeadSeq }
        : options.mustExist
          ? { mustExist: true }
          : undefined;
    return { channel, messages: list, ...(condition === undefined ? {} : { condition }) };
  });
}

/** The name may hold `=` itself: the last one counts. */
function headOf(text: string): [channel: string, seq: number] {
  const [, channel = '', seq = ''] = /^(.+)=(\d{1,15})$/s.exec(text) ?? [];
  if (channel === '')
    throw new HansardError('INVALID_ARGUMENT', `not channel=seq: ${text}`, { field: '--expect-head' });
  return [channel, Number(seq)];
}
