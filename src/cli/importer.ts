/**
 * Sends imported messages: per partition one lane, in file order, under one
 * named producer whose counter is the message's number in that partition. So a
 * rerun knows by the producer's next counter what is there already, and adds
 * nothing twice, however the earlier run ended.
 */
import type { AppendCondition } from '../client/requests.js';
import type { ChannelInfo, NewMessage } from '../client/types.js';
import { HansardError, type Reason } from '../common/errors.js';
import type { ImportedChannel } from './channel-record.js';
import type { ImportedMessage } from './import-line.js';

export const importLimits = Object.freeze({
  /** Messages of one append: what a frame of 64 gives in throughput is reached well before. */
  batchMessages: 100,
  batchBytes: 256 * 1024,
});

/** What the importer needs of a client; the SDK gives it (session.ts), tests their own. */
export interface ImportTarget {
  partitionOf(channel: string): number;
  /** With the record's fields; one that is there already is left as it is. */
  makeChannel(record: ImportedChannel): Promise<MadeChannel>;
  /** Seals it where it is there with so many events; else false. */
  sealChannel(name: string, events: number): Promise<boolean>;
  /** `channel`: any one of the partition. */
  openProducer(name: string, channel: string): Promise<ImportProducer>;
}

export interface MadeChannel {
  readonly made: boolean;
  readonly channel: Pick<ChannelInfo, 'title' | 'class' | 'labels' | 'participants' | 'firstSeq'>;
}

export interface ImportProducer {
  /** Counter of the first append that is not there yet. */
  readonly nextCounter: number;
  /** Appends take their counters in the order of the calls; any number may be under way. */
  append(channel: string, messages: readonly NewMessage[], options: ImportAppendOptions): Promise<ImportAck>;
}

export interface ImportAppendOptions {
  /** Of the first message. */
  readonly counter: number;
  readonly condition: AppendCondition | undefined;
}

export interface ImportAck {
  readonly seqs: readonly number[];
  /** xxh64 of each content. */
  readonly checksums: readonly bigint[];
  readonly duplicate: boolean;
}

export interface ImporterOptions {
  readonly producerName: string;
  readonly maxBytesInFlight: number;
  /** One call per message, as answers arrive. */
  readonly onAck: (message: ImportedMessage, seq: number, checksum: bigint) => void;
}

export interface Refusal {
  readonly line: number;
  readonly channel: string;
  readonly reason: Reason;
  readonly message: string;
}

/** Examples that are kept; all are counted. */
const refusalsKept = 20;

/** Of an estimate of a channel record, towards the bytes in flight. */
const recordBytes = 1024;

/** A channel of an export that has a record. */
interface Place {
  /** Until it is there. */
  record: ImportedChannel | undefined;
  /** What its seqs rise by: the channel may begin with another one here than where it was exported. */
  shift: number;
}

interface Batch {
  readonly channel: string;
  readonly messages: ImportedMessage[];
  /** Counter of the first one. */
  readonly firstCounter: number;
  bytes: number;
}

export class Importer {
  readonly #target: ImportTarget;
  readonly #options: ImporterOptions;
  readonly #lanes = new Map<number, Lane>();
  readonly #channels = new Map<string, number>();
  /** By channel, of what was acknowledged. */
  readonly #lastSeqs = new Map<string, number>();
  readonly #places = new Map<string, Place>();
  /** Channels to seal, and with how many events. */
  readonly #toSeal = new Map<string, number>();
  #bytesInFlight = 0;
  #failure: unknown;
  #wake: (() => void) | undefined;
  added = 0;
  /** By the producer's counter: an earlier run added them. */
  before = 0;
  /** By key: the channel had them, or this run sent them twice. */
  repeated = 0;
  refused = 0;
  readonly refusals: Refusal[] = [];
  /** Channels that were there with other fields than the export's, and keep them. */
  kept = 0;
  /** Channels whose events have other seqs here. */
  renumbered = 0;
  /** Messages among those that name others by seq: as they were exported. */
  staleReferences = 0;

  /** Sealed channels of the export that are open here, as they are gone or have other events. */
  unsealed = 0;

  constructor(target: ImportTarget, options: ImporterOptions) {
    this.#target = target;
    this.#options = options;
  }

  get channels(): number {
    return this.#channels.size;
  }

  /** Takes an export's record of a channel whose messages follow, if it has any. */
  async addChannel(record: ImportedChannel): Promise<void> {
    this.#partitionOf(record.channel);
    const place: Place = { record, shift: 0 };
    this.#places.set(record.channel, place);
    if (record.sealed) this.#toSeal.set(record.channel, record.headSeq - record.firstSeq + 1);
    // One with messages is made with the first that is sent: a rerun that has nothing to send makes nothing.
    if (record.headSeq >= record.firstSeq) return;
    this.#track(recordBytes, this.#make(place));
    await this.#untilRoom();
  }

