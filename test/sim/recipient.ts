/**
 * One of two who report deliveries and move read cursors of the same recipients, late, out of turn and more than once, and
 * ask how far they are, through the services' own handlers, on any node. What anybody was told of an event must hold for
 * whoever asks later: delivered stays delivered, failed never becomes pending, and a cursor never goes back.
 */
import type { PackageDefinition } from '@grpc/proto-loader';
import { bytesOf, type Handler } from '../../src/api/calls.js';
import { deliveryMethods } from '../../src/api/delivery.js';
import { inboxMethods } from '../../src/api/inbox.js';
import { Services } from '../../src/api/services.js';
import { HansardError } from '../../src/common/errors.js';
import { loadPublicProtos } from '../../src/common/proto.js';
import type { HansardNode } from '../../src/node/node.js';
import type { Replica } from '../../src/partition/replica.js';
import { SimRandom } from './sim-clock.js';
import { askNode, callMs, Work, type WorkWorld } from './work.js';

const tenant = 'default';
const names = ['ann', 'bob'] as const;
/** Numbers of the protos: levels, and states of a delivery. */
const linearizable = 1;
const session = 2;
const delivered = 2;
const failedState = 3;

/** A delivery as the services tell it; numbers as texts. */
interface Told {
  readonly up_to_seq: string;
  readonly failed: readonly { readonly seq: string; readonly attempts: number }[];
  readonly state: number;
}

/** What anybody knows of one recipient in one channel: it only grows. */
class Known {
  upToSeq = 0;
  cursorSeq = 0;
  /** Delivered events, and at which step of this knowledge that was learned. */
  readonly delivered = new Map<number, number>();
  /** As it was told last; some of them may be delivered by now. */
  failed: number[] = [];
  step = 0;

  /** What is wrong with what was told to somebody who asked when this much was known. */
  take({ up_to_seq, failed }: Told, since: Floor): string | undefined {
    const upTo = Number(up_to_seq);
    const failures = failed.map(({ seq }) => Number(seq));
    if (upTo < since.upToSeq) return `done up to ${upTo}, ${since.upToSeq} was known before`;
    const back = failures.find((seq) => (this.delivered.get(seq) ?? Number.POSITIVE_INFINITY) <= since.step);
    if (back !== undefined) return `event ${back} was delivered, and has failed`;
    this.step++;
    for (let seq = 1; seq <= upTo; seq++)
      if (!this.delivered.has(seq) && !failures.includes(seq)) this.delivered.set(seq, this.step);
    this.upToSeq = Math.max(this.upToSeq, upTo);
    this.failed = failures;
    return undefined;
  }

  takeCursor(seq: number, since: Floor): string | undefined {
    if (seq < since.cursorSeq) return `its cursor is at ${seq}, ${since.cursorSeq} was known before`;
    this.cursorSeq = Math.max(this.cursorSeq, seq);
    return undefined;
  }

  get floor(): Floor {
    const { upToSeq, cursorSeq, step } = this;
    return { upToSeq, cursorSeq, step };
  }
}

/** What was known when somebody asked. */
interface Floor {
  readonly upToSeq: number;
  readonly cursorSeq: number;
  readonly step: number;
}

/** What all recipients know together: by channel and name. */
export class Deliveries {
  readonly #known = new Map<string, Known>();

  of(channel: string, name: string): Known {
    const key = `${channel}\0${name}`;
    const found = this.#known.get(key) ?? new Known();
    this.#known.set(key, found);
    return found;
  }

  /** What a replica that has applied everything must hold. */
  async check(replica: Replica, channels: readonly string[]): Promise<string[]> {
    const found: string[] = [];
    for (const channel of channels)
      for (const name of names) {
        const known = this.of(channel, name);
        const told = await replica.store.readCursor(tenant, channel, name, 'delivery');
        const failed = (told?.failed ?? []).map(({ seq, attempts }) => ({ seq: String(seq), attempts }));
        const problem =
          known.take({ up_to_seq: String(told?.seq ?? 0), failed, state: 0 }, known.floor) ??
          known.takeCursor((await replica.store.readCursor(tenant, channel, name))?.seq ?? 0, known.floor);
        if (problem !== undefined)
          found.push(`delivery: replica ${replica.replicaId}, ${channel}, ${name}: ${problem}`);
      }
    return found;
  }
}

let loaded: PackageDefinition | undefined;
/** By node: the services hold on to it. */
const services = new WeakMap<HansardNode, ReadonlyMap<string, Handler>>();

