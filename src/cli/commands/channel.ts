/** `hansard channel create`, `update`, `delete`, `undelete`, `seal`. */
import type { ChannelInfo, Participant } from '../../client/types.js';
import { HansardError } from '../../common/errors.js';
import type { ActionContext } from '../action.js';
import { count, type Output } from '../output.js';
import { type ClientOptions, openSession } from '../session.js';
import { formatTime } from '../times.js';
import { channelJson, labelOf } from './channels.js';

export interface FieldOptions extends ClientOptions {
  readonly title?: string;
  readonly class?: string;
  /** key=value each. */
  readonly label: readonly string[];
  /** id, or id=display name, or id=display name:role. */
  readonly participant: readonly string[];
}

interface UpdateOptions extends FieldOptions {
  readonly etag?: string;
  readonly removeLabel: readonly string[];
  readonly removeParticipant: readonly string[];
}

interface DeleteOptions extends ClientOptions {
  readonly etag?: string;
  readonly allowMissing?: boolean;
  readonly permanent?: boolean;
  readonly dryRun?: boolean;
}

interface StateOptions extends ClientOptions {
  readonly etag?: string;
}

export async function create({ output, options, args }: ActionContext<FieldOptions>): Promise<undefined> {
  const session = await openSession(options);
  try {
    const channel = await session.client.createChannel(args[0] ?? '', {
      ...textsOf(options),
      labels: Object.fromEntries(labelsOf(options)),
      participants: options.participant.map(participantOf),
    });
    tell(output, channel, 'created');
  } finally {
    await session.close();
  }
}

/** Reads the labels and participants that are there, and sends them back changed, with the etag that was read. */
export async function update({ output, options, args }: ActionContext<UpdateOptions>): Promise<undefined> {
  const { label, removeLabel, participant, removeParticipant } = options;
  const session = await openSession(options);
  try {
    const channel = session.client.channel(args[0] ?? '');
    const changesLists =
      label.length + removeLabel.length + participant.length + removeParticipant.length > 0;
    const now = changesLists ? await channel.info() : undefined;
    const labels = new Map([...Object.entries(now?.labels ?? {}), ...labelsOf(options)]);
    for (const key of removeLabel) labels.delete(key);
    const participants = new Map((now?.participants ?? []).map((each) => [each.id, each]));
    for (const each of participant.map(participantOf)) participants.set(each.id, each);
    for (const id of removeParticipant) participants.delete(id);
    const etag = options.etag ?? now?.etag;
    const changed = await channel.update({
      ...textsOf(options),
      ...(label.length + removeLabel.length > 0 ? { labels: Object.fromEntries(labels) } : {}),
      ...(participant.length + removeParticipant.length > 0
        ? { participants: [...participants.values()] }
        : {}),
      ...(etag === undefined ? {} : { etag }),
    });
    tell(output, changed, 'updated');
  } finally {
    await session.close();
  }
}

export async function remove({ output, options, args }: ActionContext<DeleteOptions>): Promise<undefined> {
  const session = await openSession(options);
  try {
    const name = args[0] ?? '';
    const { permanent = false, dryRun = false, allowMissing = false, etag } = options;
    const deleted = await session.client.channel(name).delete({
      allowMissing,
      permanent,
      dryRun,
      ...(etag === undefined ? {} : { etag }),
    });
    const { headSeq, eventCount, messageCount, purgeTimeUs } = deleted;
    output.json({
      channel: name,
      deleted: !dryRun,
      head_seq: headSeq,
      event_count: eventCount,
      message_count: messageCount,
      ...(purgeTimeUs === 0 ? {} : { purge_time: formatTime(purgeTimeUs) }),
    });
    const what = `${count(eventCount)} events, of them ${count(messageCount)} messages`;
    if (dryRun) output.line(`${name}: would be deleted: ${what}`);
    else {
      const back =
        purgeTimeUs === 0
          ? ''
          : `; \`hansard channel undelete\` brings it back until ${formatTime(purgeTimeUs)}`;
      output.line(
        `${name}: deleted, ${what}${back}; what is appended to the name begins at event ${count(headSeq + 1)}`,
      );
    }
  } finally {
    await session.close();
  }
}

export async function undelete({ output, options, args }: ActionContext<StateOptions>): Promise<undefined> {
  const session = await openSession(options);
  try {
    tell(output, await session.client.channel(args[0] ?? '').undelete(stateOf(options)), 'is back');
  } finally {
    await session.close();
  }
}

export async function seal({ output, options, args }: ActionContext<StateOptions>): Promise<undefined> {
  const session = await openSession(options);
  try {
    tell(output, await session.client.channel(args[0] ?? '').seal(stateOf(options)), 'sealed');
  } finally {
    await session.close();
  }
}

function stateOf({ etag }: StateOptions): { etag?: string } {
  return etag === undefined ? {} : { etag };
}

function tell(output: Output, channel: ChannelInfo, what: string): void {
  output.json(channelJson(channel));
  output.line(`${channel.name}: ${what}, etag ${channel.etag}`);
}

function textsOf(options: FieldOptions): { title?: string; class?: string } {
  return {
    ...(options.title === undefined ? {} : { title: options.title }),
    ...(options.class === undefined ? {} : { class: options.class }),
  };
}

function labelsOf({ label }: FieldOptions): [string, string][] {
  return label.map((text) => {
    const { key, value } = labelOf(text);
    return [key, value];
  });
}

function participantOf(text: string): Participant {
  const [, id = '', displayName = '', role = ''] = /^([^=]+)(?:=([^:]*)(?::(.*))?)?$/s.exec(text) ?? [];
  if (id === '')
    throw new HansardError('INVALID_ARGUMENT', `not id=name:role: ${text}`, { field: '--participant' });
  return { id, displayName, role };
}
