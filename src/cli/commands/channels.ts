/** `hansard channels`. */
import type { ChannelInfo } from '../../client/types.js';
import type { ActionContext } from '../action.js';
import { count, printable } from '../output.js';
import { type ClientOptions, listChannels, openSession } from '../session.js';
import { formatTime } from '../times.js';

interface ChannelsOptions extends ClientOptions {
  readonly prefix?: string;
  readonly limit: number;
  readonly after?: string;
  readonly all?: boolean;
}

export async function channels({ output, options }: ActionContext<ChannelsOptions>): Promise<undefined> {
  const session = await openSession(options);
  try {
    const limit = options.all ? Number.POSITIVE_INFINITY : options.limit;
    const found: ChannelInfo[] = [];
    let hasMore = false;
    for await (const channel of listChannels(session, options.prefix ?? '')) {
      if (
        options.after !== undefined &&
        Buffer.compare(Buffer.from(channel.name), Buffer.from(options.after)) <= 0
      )
        continue;
      if (found.length >= limit) {
        hasMore = true;
        break;
      }
      found.push(channel);
    }
    output.json({ channels: found.map(channelJson), more: hasMore });
    output.table(
      [
        { title: 'CHANNEL' },
        { title: 'EVENTS', align: 'right' },
        { title: 'MESSAGES', align: 'right' },
        { title: 'CREATED' },
        { title: 'TITLE' },
      ],
      found.map((ch) => [
        ch.name,
        count(ch.headSeq),
        count(ch.messageCount),
        formatTime(ch.createTimeUs),
        printable(ch.title),
      ]),
    );
    if (hasMore)
      output.note(`there are more; go on with --after '${found[found.length - 1]?.name ?? ''}', or --all`);
  } finally {
    await session.close();
  }
}

function channelJson(channel: ChannelInfo): Record<string, unknown> {
  return {
    tenant: channel.tenant,
    channel: channel.name,
    uid: channel.uid,
    title: channel.title,
    labels: channel.labels,
    class: channel.class,
    participants: channel.participants.map((p) => ({ id: p.id, display_name: p.displayName, role: p.role })),
    create_time: formatTime(channel.createTimeUs),
    update_time: formatTime(channel.updateTimeUs),
    head_seq: channel.headSeq,
    last_message_seq: channel.lastMessageSeq,
    message_count: channel.messageCount,
    etag: channel.etag,
    partition: channel.partition,
  };
}
