/** The tails of one channel: woken together, read for together where they stand at the same place. */
import { HansardError } from '../common/errors.js';
import type { PartitionId, Seq } from '../common/ids.js';
import type { ChannelState } from '../conversation/types.js';
import type { ReadView } from '../node/types.js';
import type { Served } from './encode.js';
import { encodeCaughtUp, encodeHeartbeat, encodeTailEvents } from './encode-tail.js';
import { OutMessage } from './framed.js';
import { leaderless } from './out-stream.js';
import type { Services } from './services.js';
import type { TailStream } from './tail-stream.js';
import type { Tails } from './tails.js';

export interface ChannelPlace {
  readonly tenant: string;
  readonly channel: string;
}

/** Tails that stand at the same place and get the same page. */
interface Batch {
  readonly next: Seq;
  readonly maxBatch: number;
  readonly tails: TailStream[];
  /** The longest time that one of them has waited. */
  servedAt: number;
}

/** Pages read in one round beside that of the foremost tails: who is far behind never holds up who is not. */
const catchUpPerRound = 7;
/** Messages written before other work gets its turn: about 2 ms. */
const writesPerTurn = 100;
/** An applied state answers at once; this only bounds a wait that should not be there, ms. */
const viewTimeoutMs = 5_000;

export class ChannelTails {
  lastRoundMs: number;
  readonly #services: Services;
  readonly #hub: Tails;
  readonly #partition: PartitionId;
  readonly #place: ChannelPlace;
  readonly #tails = new Set<TailStream>();
  readonly #unwatch: () => void;
  readonly #onEmpty: () => void;
  readonly #bound: string;
  #state: 'idle' | 'queued' | 'running' = 'idle';
  /** Woken during a round. */
  #again = false;
  #served = 0;
  /** Since when no leader is known here. */
  #leaderlessSinceMs: number | undefined;
  #token = { after: -1, text: '' };

  /** Throws NOT_LEADER where this node holds no replica. */
  constructor(
    services: Services,
    hub: Tails,
    partition: PartitionId,
    place: ChannelPlace,
    onEmpty: () => void,
  ) {
    this.#services = services;
    this.#hub = hub;
    this.#partition = partition;
    this.#place = place;
    this.#onEmpty = onEmpty;
    this.#bound = tokenBound(place);
    this.lastRoundMs = services.node.monotonicMs();
    this.#unwatch = services.node.watchChannel(partition, place.tenant, place.channel, () => this.wake());
  }