  /** Takes one message, in file order; resolves when there is room for the next. */
  async add(imported: ImportedMessage): Promise<void> {
    const partition = this.#partitionOf(imported.channel);
    let lane = this.#lanes.get(partition);
    if (lane === undefined) {
      lane = new Lane(this.#target.openProducer(this.#options.producerName, imported.channel));
      this.#lanes.set(partition, lane);
    }
    const full = lane.add(imported);
    for (const batch of full) this.#send(lane, batch);
    await this.#untilRoom();
  }

  #partitionOf(channel: string): number {
    let partition = this.#channels.get(channel);
    if (partition === undefined) {
      partition = this.#target.partitionOf(channel);
      this.#channels.set(channel, partition);
    }
    return partition;
  }

  async #untilRoom(): Promise<void> {
    if (this.#bytesInFlight >= this.#options.maxBytesInFlight)
      await this.#room(this.#options.maxBytesInFlight);
    this.#throwFailure();
  }

  /** Sends what is gathered and waits for every answer. */
  async finish(): Promise<void> {
    for (const lane of this.#lanes.values()) {
      const last = lane.take();
      if (last !== undefined) this.#send(lane, last);
    }
    await this.settle();
    this.#throwFailure();
  }

  /**
   * After `finish`, and only where all lines were sent: a sealed channel takes no events, also none
   * of a rerun. One that was deleted and made anew since the first run must not be sealed by another.
   */
  async sealChannels(): Promise<void> {
    for (const [channel, events] of this.#toSeal)
      if (!(await this.#target.sealChannel(channel, events))) this.unsealed++;
  }

  /** Waits until nothing is under way, whatever the outcome. */
  async settle(): Promise<void> {
    while (this.#bytesInFlight > 0) await this.#room(1);
  }

  #send(lane: Lane, batch: Batch): void {
    const place = this.#places.get(batch.channel);
    // The channel must be there, and its first seq known, before what the partition gets next.
    const prepare = async (producer: ImportProducer): Promise<void> => {
      const isThere = producer.nextCounter >= batch.firstCounter + batch.messages.length;
      if (place !== undefined && !isThere && this.#failure === undefined) await this.#make(place);
    };
    if (place?.record !== undefined) this.#track(0, lane.hold(prepare));
    this.#track(
      batch.bytes,
      lane.run(async (producer) => await this.#append(producer, batch, place?.shift ?? 0)),
    );
  }

  #track(bytes: number, work: Promise<void>): void {
    this.#bytesInFlight += bytes;
    work
      .catch((error: unknown) => {
        this.#failure ??= error;
      })
      .finally(() => {
        this.#bytesInFlight -= bytes;
        this.#wake?.();
      });
  }

  async #make(place: Place): Promise<void> {
    const { record } = place;
    if (record === undefined) return;
    const { made, channel } = await this.#target.makeChannel(record);
    place.record = undefined;
    place.shift = channel.firstSeq - record.firstSeq;
    if (!made && !hasFields(channel, record)) this.kept++;
    if (place.shift !== 0 && record.headSeq >= record.firstSeq) this.renumbered++;
  }

  async #append(producer: ImportProducer, batch: Batch, shift: number): Promise<void> {
    const there = Math.min(batch.messages.length, Math.max(0, producer.nextCounter - batch.firstCounter));
    this.before += there;
    const messages = there === 0 ? batch.messages : batch.messages.slice(there);
    const first = messages[0];
    // After a failure nothing more is sent: what follows would only be gaps.
    if (first === undefined || this.#failure !== undefined) return;
    const condition =
      first.exported === undefined ? undefined : { expectedHeadSeq: first.exported.seq - 1 + shift };
    let ack: ImportAck;
    try {
      ack = await producer.append(
        batch.channel,
        messages.map((m) => shifted(m.message, shift)),
        { counter: batch.firstCounter + there, condition },
      );
    } catch (error) {
      this.#refusedOrFailed(error, messages);
      return;
    }
    if (shift !== 0) for (const m of messages) if (m.exported?.refersBySeq) this.staleReferences++;
    if (this.#isRepeat(batch.channel, first, ack)) this.repeated += messages.length;
    else this.added += messages.length;
    for (let i = 0; i < messages.length; i++)
      this.#options.onAck(messages[i] as ImportedMessage, ack.seqs[i] ?? 0, ack.checksums[i] ?? 0n);
  }

  /**
   * `duplicate` has two meanings: the key was there, or an attempt of ours got
   * through and its answer was lost. New messages of a channel get rising seqs,
   * so a seq that is not above the last one is a repeat by key.
   */
  #isRepeat(channel: string, first: ImportedMessage, ack: ImportAck): boolean {
    const last = this.#lastSeqs.get(channel) ?? 0;
    const seq = ack.seqs[0] ?? 0;
    this.#lastSeqs.set(channel, Math.max(last, ack.seqs[ack.seqs.length - 1] ?? 0));
    return ack.duplicate && first.message.key !== undefined && (last === 0 || seq <= last);
  }

  #refusedOrFailed(error: unknown, messages: readonly ImportedMessage[]): void {
    const first = messages[0];
    if (!(error instanceof HansardError) || first === undefined) throw error;
    if (first.exported !== undefined && error.reason === 'CONDITION_FAILED')
      throw new HansardError(
        'CONDITION_FAILED',
        `line ${first.line}: channel ${first.channel} should have its event ${first.exported.seq} next, and has not (${error.message}); an export is loaded into an empty cluster or tenant`,
        { ...error.fields, channel: first.channel },
        { cause: error },
      );
    // Refused when it was applied: its counters are used up, and the next ones go on.
    if (String(error.fields.counter_consumed) !== 'true') throw error;
    this.refused += messages.length;
    for (const m of messages) {
      if (this.refusals.length >= refusalsKept) break;
      this.refusals.push({ line: m.line, channel: m.channel, reason: error.reason, message: error.message });
    }
  }

  async #room(below: number): Promise<void> {
    while (this.#bytesInFlight >= below && (below === 1 || this.#failure === undefined)) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }

  #throwFailure(): void {
    if (this.#failure !== undefined) throw this.#failure;
  }
}

/** An event of the same channel that it is about has moved as it has. */
function shifted(message: NewMessage, shift: number): NewMessage {
  const { targetSeq } = message;
  if (shift === 0 || targetSeq === undefined || targetSeq === 0) return message;
  return { ...message, targetSeq: targetSeq + shift };
}

function hasFields(channel: MadeChannel['channel'], record: ImportedChannel): boolean {
  const text = ({ title, class: kind, labels, participants }: MadeChannel['channel'] | ImportedChannel) =>
    JSON.stringify([
      title,
      kind,
      Object.entries(labels).sort(([a], [b]) => (a < b ? -1 : 1)),
      participants.map(({ id, displayName, role }) => [id, displayName, role]),
    ]);
  return text(channel) === text(record);
}

/** One partition's messages in order. */
class Lane {
  #producer: Promise<ImportProducer>;
  /** Set while it is open and nothing holds the lane: then appends are called in the same turn. */
  #open: ImportProducer | undefined;
  #nextCounter = 1;
  #batch: Batch | undefined;

  constructor(producer: Promise<ImportProducer>) {
    this.#producer = producer;
    this.#openWhen(producer);
  }

  #openWhen(producer: Promise<ImportProducer>): void {
    producer.then(
      (open) => {
        // Held again meanwhile.
        if (this.#producer === producer) this.#open = open;
      },
      // Every `run` sees it; here it must only not be unhandled.
      () => {},
    );
  }

  /** Returns the batches that are complete now. */
  add(imported: ImportedMessage): Batch[] {
    const done: Batch[] = [];
    if (this.#batch !== undefined && startsNew(this.#batch, imported)) done.push(this.take() as Batch);
    this.#batch ??= { channel: imported.channel, messages: [], firstCounter: this.#nextCounter, bytes: 0 };
    this.#batch.messages.push(imported);
    this.#batch.bytes += imported.sizeBytes;
    this.#nextCounter++;
    if (imported.exported === undefined && isAlone(imported)) done.push(this.take() as Batch);
    return done;
  }

  take(): Batch | undefined {
    const batch = this.#batch;
    this.#batch = undefined;
    return batch;
  }

  /** Runs `work` in the order of the calls: promise callbacks of one promise keep it. */
  async run(work: (producer: ImportProducer) => Promise<void>): Promise<void> {
    if (this.#open !== undefined) return await work(this.#open);
    return await this.#producer.then(work);
  }

  /** As `run`; what is run later begins when `work` has ended. */
  async hold(work: (producer: ImportProducer) => Promise<void>): Promise<void> {
    const done = this.run(work);
    const before = this.#producer;
    this.#open = undefined;
    this.#producer = done.then(() => before);
    this.#openWhen(this.#producer);
    await done;
  }
}

/**
 * A batch is atomic, so a message that may be refused for itself (a key or id
 * that is taken) must not take others with it.
 */
function isAlone(imported: ImportedMessage): boolean {
  return imported.message.key !== undefined || imported.message.messageId !== undefined;
}

function startsNew(batch: Batch, next: ImportedMessage): boolean {
  if (batch.channel !== next.channel) return true;
  // An export is loaded in the very appends that it was made of: references inside a batch count on it.
  // Where a place is missing, its message was a repeat by key and is not there; such batches hold no
  // references to places. A line that was lost is told by the append condition.
  if (next.exported !== undefined) return next.exported.batchPosition !== batch.messages.length;
  return (
    isAlone(next) ||
    batch.messages.length >= importLimits.batchMessages ||
    batch.bytes + next.sizeBytes > importLimits.batchBytes
  );
}
