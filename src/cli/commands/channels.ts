/** `hansard channels`. */
import type { ChannelQuery } from '../../client/requests.js';
import type { ChannelInfo } from '../../client/types.js';
import { HansardError } from '../../common/errors.js';
import type { ActionContext } from '../action.js';
import { count, printable } from '../output.js';
import { type ClientOptions, listChannels, openSession } from '../session.js';
import { formatTime } from '../times.js';

interface ChannelsOptions extends ClientOptions {
  readonly prefix?: string;
  readonly limit: number;
  readonly after?: string;
  readonly all?: boolean;
  /** key=value */
  readonly label?: string;
  readonly participant?: string;
  readonly newest?: boolean;
  readonly deleted?: boolean;
}

export async function channels({ output, options }: ActionContext<ChannelsOptions>): Promise<undefined> {
  const session = await openSession(options);
  try {
    const limit = options.all ? Number.POSITIVE_INFINITY : options.limit;
    const found: ChannelInfo[] = [];
    let hasMore = false;
    for await (const channel of listChannels(session, options.prefix ?? '', queryOf(options, limit))) {
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
        { title: options.deleted ? 'BACK UNTIL' : options.newest ? 'ACTIVE' : 'CREATED' },
        { title: 'TITLE' },
      ],
      found.map((ch) => [
        ch.name,
        count(ch.headSeq - ch.firstSeq + 1),
        count(ch.messageCount),
        formatTime(options.deleted ? ch.purgeTimeUs : options.newest ? ch.activityTimeUs : ch.createTimeUs),
        printable(ch.title),
      ]),
    );
    if (hasMore && options.newest) output.note('there are more; go on with a larger --limit, or --all');
    else if (hasMore)
      output.note(`there are more; go on with --after '${found[found.length - 1]?.name ?? ''}', or --all`);
  } finally {
    await session.close();
  }
}

/** Behind a name there is no order by activity to go on in. */
function queryOf(
  { label, participant, newest, after, deleted }: ChannelsOptions,
  limit: number,
): Omit<ChannelQuery, 'prefix' | 'pageToken'> {
  if (newest && after !== undefined)
    throw new HansardError('INVALID_ARGUMENT', '--after goes by name, not with --newest', {
      field: '--after',
    });
  return {
    label: label === undefined ? undefined : labelOf(label),
    participant,
    orderBy: newest ? 'activity' : 'name',
    deleted,
    // By activity each page looks at all candidates: one page where the limit allows it.
    ...(newest && limit < 1_000 ? { pageSize: limit + 1 } : {}),
  };
}

/** `key=value`; the key ends at the first `=`. */
export function labelOf(text: string): { key: string; value: string } {
  const at = text.indexOf('=');
  if (at < 1) throw new HansardError('INVALID_ARGUMENT', `not key=value: ${text}`, { field: '--label' });
  return { key: text.slice(0, at), value: text.slice(at + 1) };
}

export function channelJson(channel: ChannelInfo): Record<string, unknown> {
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
    activity_time: formatTime(channel.activityTimeUs),
    first_seq: channel.firstSeq,
    head_seq: channel.headSeq,
    last_message_seq: channel.lastMessageSeq,
    message_count: channel.messageCount,
    etag: channel.etag,
    partition: channel.partition,
    ...timeField('seal_time', channel.sealTimeUs),
    ...timeField('delete_time', channel.deleteTimeUs),
    ...timeField('purge_time', channel.purgeTimeUs),
  };
}

/** Nothing where there is no such time. */
function timeField(name: string, timeUs: number): Record<string, string> {
  return timeUs === 0 ? {} : { [name]: formatTime(timeUs) };
}