function handlersOf(node: HansardNode): ReadonlyMap<string, Handler> {
  let found = services.get(node);
  if (found === undefined) {
    loaded ??= loadPublicProtos();
    const made = new Services(node, loaded);
    found = new Map([...deliveryMethods(made), ...inboxMethods(made)]);
    services.set(node, found);
  }
  return found;
}

interface Codec {
  serialize(value: object): Buffer;
  deserialize(bytes: Buffer): never;
}

function codec(type: string): Codec {
  loaded ??= loadPublicProtos();
  return (loaded as unknown as Record<string, Codec>)[`hansard.v1.${type}`] as Codec;
}

interface Reported {
  readonly delivery: Told;
  readonly commit_token: Buffer;
}
interface Listed {
  readonly deliveries: readonly Told[];
}
interface Moved {
  readonly cursor: { readonly seq: string };
  readonly commit_token: Buffer;
}
interface Inbox {
  readonly entries: readonly { readonly read_seq: string; readonly channel: { readonly head_seq: string } }[];
}

export class SimRecipient {
  readonly counts = { reports: 0, moves: 0, reads: 0, bySession: 0 };
  readonly #random: SimRandom;
  /** Of the last answer: by it a session asks any replica. */
  #token:
    | { readonly channel: string; readonly name: string; readonly bytes: Buffer; readonly floor: Floor }
    | undefined;
  readonly #work: Work;

  constructor(
    readonly id: string,
    private readonly channels: readonly string[],
    private readonly deliveries: Deliveries,
    private readonly world: WorkWorld,
    seed: number,
  ) {
    this.#random = new SimRandom(seed);
    this.#work = new Work(world, this.#random, 40, () => this.#act());
  }

  stop(): Promise<void> {
    return this.#work.stop();
  }

