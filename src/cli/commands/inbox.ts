/** `hansard inbox` and `hansard channel mark-read`. */
import type { InboxEntry } from '../../client/index.js';
import type { ActionContext } from '../action.js';
import { count, printable } from '../output.js';
import { type ClientOptions, openSession } from '../session.js';
import { formatTime } from '../times.js';

interface InboxCommandOptions extends ClientOptions {
  readonly limit: number;
  readonly unread?: boolean;
}

export async function inbox({
  output,
  options,
  args,
}: ActionContext<InboxCommandOptions>): Promise<undefined> {
  const [reader = '', ...named] = args;
  const { client, timeoutMs, close } = openedSession(options);
  try {
    const names =
      named.length > 0
        ? named
        : (
            await client.channelPage({
              participant: reader,
              orderBy: 'activity',
              pageSize: options.limit,
              timeoutMs,
            })
          ).channels.map(({ name }) => name);
    const all = names.length === 0 ? [] : await client.inbox(reader, names, { timeoutMs });
    const entries = options.unread ? all.filter(({ unreadEvents }) => unreadEvents > 0) : all;
    output.json({ reader, channels: entries.map(entryJson) });
    output.table(
      [
        { title: 'CHANNEL' },
        { title: 'UNREAD', align: 'right' },
        { title: 'READ', align: 'right' },
        { title: 'ACTIVE' },
        { title: 'LAST MESSAGE' },
      ],
      entries.map((entry) => [
        printable(entry.name),
        entry.channel === undefined ? '-' : `${count(entry.unreadMessages)}${entry.moreUnread ? '+' : ''}`,
        count(entry.readSeq),
        entry.channel === undefined ? 'not there' : formatTime(entry.channel.activityTimeUs),
        printable(lastText(entry)).replaceAll('\n', ' ').slice(0, 60),
      ]),
    );
  } finally {
    await close();
  }
}

interface MarkReadCommandOptions extends ClientOptions {
  readonly seq?: number;
  readonly allowBack?: boolean;
}

export async function markRead({
  output,
  options,
  args,
}: ActionContext<MarkReadCommandOptions>): Promise<undefined> {
  const [name = '', reader = ''] = args;
  const { client, timeoutMs, close } = openedSession(options);
  try {
    const channel = client.channel(name);
    const seq = options.seq ?? (await channel.info({ level: 'linearizable', timeoutMs })).headSeq;
    const { cursor, headSeq } = await channel.markRead(reader, seq, {
      allowBack: options.allowBack === true,
      timeoutMs,
    });
    output.json({ channel: name, reader: cursor.reader, seq: cursor.seq, head_seq: headSeq });
    output.line(`${printable(reader)} has read ${printable(name)} up to #${cursor.seq} of ${headSeq}`);
  } finally {
    await close();
  }
}

function openedSession(options: ClientOptions) {
  const session = openSession(options);
  return { client: session.client, timeoutMs: session.timeoutMs, close: () => session.close() };
}

function lastText({ lastMessage }: InboxEntry): string {
  const part = lastMessage?.message?.parts?.[0];
  return part?.type === 'text' ? part.text : (part?.type ?? '');
}

function entryJson(entry: InboxEntry): object {
  return {
    channel: entry.name,
    exists: entry.channel !== undefined,
    read_seq: entry.readSeq,
    unread_events: entry.unreadEvents,
    unread_messages: entry.unreadMessages,
    more_unread: entry.moreUnread,
    head_seq: entry.channel?.headSeq ?? 0,
    last_message_seq: entry.lastMessage?.seq ?? 0,
  };
}