  tails(): TailStream[] {
    return [...this.#tails];
  }

  add(tail: TailStream): void {
    this.#tails.add(tail);
    const { node } = this.#services;
    tail.cameLeaderlessMs = node.leaderOf(this.#partition) === undefined ? node.monotonicMs() : undefined;
    // A loss that it came in ends for it, too, where it is over before anybody looks.
    if (tail.cameLeaderlessMs !== undefined) this.#leaderlessSinceMs ??= tail.cameLeaderlessMs;
    tail.onRoom = () => this.wake();
    const closed = tail.onClose;
    tail.onClose = (reason) => {
      this.#tails.delete(tail);
      if (this.#tails.size === 0) {
        this.#unwatch();
        this.#onEmpty();
      }
      closed?.(reason);
    };
    this.wake();
  }

  /** Something may be there to send. Also called while an entry is being applied: only takes a note. */
  wake(): void {
    if (this.#state === 'idle') {
      this.#state = 'queued';
      this.#hub.enqueue(this);
    } else if (this.#state === 'running') this.#again = true;
  }

  /** One look at the channel, and a page for whoever is behind. Never rejects. */
  async round(): Promise<void> {
    this.#state = 'running';
    this.#again = false;
    this.lastRoundMs = this.#services.node.monotonicMs();
    try {
      await this.#look();
    } catch (error) {
      const told = this.#hub.errorOf(error);
      for (const tail of this.tails()) tail.fail(told);
    }
    this.#state = 'idle';
    if (this.#again && this.#tails.size > 0) this.wake();
  }

  /** Heartbeats for those that have heard nothing for so long, at most `quota`; gives how many. */
  beat(nowMs: number, heartbeatMs: number, quota: number): number {
    let sent = 0;
    for (const tail of this.#tails) {
      if (nowMs - tail.lastSentMs < heartbeatMs || !tail.isDrained || !tail.isReady) continue;
      if (sent >= quota) break;
      this.#send(tail, new OutMessage(encodeHeartbeat(this.#tokenAfter(tail.next - 1))));
      sent++;
    }
    return sent;
  }

  /**
   * Sends readers away where no leader has been known for so long: this node may be cut off, and others go on
   * without it. Who comes back while it lasts has found nobody better then, and stays for a while.
   */
  handOver(nowMs: number, leaderlessMs: number, stayMs: number): void {
    if (this.#services.node.leaderOf(this.#partition) !== undefined) {
      if (this.#leaderlessSinceMs === undefined) return;
      this.#leaderlessSinceMs = undefined;
      for (const tail of this.#tails) tail.cameLeaderlessMs = undefined;
      return;
    }
    this.#leaderlessSinceMs ??= nowMs;
    if (nowMs - this.#leaderlessSinceMs < leaderlessMs) return;
    for (const tail of this.tails())
      if (tail.cameLeaderlessMs === undefined || nowMs - tail.cameLeaderlessMs >= stayMs)
        tail.fail(leaderless(this.#partition));
  }

  async #look(): Promise<void> {
    const { node } = this.#services;
    const { tenant, channel: name } = this.#place;
    const view = await node.readBarrier(this.#partition, {
      level: 'eventual',
      minIndex: 0,
      deadlineMs: node.monotonicMs() + viewTimeoutMs,
    });
    const channel = await view.reader.channelByName(tenant, name);
    const served = this.#services.served(this.#partition, view);
    for (const tail of this.tails()) this.#greet(tail, channel, served);
    if (channel === undefined) return;
    const batches = this.#batches(channel.headSeq);
    for (const batch of batches.slice(0, 1 + catchUpPerRound)) {
      await this.#serve(batch, view, channel);
    }
    if (batches.length > 1 + catchUpPerRound) this.#again = true;
  }

  /** What a tail is told beside events. */
  #greet(tail: TailStream, channel: ChannelState | undefined, served: Served): void {
    if (channel === undefined && tail.mustExist) {
      tail.fail(channelNotFound(this.#place));
      return;
    }
    if (channel !== undefined) tail.next = Math.max(tail.next, firstSeqOf(channel));
    const headSeq = channel?.headSeq ?? 0;
    if (tail.next <= headSeq) {
      // It does not take what there is: it has fallen behind, and will be told when it is back.
      if (tail.eventsTaken === 0) tail.live = false;
    } else this.#tellCaughtUp(tail, headSeq, channel, served);
  }

  #tellCaughtUp(tail: TailStream, headSeq: Seq, channel: ChannelState | undefined, served: Served): void {
    if (tail.live || !tail.isReady) return;
    tail.live = true;
    const token = this.#tokenAfter(tail.next - 1);
    this.#send(tail, new OutMessage(encodeCaughtUp(token, headSeq, channel?.uid ?? '', served)));
  }

  /** Those that are behind and take what they get, by place: the foremost first, then who has waited longest. */
  #batches(headSeq: Seq): Batch[] {
    const byPlace = new Map<string, Batch>();
    for (const tail of this.#tails) {
      const takes = tail.eventsTaken;
      if (tail.next > headSeq || takes === 0) continue;
      // What there is bounds it too: those at the head share a page whatever they would take.
      const maxBatch = Math.min(tail.maxBatch, takes, headSeq - tail.next + 1);
      const key = `${tail.next}/${maxBatch}`;
      const batch = byPlace.get(key);
      if (batch === undefined) {
        const { next, servedAt } = tail;
        byPlace.set(key, { next, maxBatch, tails: [tail], servedAt });
      } else {
        batch.tails.push(tail);
        batch.servedAt = Math.min(batch.servedAt, tail.servedAt);
      }
    }
    const batches = [...byPlace.values()];
    if (batches.length < 2) return batches;
    batches.sort((a, b) => b.next - a.next);
    const [foremost, ...others] = batches as [Batch, ...Batch[]];
    return [foremost, ...others.sort((a, b) => a.servedAt - b.servedAt)];
  }

  async #serve(batch: Batch, view: ReadView, channel: ChannelState): Promise<void> {
    const { next, maxBatch } = batch;
    let events: Awaited<ReturnType<typeof view.reader.events>>;
    try {
      events = await view.reader.events(channel, {
        fromSeq: next,
        toSeq: Math.min(channel.headSeq, next + maxBatch - 1),
        reverse: false,
        maxEvents: maxBatch,
        maxBytes: this.#hub.pageBytes,
      });
    } catch (error) {
      return this.#failed(batch, view, channel, error);
    }
    const after = events.at(-1)?.seq ?? next - 1;
    const message = new OutMessage(encodeTailEvents(this.#tokenAfter(after), events, channel.uid));
    const stamp = ++this.#served;
    let writes = 0;
    // The channel's state goes on with every wait, and its head is told.
    let served = this.#services.served(this.#partition, view);
    for (const tail of batch.tails) {
      if (++writes % writesPerTurn === 0) {
        await turn();
        served = this.#services.served(this.#partition, view);
      }
      if (tail.isClosed) continue;
      this.#send(tail, message, events.length);
      tail.next = after + 1;
      tail.servedAt = stamp;
      if (tail.next > channel.headSeq) this.#tellCaughtUp(tail, channel.headSeq, channel, served);
      else {
        tail.live = false;
        if (tail.eventsTaken > 0) this.#again = true;
      }
    }
  }

  /** A channel that was deleted while it was read is no damage: the next round sees what there is. */
  async #failed(batch: Batch, view: ReadView, channel: ChannelState, error: unknown): Promise<void> {
    const now = await view.reader.channelByName(this.#place.tenant, this.#place.channel);
    if (now?.id !== channel.id) {
      this.#again = true;
      return;
    }
    const told = this.#hub.errorOf(error);
    for (const tail of batch.tails) tail.fail(told);
  }

  #send(tail: TailStream, message: OutMessage, events = 0): void {
    tail.send(message, events, this.#hub.pageBytes, this.#services.node.monotonicMs());
  }

  /** The same one is asked for again and again: by every tail at the head. */
  #tokenAfter(after: Seq): string {
    if (this.#token.after !== after) {
      const text = this.#services.tokens.page(this.#bound, (writer) => writer.uvarint(after));
      this.#token = { after, text };
    }
    return this.#token.text;
  }
}

/** What a resume token belongs to. A name that is used again goes on counting, so its tokens stay good. */
export function tokenBound(place: ChannelPlace): string {
  return JSON.stringify(['TailChannel', place.tenant, place.channel]);
}

export function channelNotFound({ tenant, channel }: ChannelPlace): HansardError {
  return new HansardError('CHANNEL_NOT_FOUND', `tenant ${tenant} has no channel ${channel}`, {
    tenant,
    channel,
  });
}

/** First event that the channel can have: a name that is used again goes on behind its deleted head. */
function firstSeqOf(channel: ChannelState): Seq {
  return channel.baseSeq + 1;
}

function turn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}
