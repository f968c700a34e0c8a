/**
 * Reads events of channels again that a durable subscription has taken and does not have at hand. At the level that a
 * client's read has: what is not there then is gone.
 */
import { assert, HansardError } from '../common/errors.js';
import type { Seq } from '../common/ids.js';
import { limits } from '../common/limits.js';
import { bytesOf, type UnaryContext } from './calls.js';
import { listMessages } from './list-messages.js';
import type { Services } from './services.js';
import { type HeldEvents, readListed } from './subscription-events.js';

const method = 'hansard.v1.MessageService/ListMessages';
const readsAtOnce = 16;
/** Events of one read. */
const readEvents = 100;
/** Before a read that failed is tried again, ms. */
const retryMs = 250;

export class SubscriptionReads {
  readonly #services: Services;
  readonly #tenant: string;
  readonly #held: HeldEvents;
  readonly #wake: () => void;
  readonly #list: ReturnType<typeof listMessages>;
  readonly #encode: (value: object) => Buffer;
  /** Channels that are read, or are not to be for a while. */
  #busy = new Set<string>();
  #types: ReadonlySet<number> = new Set();
  #isEnded = false;

  constructor(services: Services, tenant: string, held: HeldEvents, wake: () => void) {
    this.#services = services;
    this.#tenant = tenant;
    this.#held = held;
    this.#wake = wake;
    this.#list = listMessages(services);
    this.#encode = services.codecs.encoder('hansard.v1.ListMessagesRequest');
  }

  /** What is under way counts for nothing. */
  reset(types: readonly number[]): void {
    this.#busy = new Set();
    this.#types = new Set(types);
  }

  end(): void {
    this.#isEnded = true;
  }

  /** Wakes when there is something, unless too much is read already: then ask again. */
  want(channel: string, from: Seq, to: Seq): void {
    const busy = this.#busy;
    if (busy.size >= readsAtOnce || busy.has(channel)) return;
    busy.add(channel);
    this.#read(channel, from, to).then(
      (range) => {
        busy.delete(channel);
        if (this.#isEnded || busy !== this.#busy) return;
        this.#held.put(channel, range);
        this.#wake();
      },
      () => {
        // A leader that is lost, away or busy comes back, or another one: progress says that something is read.
        setTimeout(() => {
          busy.delete(channel);
          this.#wake();
        }, retryMs);
      },
    );
  }

  async #read(channel: string, from: Seq, to: Seq) {
    const request = this.#encode({
      tenant: this.#tenant,
      channel,
      anchor_seq: from,
      after: Math.min(readEvents, to - from + 1),
    });
    const context: UnaryContext = {
      method,
      deadlineMs: this.#services.node.monotonicMs() + limits.defaultDeadlineMs,
      origin: 'grpc',
      traceparent: '',
      cancelled: false,
      forwardedTo: 0,
      // ListMessages gives its answer back.
      end() {},
    };
    let listed: ReturnType<typeof readListed>;
    try {
      const answer = await this.#list(context, request);
      assert(answer !== undefined, 'ListMessages gives its answer back');
      listed = readListed(bytesOf(answer));
    } catch (error) {
      if (!(error instanceof HansardError) || error.reason !== 'CHANNEL_NOT_FOUND') throw error;
      return { uid: '', from, through: to, events: [] };
    }
    const found = listed.events.filter(({ seq }) => seq >= from && seq <= to);
    const last = found.at(-1)?.seq ?? 0;
    // A page that ends early has more behind it; else what is not there is gone.
    const through = found.length > 0 && last < to && listed.more ? last : to;
    const events = found.filter(({ type }) => this.#types.size === 0 || this.#types.has(type));
    return { uid: listed.uid, from, through, events };
  }
}
