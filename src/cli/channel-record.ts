/**
 * The line of an export that stands before a channel's events: what the channel
 * is beside them, and how many follow, so that a file that was cut is told.
 */
import type { ChannelInfo, Participant } from '../client/types.js';
import {
  type Bad,
  BadLine,
  checkChannel,
  type Fields,
  isWellFormed,
  stringField,
  wholeNumber,
} from './line-fields.js';
import { formatTime } from './times.js';

/** Of the record. A later one may mean what a loader of today would get wrong: it is refused. */
const recordVersion = 1;
/** Of a sealed channel's: a loader that passed over the seal would leave the channel open. */
const sealedRecordVersion = 2;

/** What an export says of a channel. */
export type ExportedChannel = Pick<
  ChannelInfo,
  | 'name'
  | 'uid'
  | 'title'
  | 'labels'
  | 'class'
  | 'participants'
  | 'createTimeUs'
  | 'sealTimeUs'
  | 'firstSeq'
  | 'headSeq'
>;

export interface ImportedChannel {
  readonly line: number;
  readonly channel: string;
  readonly title: string;
  readonly class: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly participants: readonly Participant[];
  /** Of the exported events; `headSeq` is `firstSeq` - 1 where there is none. */
  readonly firstSeq: number;
  readonly headSeq: number;
  /** It took no more events, and is to take none here once those of the export are there. */
  readonly sealed: boolean;
}

/** `headSeq`: of the last event that the export has. */
export function channelLine(channel: ExportedChannel, headSeq: number): string {
  const record: Record<string, unknown> = {
    record: 'channel',
    version: channel.sealTimeUs === 0 ? recordVersion : sealedRecordVersion,
    channel: channel.name,
    first_seq: channel.firstSeq,
    head_seq: headSeq,
    uid: channel.uid,
    create_time: formatTime(channel.createTimeUs),
  };
  if (channel.sealTimeUs !== 0) record.seal_time = formatTime(channel.sealTimeUs);
  if (channel.title !== '') record.title = channel.title;
  if (channel.class !== '') record.class = channel.class;
  if (Object.keys(channel.labels).length > 0) record.labels = channel.labels;
  if (channel.participants.length > 0)
    record.participants = channel.participants.map(({ id, displayName, role }) => ({
      id,
      ...(displayName === '' ? {} : { display_name: displayName }),
      ...(role === '' ? {} : { role }),
    }));
  return `${JSON.stringify(record)}\n`;
}

export function readChannelRecord(line: number, fields: Fields, bad: Bad): ImportedChannel {
  const kind = stringField(fields, 'record', bad);
  if (kind !== 'channel') return bad(`a record of kind "${kind}", which this version does not know`);
  const version = wholeNumber(fields, 'version', 1, bad) ?? bad('version is missing');
  if (version > sealedRecordVersion)
    return bad(`a record of version ${version}: the export was made by a newer version`);
  const channel = stringField(fields, 'channel', bad) ?? bad('channel is missing');
  checkChannel(channel, bad);
  const firstSeq = wholeNumber(fields, 'first_seq', 1, bad) ?? bad('first_seq is missing');
  return {
    line,
    channel,
    title: stringField(fields, 'title', bad) ?? '',
    class: stringField(fields, 'class', bad) ?? '',
    labels: labelsOf(fields.labels, bad),
    participants: participantsOf(fields.participants, bad),
    firstSeq,
    headSeq: wholeNumber(fields, 'head_seq', firstSeq - 1, bad) ?? bad('head_seq is missing'),
    sealed: stringField(fields, 'seal_time', bad) !== undefined,
  };
}

function labelsOf(value: unknown, bad: Bad): Record<string, string> {
  if (value === undefined || value === null) return {};
  if (typeof value !== 'object' || Array.isArray(value)) return bad('labels is not an object');
  for (const [label, text] of Object.entries(value))
    if (typeof text !== 'string' || !isWellFormed.call(text) || !isWellFormed.call(label))
      return bad(`the label ${JSON.stringify(label)} is not a string`);
  return value as Record<string, string>;
}

function participantsOf(value: unknown, bad: Bad): Participant[] {
  if (value === undefined || value === null) return [];
  if (!Array.isArray(value)) return bad('participants is not a list');
  return value.map((each: unknown) => {
    if (typeof each !== 'object' || each === null) return bad('a participant is not an object');
    const fields = each as Fields;
    return {
      id: stringField(fields, 'id', bad) ?? '',
      displayName: stringField(fields, 'display_name', bad) ?? '',
      role: stringField(fields, 'role', bad) ?? '',
    };
  });
}

/** Holds an export's lines against its channel records: each has the events that it names, in order. */
export class ExportSections {
  #open: ImportedChannel | undefined;
  #nextSeq = 0;

  /** Throws BadLine. */
  channel(record: ImportedChannel): void {
    this.end();
    this.#open = record;
    this.#nextSeq = record.firstSeq;
  }

  /** Throws BadLine. Events without a record before them are of an export of earlier versions. */
  event(line: number, channel: string, seq: number): void {
    if (this.#open?.channel !== channel) return this.end();
    const { headSeq } = this.#open;
    if (seq === this.#nextSeq && seq <= headSeq) this.#nextSeq++;
    else {
      // Told once: what follows would all be out of place.
      this.#open = undefined;
      const expected = this.#nextSeq > headSeq ? `is none any more` : `${this.#nextSeq} should be`;
      throw new BadLine(line, `event ${seq} of channel ${channel} stands where ${expected}`);
    }
  }

  /** Throws BadLine. */
  end(): void {
    const open = this.#open;
    this.#open = undefined;
    if (open !== undefined && this.#nextSeq <= open.headSeq)
      throw new BadLine(
        open.line,
        `channel ${open.channel} has events up to ${open.headSeq}, and ${this.#nextSeq} is not here: the export was cut`,
      );
  }
}
