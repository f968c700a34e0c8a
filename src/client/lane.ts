/**
 * One producer in one partition: the appends of a client on their way to the
 * partition's leader. What holds at every moment:
 *
 * 1. Counters are dense: an append gets its counter when it is first sent, in
 *    the order of the calls, and keeps it, with the same bytes, until its
 *    outcome is known ("settled"). The server refuses a gap, so appends take
 *    effect in order, also across a change of leader.
 * 2. An append is *in doubt* once an attempt ended without a certain answer (or
 *    was given up): it may have been applied. It is sent again, before anything
 *    later, also after its caller's deadline, until it is settled.
 * 3. If counter n surely never was and never will be applied under a producer,
 *    nothing after n ever will, whatever copies are still on their way. So where
 *    an append must be dropped (refused at the server's door, or out of time
 *    without doubt), the appends after it go, in order, under a *new* producer.
 *    Renumbering them under the old one would let a late copy of an earlier
 *    attempt slip in under its old counter.
 * 4. At most `window` appends between the oldest unsettled one and the newest:
 *    the server still has the first answer of each.
 * 5. A server that is slow is not asked again for what it still has: an attempt may take as long as its caller
 *    waits, counts as lost earlier only where the server says nothing at all (link.ts), and its answer counts
 *    whenever it comes. Else copies queue up behind copies, and no answer is ever in time.
 */
import { HansardError, reasons } from '../common/errors.js';
import type { PartitionId } from '../common/ids.js';
import { Deque } from './deque.js';
import type { Call } from './frames.js';
import type { Link } from './link.js';
import { type EncodedAppend, encodeOpenProducer, type Method, methods } from './requests.js';
import { type AppendResponse, readAppendResponse, readOpenProducerResponse } from './responses.js';
import { closedError, type Router, suspectMs, type Target, waitMs } from './router.js';
import { ProtoReader } from './wire-reader.js';

/** A node that says nothing at all is waited for so long, and twice as long each time that an append goes again: a few copies, whatever it takes. */
const patienceFirstMs = 5_000;
const patienceMaxMs = 60_000;
/**
 * Under way at first, and again behind each failure; as much more as is answered, up to `inFlightBytes`. Who can't
 * be served, for want of a leader or of time, is not kept from coming back by all that waits, sent over and over.
 */
const roomFirstBytes = 64 * 1024;
const openTimeoutMs = 5_000;
/** However long a server asks to wait. */
const pauseMaxMs = 5_000;
/** NOT_LEADER hints followed at once, before waiting. */
const hintsFollowed = 3;

/** Gaps before anything unsettled, one after the other, until the producer is given up. */
const foreignGapsMax = 6;

const State = { queued: 0, waiting: 1, outstanding: 2, settled: 3 } as const;
type State = (typeof State)[keyof typeof State];

/** Who counts the bytes of an append. */
export interface Accounts {
  /** Called once, where the append has its outcome. */
  finished(append: Append): void;
}

/**
 * An append from call to settlement: one object with no closures of its own. Thousands are under way
 * at a time, and the collector copies all of each that is there when it comes by.
 */
export class Append {
  state: State = State.queued;
  counter = 0;
  /** Of the last attempt; orders attempts of a lane. */
  sendNumber = 0;
  /** Whole milliseconds, as all times of it: others would be objects. */
  sentAtMs = 0;
  inDoubt = false;
  /** Times that it was sent. */
  sends = 0;
  lastError: HansardError | undefined;
  /** Its bytes count as in flight. */
  holdsRoom = false;
  /** The caller has its answer (its time was up); the counter still has to be settled. */
  callerGone = false;
  constructor(
    readonly encoded: EncodedAppend,
    readonly target: Target,
    readonly deadlineMs: number,
    /** Named producers: the counter that it must get; 0: the next. */
    readonly wantedCounter: number,
    readonly accounts: Accounts,
    readonly resultOf: (append: Append, response: AppendResponse) => unknown,
    /** Of the caller's promise. */
    readonly resolve: (result: never) => void,
    readonly reject: (error: HansardError) => void,
  ) {}
  get bytes(): number {
    return this.encoded.bodyTo - this.encoded.bodyFrom;
  }
  onSuccess(response: AppendResponse): void {
    this.accounts.finished(this);
    this.resolve(this.resultOf(this, response) as never);
  }
  onFailure(error: HansardError): void {
    this.accounts.finished(this);
    this.reject(error);
  }
}