  async #act(): Promise<void> {
    const channel = this.channels[this.#random.below(this.channels.length)] as string;
    const name = names[this.#random.below(names.length)] as string;
    const head = this.world.history.headSeen.get(channel) ?? 0;
    if (head === 0) return;
    const what = this.#random.below(8);
    if (what < 3) await this.#report(channel, name, head);
    else if (what === 3) await this.#move(channel, name, head);
    else if (what === 4) await this.#inbox(channel, name, head);
    else if (what === 5) await this.#listBySession();
    else await this.#list(channel, name, head);
  }

  async #report(channel: string, recipient: string, head: number): Promise<void> {
    const known = this.deliveries.of(channel, recipient);
    const since = known.floor;
    // Often less than was reported before: late, or sent again by somebody who knew less.
    const upTo = Math.min(head, Math.max(0, since.upToSeq - 4) + this.#random.below(12));
    const failed = this.#seqsUpTo(upTo).map((seq) => ({
      seq,
      attempts: 1 + this.#random.below(3),
      reason: 'drawn',
    }));
    const recovered = known.failed.filter(() => this.#random.below(2) === 0).slice(0, 20);
    const request = { channel, recipient, up_to_seq: upTo, failed, recovered };
    const node = this.world.leaderOf(this.world.partitionOf(channel));
    const answer = await this.#call<Reported>(node, 'DeliveryService/ReportDelivery', request);
    if (answer === undefined) return;
    this.counts.reports++;
    const { delivery, commit_token } = answer;
    const isTaken = Number(delivery.up_to_seq) >= upTo && recovered.every((seq) => !holds(delivery, seq));
    this.#note(
      `report of ${recipient}, ${channel}`,
      isTaken ? known.take(delivery, since) : 'it did not take effect',
    );
    this.#token = { channel, name: recipient, bytes: commit_token, floor: known.floor };
  }

  /** Of the newest ones, among them some that were delivered long ago. */
  #seqsUpTo(upTo: number): number[] {
    const count = this.#random.below(3);
    return Array.from({ length: count }, () => Math.max(1, upTo - this.#random.below(6))).filter(
      (seq) => seq <= upTo,
    );
  }

  async #list(channel: string, recipient: string, head: number): Promise<void> {
    const known = this.deliveries.of(channel, recipient);
    const since = known.floor;
    const seq = 1 + this.#random.below(head);
    const node = this.world.anyNode(this.#random);
    const request = { channel, recipient, seq, read: { level: linearizable } };
    const answer = await this.#call<Listed>(node, 'DeliveryService/ListDeliveries', request);
    if (answer === undefined) return;
    this.counts.reads++;
    const [told] = answer.deliveries;
    if (told === undefined) return this.#note(`list of ${recipient}, ${channel}`, 'it is not told');
    const wasDelivered = (known.delivered.get(seq) ?? Number.POSITIVE_INFINITY) <= since.step;
    const isRight = !wasDelivered || told.state === delivered;
    const isTold = holds(told, seq) === (told.state === failedState);
    const problem = isRight && isTold ? known.take(told, since) : `event ${seq} is in state ${told.state}`;
    this.#note(`list of ${recipient}, ${channel}`, problem);
  }

  /** A replica that may lag, asked with the token of the last answer. */
  async #listBySession(): Promise<void> {
    const token = this.#token;
    if (token === undefined) return;
    const { channel, name: recipient, floor } = token;
    const request = { channel, recipient, read: { level: session, commit_tokens: [token.bytes] } };
    const node = this.world.anyNode(this.#random);
    const answer = await this.#call<Listed>(node, 'DeliveryService/ListDeliveries', request);
    if (answer === undefined) return;
    this.counts.bySession++;
    const [told] = answer.deliveries;
    const problem =
      told === undefined ? 'it is not told' : this.deliveries.of(channel, recipient).take(told, floor);
    this.#note(`list of ${recipient}, ${channel}, by a token`, problem);
  }

  async #move(channel: string, reader: string, head: number): Promise<void> {
    const known = this.deliveries.of(channel, reader);
    const since = known.floor;
    const seq = Math.min(head, Math.max(0, since.cursorSeq - 3) + this.#random.below(10));
    const node = this.world.leaderOf(this.world.partitionOf(channel));
    const answer = await this.#call<Moved>(node, 'InboxService/MoveReadCursor', { channel, reader, seq });
    if (answer === undefined) return;
    this.counts.moves++;
    const now = Number(answer.cursor.seq);
    const problem = now < seq ? `it is at ${now}, not at ${seq}` : known.takeCursor(now, since);
    this.#note(`cursor of ${reader}, ${channel}`, problem);
  }

  async #inbox(channel: string, reader: string, head: number): Promise<void> {
    const known = this.deliveries.of(channel, reader);
    const since = known.floor;
    const node = this.world.anyNode(this.#random);
    const request = {
      reader,
      channels: [channel],
      without_last_message: true,
      read: { level: linearizable },
    };
    const answer = await this.#call<Inbox>(node, 'InboxService/GetInbox', request);
    if (answer === undefined) return;
    this.counts.reads++;
    const [entry] = answer.entries;
    const seen = Number(entry?.channel.head_seq ?? 0);
    const problem =
      seen < head
        ? `it shows head ${seen}, ${head} was known`
        : known.takeCursor(Number(entry?.read_seq), since);
    this.#note(`inbox of ${reader}, ${channel}`, problem);
  }

  /** As another node would have it done: it is not passed on, and waits for no election. Undefined: no answer, or a refusal. */
  async #call<T>(node: HansardNode | undefined, method: string, request: object): Promise<T | undefined> {
    if (node === undefined) return undefined;
    const [, name = ''] = method.split('/');
    const bytes = codec(`${name}Request`).serialize(request);
    const ask = async (): Promise<Uint8Array> => {
      const path = `hansard.v1.${method}`;
      const handler = handlersOf(node).get(path) as Handler;
      const response = await handler(contextOf(path, node.monotonicMs() + callMs), bytes);
      if (response === undefined) throw new Error(`${method} gave nothing back`);
      return bytesOf(response);
    };
    const answer = await askNode(this.world, node, ask);
    if (answer === undefined || answer instanceof HansardError) return undefined;
    return codec(`${name}Response`).deserialize(Buffer.from(answer)) as T;
  }

  #note(what: string, problem: string | undefined): void {
    const { clock, history, violations } = this.world;
    history.log(clock.monotonicMs(), `${this.id} ${what}: ${problem ?? 'ok'}`);
    if (problem !== undefined) violations.push(`delivery: ${what}: ${problem} (${clock.monotonicMs()} ms)`);
  }
}

function holds({ failed }: Told, seq: number): boolean {
  return failed.some((each) => Number(each.seq) === seq);
}

function contextOf(method: string, deadlineMs: number): Parameters<Handler>[0] {
  return {
    method,
    deadlineMs,
    origin: 'forward',
    traceparent: '',
    cancelled: false,
    forwardedTo: 0,
    end() {
      throw new Error(`${method} answers by a promise`);
    },
  };
}
