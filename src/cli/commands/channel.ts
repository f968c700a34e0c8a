/** `hansard channel create`, `update`, `delete`. */
import type { ChannelInfo, Participant } from '../../client/types.js';
import { HansardError } from '../../common/errors.js';
import type { ActionContext } from '../action.js';
import { count, type Output } from '../output.js';
import { type ClientOptions, openSession } from '../session.js';
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
    const { headSeq } = await session.client.channel(name).delete({
      allowMissing: options.allowMissing ?? false,
      ...(options.etag === undefined ? {} : { etag: options.etag }),
    });
    output.json({ channel: name, deleted: true, head_seq: headSeq });
    output.line(`${name}: deleted; what is appended to the name later begins at event ${count(headSeq + 1)}`);
  } finally {
    await session.close();
  }
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