/**
 * One sending of an append. It keeps its producer and counter: it may still lie in a link's queue when the
 * append has got others.
 */
class Attempt implements Call {
  constructor(
    readonly lane: Lane,
    readonly append: Append,
    readonly sendNumber: number,
    readonly producer: Producer,
    readonly counter: number,
    readonly timeoutMs: number,
    readonly patienceMs: number,
  ) {}
  get method(): Method {
    return methods.append;
  }
  get prefix(): Uint8Array {
    return this.append.encoded.prefix;
  }
  get producerId(): number {
    return this.producer.id;
  }
  get body(): Uint8Array {
    return this.append.encoded.body;
  }
  get bodyFrom(): number {
    return this.append.encoded.bodyFrom;
  }
  get bodyTo(): number {
    return this.append.encoded.bodyTo;
  }
  get isCurrent(): boolean {
    return this.append.state === State.outstanding && this.append.sendNumber === this.sendNumber;
  }
  /** What became of its counter is what became of the append, whichever attempt tells it. */
  get settles(): boolean {
    const { state, counter } = this.append;
    const isOpen = state === State.outstanding || state === State.waiting;
    return isOpen && counter === this.counter && this.lane.isOf(this.producer);
  }
  answered(bytes: Buffer, from: number, to: number, forwardedTo: number): void {
    if (this.settles) this.lane.answered(this.append, bytes, from, to, forwardedTo);
  }
  /** Of an attempt that was given up only an outcome counts, and no refusal. */
  failed(error: HansardError, inDoubt: boolean): void {
    if (this.isCurrent || (isOutcome(error) && this.settles)) this.lane.failed(this.append, error, inDoubt);
  }
}

/** Bytes in flight of the whole client; lanes that found no room are called when there is some. */
export class Budget {
  #used = 0;
  #waking = false;
  readonly #starved = new Set<Lane>();
  constructor(readonly max: number) {}
  /** One append always fits, so that none is too large for ever. */
  take(bytes: number, lane: Lane): boolean {
    if (this.#used > 0 && this.#used + bytes > this.max) {
      this.#starved.add(lane);
      return false;
    }
    this.#used += bytes;
    return true;
  }
  give(bytes: number): void {
    this.#used -= bytes;
    if (this.#starved.size === 0 || this.#waking) return;
    this.#waking = true;
    // Not now: the lane that gives may be in the midst of a change.
    queueMicrotask(() => {
      this.#waking = false;
      const lanes = [...this.#starved];
      this.#starved.clear();
      for (const lane of lanes) lane.pump();
    });
  }
}

export interface LaneOptions {
  readonly window: number;
  readonly inFlightBytes: number;
}

type Phase =
  | 'closed' // no producer yet
  | 'opening'
  | 'open'
  | 'retiring' // settles what is in flight, then opens a new producer
  | 'failed'; // named producers only: ends

/** As a partition knows it; shared by all that is sent for it. */
interface Producer {
  readonly id: number;
}

export class Lane {
  #phase: Phase = 'closed';
  #producer: Producer = { id: 0 };
  #nextCounter = 1;
  #window = 1;
  /** With counters, unsettled ones and settled ones behind an unsettled one, in order. */
  readonly #flight = new Deque<Append>();
  #flightBytes = 0;
  /** What may be under way now. */
  #roomBytes: number;
  /** Appends of the flight that wait to be sent (again). */
  #waiting = 0;
  readonly #queue = new Deque<Append>();
  #link: Link | undefined;
  #sends = 0;
  #failures = 0;
  #hints = 0;
  #foreignGaps = 0;
  #pausedUntilMs = 0;
  /** While it pauses for want of a leader: who was taken for it then (empty: nobody). Undefined: for another reason. */
  #leaderAtPause: string | undefined;
  #timer: NodeJS.Timeout | undefined;
  #lastError: HansardError | undefined;
  #failure: HansardError | undefined;
  #earliestDeadlineMs = Number.POSITIVE_INFINITY;
  #opened:
    | { promise: Promise<number>; resolve: (next: number) => void; reject: (error: HansardError) => void }
    | undefined;

  constructor(
    readonly partition: PartitionId,
    /** Any channel of the partition: OpenProducer names the partition by it. */
    readonly anyChannel: string,
    /** Empty: anonymous. */
    readonly name: string,
    readonly router: Router,
    readonly budget: Budget,
    readonly options: LaneOptions,
  ) {
    this.#roomBytes = Math.min(roomFirstBytes, options.inFlightBytes);
  }

  /** Is it the producer under which its flight is sent? */
  isOf(producer: Producer): boolean {
    return this.#producer === producer;
  }

  /** Nothing left to send or to settle. */
  get isIdle(): boolean {
    return this.#flight.length === 0 && this.#queue.length === 0;
  }

  /** Opens the producer if need be; the counter that the partition expected then. */
  opened(): Promise<number> {
    if (this.#failure !== undefined) return Promise.reject(this.#failure);
    this.#opened ??= withResolvers();
    if (this.#phase === 'closed') this.#open();
    return this.#opened.promise;
  }

  enqueue(append: Append): void {
    if (this.#failure !== undefined) return append.onFailure(this.#failure);
    this.#queue.push(append);
    if (append.deadlineMs < this.#earliestDeadlineMs) this.#earliestDeadlineMs = append.deadlineMs;
    this.pump();
  }

  /** Sends whatever may be sent now. */
  pump(): void {
    if (this.#phase === 'failed' || this.#phase === 'opening') return;
    if (this.#phase !== 'open' && this.#flight.length === 0) {
      if (this.#queue.length > 0) this.#open();
      return;
    }
    // Most answers leave nothing to be sent.
    if (this.#waiting === 0 && (this.#queue.length === 0 || this.#phase !== 'open')) return;
    if (performance.now() < this.#pausedUntilMs) return this.#wakeLater();
    const link = this.router.leaderLink(this.partition, this.#link);
    if (link !== this.#link) this.#moveTo(link);
    if (!this.#sendWaiting()) return;
    if (this.#phase === 'open') this.#sendQueued();
  }

  /** Ends appends whose time is up; has a silent leader looked at. */
  tick(nowMs: number): void {
    if (nowMs >= this.#earliestDeadlineMs) this.#expire(nowMs);
    if (this.#leaderAtPause !== undefined && nowMs < this.#pausedUntilMs) this.#lookForLeader(nowMs);
    const oldest = this.#flight.at(0);
    if (oldest?.state === State.outstanding && nowMs - oldest.sentAtMs > suspectMs) {
      this.router.refresh();
      // The map may name another leader by now: go there with all that is unanswered.
      const link = this.router.leaderLink(this.partition, this.#link);
      if (link !== this.#link) {
        this.#moveTo(link);
        this.pump();
      }
    }
  }

  /** A leader that the map names since is worth no more waiting; at most one try per map that is read. */
  #lookForLeader(nowMs: number): void {
    const leader = this.router.leaderOf(this.partition);
    if (leader === undefined || leader === this.#leaderAtPause) return this.router.refresh();
    this.#leaderAtPause = undefined;
    this.#pausedUntilMs = nowMs;
    this.pump();
  }

  close(): void {
    clearTimeout(this.#timer);
    this.#failure = closedError();
    this.#phase = 'failed';
    this.#opened?.reject(this.#failure);
    for (const append of [...this.#flight.cut(0), ...this.#queue.cut(0)]) {
      append.state = State.settled;
      if (!append.callerGone) append.onFailure(this.#failure);
    }
  }

  // Sending

  /** All that was sent to the former leader may have arrived there: in doubt, and to be sent again. */
  #moveTo(link: Link): void {
    if (this.#link !== undefined) {
      for (const append of this.#flight) {
        if (append.state !== State.outstanding) continue;
        append.inDoubt = true;
        this.#backToWaiting(append);
      }
    }
    this.#link = link;
  }

  /** False: something must be answered first. */
  #sendWaiting(): boolean {
    if (this.#waiting === 0) return true;
    let previous: Append | undefined;
    let bytes = 0;
    for (const append of this.#flight) {
      if (append.state === State.settled) continue;
      if (bytes > 0 && bytes + append.bytes > this.#roomBytes) return false;
      bytes += append.bytes;
      // Its predecessor's attempt is older and unanswered: this one would meet the same gap again.
      if (
        append.state === State.waiting &&
        previous?.state === State.outstanding &&
        append.sendNumber > previous.sendNumber
      )
        return false;
      if (append.state === State.waiting) {
        this.#waiting--;
        this.#send(append);
      }
      previous = append;
    }
    return true;
  }

  #sendQueued(): void {
    const room = Math.min(this.options.window, this.#window);
    while (this.#flight.length < room) {
      const append = this.#queue.at(0);
      if (append === undefined) return;
      if (append.wantedCounter !== 0 && append.wantedCounter !== this.#nextCounter) {
        this.#queue.shift();
        append.state = State.settled;
        append.onFailure(counterGap(append.wantedCounter, this.#nextCounter));
        continue;
      }
      if (this.#flightBytes > 0 && this.#flightBytes + append.bytes > this.#roomBytes) return;
      if (!this.budget.take(append.bytes, this)) return;
      this.#queue.shift();
      append.holdsRoom = true;
      this.#flightBytes += append.bytes;
      append.counter = this.#nextCounter;
      this.#nextCounter += append.encoded.count;
      this.#flight.push(append);
      this.#send(append);
    }
  }

  #send(append: Append): void {
    const now = performance.now();
    const sendNumber = ++this.#sends;
    append.sendNumber = sendNumber;
    append.sentAtMs = Math.floor(now);
    append.state = State.outstanding;
    const patienceMs = Math.min(patienceFirstMs * 2 ** append.sends++, patienceMaxMs);
    // All the time that its caller has: cut short, a slow node would be asked for the same over and over.
    // Past its deadline an append is sent only to be settled.
    const timeoutMs = append.callerGone ? patienceMs : Math.max(append.deadlineMs - now, 1);
    const { counter } = append;
    (this.#link as Link).send(
      new Attempt(this, append, sendNumber, this.#producer, counter, Math.ceil(timeoutMs), patienceMs),
    );
  }

  // Answers

  /** For its attempts alone, as is `failed`. */
  answered(append: Append, bytes: Buffer, from: number, to: number, forwardedTo: number): void {
    this.#onApplied(append, bytes, from, to);
    if (forwardedTo !== 0) this.router.forwarded(this.partition, forwardedTo);
    this.pump();
  }

  failed(append: Append, error: HansardError, inDoubt: boolean): void {
    append.lastError = error;
    this.#lastError = error;
    if (isOutcome(error)) {
      this.#recovered();
      this.#settle(append, error);
    } else this.#onNotApplied(append, error, inDoubt);
    this.pump();
  }

  #onApplied(append: Append, bytes: Buffer, from: number, to: number): void {
    this.#recovered();
    if (this.#roomBytes < this.options.inFlightBytes)
      this.#roomBytes = Math.min(this.#roomBytes + append.bytes, this.options.inFlightBytes);
    let response: AppendResponse;
    try {
      response = readAppendResponse(new ProtoReader(bytes, undefined, from, to));
    } catch (cause) {
      const error = new HansardError('INTERNAL', `unreadable answer to an append: ${cause}`, {}, { cause });
      return this.#settle(append, error);
    }
    const { callerGone } = append;
    this.router.session.answered(response.commitToken);
    this.#settle(append, undefined);
    if (!callerGone) append.onSuccess(response);
  }

  #onNotApplied(append: Append, error: HansardError, inDoubt: boolean): void {
    if (inDoubt) append.inDoubt = true;
    this.#backToWaiting(append);
    const address = this.#link?.address ?? '';
    switch (error.reason) {
      case 'NOT_LEADER': {
        const leader = String(error.fields.leader_address ?? '');
        if (leader !== '' && leader !== address) {
          this.router.hint(this.partition, leader);
          if (++this.#hints <= hintsFollowed) return;
        } else this.router.distrust(this.partition, address);
        this.router.refresh();
        return this.#pauseForLeader(error.retryDelayMs);
      }
      case 'PRODUCER_GAP':
        return this.#onGap(append, error);
      case 'PRODUCER_EXPIRED':
        return this.#onExpired(append, error);
      case 'OVERLOADED':
        return this.#pause(error.retryDelayMs);
      default:
        if (!inDoubt && reasons[error.reason].retry !== 'yes') return this.#onRefusedAtDoor(append, error);
        // A broken stream alone says nothing of the node; a refused connection does.
        if (!inDoubt && (error.reason === 'UNREACHABLE' || error.reason === 'SHUTTING_DOWN'))
          this.router.distrust(this.partition, address);
        this.router.refresh();
        return this.#pauseForLeader(error.retryDelayMs);
    }
  }

  /** Something before it is missing there; it goes again after that (#sendWaiting keeps the order). */
  #onGap(append: Append, error: HansardError): void {
    const expected = Number(error.fields.expected_counter ?? append.counter);
    const oldest = this.#flight.at(0) as Append;
    if (expected >= oldest.counter) {
      // Nothing of ours is missing before the oldest: not to be asked again in a tight loop.
      if (append === oldest) this.#pause(error.retryDelayMs);
      return;
    }
    // A whole window meets the gap together; the oldest alone counts it, once a round.
    if (append !== oldest) return;
    // A leader that is still catching up may say so for a moment.
    if (++this.#foreignGaps < foreignGapsMax) return this.#pause(error.retryDelayMs);
    // The gap is one that we will never fill: what was refused at the door while in doubt.
    if (this.name !== '') return this.#fail(error);
    this.#giveUpInDoubt(error);
    this.#retireAt(0);
  }

  #onExpired(append: Append, error: HansardError): void {
    if (this.name !== '') return this.#fail(error);
    // Without doubt it was not applied, so nothing after it was (3).
    if (!append.inDoubt) return this.#retireAt(this.#flight.indexOf(append));
    this.#phase = 'retiring';
    this.#settle(append, error);
  }

  /** Its counter was not consumed. The checks before sending make this rare: another version, a new limit. */
  #onRefusedAtDoor(append: Append, error: HansardError): void {
    if (append.inDoubt) {
      // An earlier attempt may have been let in. What comes after will tell: it is applied, or meets a gap.
      const unknown = new HansardError(
        'COMMIT_UNKNOWN',
        `an attempt had no answer, a later one was refused: ${error.message}`,
        error.fields,
        { cause: error },
      );
      return this.#settle(append, unknown);
    }
    this.#drop(append, error);
  }

  /** Takes an append out that surely is not and will not be applied. */
  #drop(append: Append, error: HansardError): void {
    const index = this.#flight.indexOf(append);
    if (this.name !== '') {
      this.#reject(append, error);
      append.state = State.settled;
      this.#waiting--;
      return this.#fail(counterGap(append.counter, append.counter, error));
    }
    this.#retireAt(index + 1);
    this.#flight.cut(index);
    this.#release(append);
    append.state = State.settled;
    this.#waiting--;
    this.#reject(append, error);
    if (this.#phase === 'retiring' && this.#flight.length > 0) return;
    // Nothing came after it: its counter is free again. Else: all before it is settled, start anew.
    if (this.#phase === 'open') this.#nextCounter = append.counter;
    else this.#phase = 'closed';
  }

  /** Appends from `index` on surely are not applied: back to the queue, for a new producer. */
  #retireAt(index: number): void {
    if (index >= this.#flight.length) return;
    const back: Append[] = [];
    for (const append of this.#flight.cut(index)) {
      this.#release(append);
      if (append.state === State.settled) continue;
      if (append.state === State.waiting) this.#waiting--;
      append.inDoubt = false;
      append.sendNumber = 0;
      // Its caller was told that the outcome is unknown; now it is known: never.
      append.state = append.callerGone ? State.settled : State.queued;
      if (!append.callerGone) back.push(append);
    }
    this.#queue.unshiftAll(back);
    this.#phase = this.#flight.length > 0 ? 'retiring' : 'closed';
  }

  /** The oldest appends that may have been applied, though the server now denies it: their callers must look. */
  #giveUpInDoubt(error: HansardError): void {
    for (const append of [...this.#flight]) {
      if (append.state === State.settled) continue;
      if (!append.inDoubt && append.state !== State.outstanding) return;
      if (append.state === State.waiting) this.#waiting--;
      this.#settleAs(append, error);
    }
  }

  /** A named producer can't start anew by itself: everything not settled ends with the error. */
  #fail(error: HansardError): void {
    this.#phase = 'failed';
    this.#failure = error;
    for (const append of [...this.#flight.cut(0), ...this.#queue.cut(0)]) {
      this.#release(append);
      if (append.state === State.settled) continue;
      append.state = State.settled;
      this.#reject(append, error);
    }
  }

  #settle(append: Append, error: HansardError | undefined): void {
    if (append.state === State.waiting) this.#waiting--;
    this.#settleAs(append, error);
  }

  #settleAs(append: Append, error: HansardError | undefined): void {
    append.state = State.settled;
    while (this.#flight.at(0)?.state === State.settled) this.#release(this.#flight.shift() as Append);
    if (this.#phase === 'retiring' && this.#flight.length === 0) this.#phase = 'closed';
    if (error !== undefined) this.#reject(append, error);
  }

  #reject(append: Append, error: HansardError): void {
    if (append.callerGone) return;
    append.callerGone = true;
    this.router.session.doubt(this.partition);
    append.onFailure(error);
  }

  #release(append: Append): void {
    if (!append.holdsRoom) return;
    append.holdsRoom = false;
    this.#flightBytes -= append.bytes;
    this.budget.give(append.bytes);
  }

  #backToWaiting(append: Append): void {
    append.state = State.waiting;
    this.#waiting++;
  }

  // Time

  #pause(delayMs: number | undefined): void {
    const now = performance.now();
    // The other appends that failed with it count as the same failure.
    if (now < this.#pausedUntilMs) return;
    this.#leaderAtPause = undefined;
    this.#roomBytes = Math.min(roomFirstBytes, this.options.inFlightBytes);
    this.#pausedUntilMs = now + Math.min(waitMs(delayMs, this.#failures), pauseMaxMs);
    this.#failures++;
    this.#hints = 0;
  }

  #pauseForLeader(delayMs: number | undefined): void {
    const before = this.#pausedUntilMs;
    this.#pause(delayMs);
    if (this.#pausedUntilMs !== before) this.#leaderAtPause = this.router.leaderOf(this.partition) ?? '';
  }

  #recovered(): void {
    this.#failures = 0;
    this.#hints = 0;
    this.#foreignGaps = 0;
  }

  #wakeLater(): void {
    this.#timer ??= setTimeout(
      () => {
        this.#timer = undefined;
        this.pump();
      },
      Math.max(1, Math.ceil(this.#pausedUntilMs - performance.now())),
    );
  }

  #expire(nowMs: number): void {
    let earliest = Number.POSITIVE_INFINITY;
    for (const append of [...this.#flight, ...this.#queue]) {
      if (append.callerGone || append.state === State.settled) continue;
      if (append.deadlineMs > nowMs) earliest = Math.min(earliest, append.deadlineMs);
      else this.#outOfTime(append);
    }
    this.#earliestDeadlineMs = earliest;
    this.pump();
  }

  #outOfTime(append: Append): void {
    if (append.state === State.queued) {
      this.#queue.remove(append);
      append.state = State.settled;
      return this.#reject(append, append.lastError ?? this.#lastError ?? lateError(false));
    }
    const isCertain = append.state === State.waiting && !append.inDoubt;
    if (isCertain && this.name === '') return this.#drop(append, append.lastError ?? lateError(false));
    // It goes on without its caller until its counter is settled (2).
    this.#reject(append, lateError(true, append.lastError));
  }

  // Opening

  #open(): void {
    this.#phase = 'opening';
    this.#opened ??= withResolvers();
    const request = encodeOpenProducer(this.router.tenant, this.anyChannel, this.name);
    const deadline = performance.now() + openTimeoutMs;
    this.router
      .call(methods.openProducer, request, { partition: this.partition }, deadline, readOpenProducerResponse)
      .then(
        (producer) => {
          if (this.#phase !== 'opening') return; // closed meanwhile
          this.#producer = { id: producer.producerId };
          this.#nextCounter = producer.nextCounter;
          this.#window = Math.max(1, producer.window);
          this.#phase = 'open';
          this.#opened?.resolve(producer.nextCounter);
          this.pump();
        },
        (error: unknown) => this.#onOpenFailed(asHansard(error)),
      );
  }

  #onOpenFailed(error: HansardError): void {
    if (this.#phase !== 'opening') return;
    this.#phase = 'closed';
    this.#lastError = error;
    const lasting = reasons[error.reason].retry === 'no';
    if (lasting || this.#queue.length === 0) {
      this.#opened?.reject(error);
      this.#opened = undefined;
    }
    // Appends that have time left try again.
    if (lasting) for (const append of this.#queue.cut(0)) this.#endQueued(append, error);
    if (this.#queue.length > 0) this.#open();
  }

  #endQueued(append: Append, error: HansardError): void {
    append.state = State.settled;
    this.#reject(append, error);
  }
}

/** The append's counter is used up by it. */
function isOutcome({ fields, reason }: HansardError): boolean {
  return fields.counter_consumed === 'true' || reason === 'PRODUCER_REUSED';
}

function counterGap(counter: number, expected: number, cause?: HansardError): HansardError {
  const why = cause === undefined ? '' : `: the append before was refused (${cause.reason})`;
  return new HansardError(
    'PRODUCER_GAP',
    `counter ${counter} can't be sent, ${expected} is next${why}`,
    { expected_counter: expected },
    cause === undefined ? undefined : { cause },
  );
}

function lateError(isOutcomeOpen: boolean, cause?: HansardError): HansardError {
  const last = cause === undefined ? '' : ` (last: ${cause.reason})`;
  return new HansardError(
    'DEADLINE_EXCEEDED',
    isOutcomeOpen
      ? `the append was sent, its outcome is unknown${last}`
      : 'the append waited for its turn and was not sent',
    { outcome: isOutcomeOpen ? 'unknown' : 'not-applied' },
    cause === undefined ? undefined : { cause },
  );
}

function asHansard(error: unknown): HansardError {
  return error instanceof HansardError
    ? error
    : new HansardError('INTERNAL', String(error), {}, { cause: error });
}

function withResolvers(): {
  promise: Promise<number>;
  resolve: (value: number) => void;
  reject: (error: HansardError) => void;
} {
  let resolve: (value: number) => void = () => {};
  let reject: (error: HansardError) => void = () => {};
  const promise = new Promise<number>((yes, no) => {
    resolve = yes;
    reject = no;
  });
  // Whoever asked gets the rejection; nobody asking is no fault.
  promise.catch(() => {});
  return { promise, resolve, reject };
}
