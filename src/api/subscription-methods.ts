/** hansard.v1.SubscriptionService: its unary calls. */
import {
  encodeCreateSubscription,
  encodeDeadLetters,
  encodeDeleteSubscription,
  encodeSeekSubscription,
  encodeUpdateSubscription,
} from '../conversation/subscription-command.js';
import { isOwnLease, type SubscriptionState } from '../conversation/subscription-state.js';
import type { Handler } from './calls.js';
import { takeIdText } from './messages.js';
import { toNumber } from './requests.js';
import type { Services } from './services.js';
import { SubscriptionHome } from './subscription-home.js';
import {
  type AckMessage,
  type ExtensionMessage,
  type NackMessage,
  notesOf,
  type SubscriptionLeaders,
} from './subscription-leaders.js';
import { SubscriptionLists } from './subscription-lists.js';
import {
  expectedOf,
  type SelectorMessage,
  type SettingsMessage,
  selectorOf,
  settingsOf,
  takeSubscription,
} from './subscription-message.js';
import type { Note } from './subscription-plan.js';
import { reselectionOf, type StartMessage, subscriptionStart } from './subscription-starts.js';
import { onceOnly, proposeFor } from './writes.js';

const service = 'hansard.v1.SubscriptionService';

export function subscriptionMethods(services: Services, leaders: SubscriptionLeaders): Map<string, Handler> {
  const home = new SubscriptionHome(services, leaders);
  const methods = new SubscriptionMethods(services, leaders, home);
  const lists = new SubscriptionLists(services, home);
  return new Map<string, Handler>([
    [`${service}/CreateSubscription`, methods.create()],
    [`${service}/GetSubscription`, methods.get()],
    [`${service}/ListSubscriptions`, lists.list()],
    [`${service}/UpdateSubscription`, methods.update()],
    [`${service}/DeleteSubscription`, methods.delete()],
    [`${service}/SeekSubscription`, methods.seek()],
    [`${service}/Acknowledge`, methods.settle('AcknowledgeRequest')],
    [`${service}/NegativeAcknowledge`, methods.settle('NegativeAcknowledgeRequest')],
    [`${service}/ExtendDeadline`, methods.settle('ExtendDeadlineRequest')],
    [`${service}/ListPending`, lists.listPending()],
    [`${service}/ListDeadLetters`, lists.listDeadLetters()],
    [`${service}/ReplayDeadLetters`, methods.replay()],
  ]);
}

class SubscriptionMethods {
  readonly #services: Services;
  readonly #leaders: SubscriptionLeaders;
  readonly #home: SubscriptionHome;

  constructor(services: Services, leaders: SubscriptionLeaders, home: SubscriptionHome) {
    this.#services = services;
    this.#leaders = leaders;
    this.#home = home;
  }

  create(): Handler {
    const { codecs } = this.#services;
    const decode = codecs.decoder<{
      selector: SelectorMessage | null;
      settings: SettingsMessage | null;
      start: StartMessage | null;
      request_id: string;
    }>('hansard.v1.CreateSubscriptionRequest');
    return (context, request) => {
      const on = takeSubscription(request);
      const message = decode(request);
      const selector = selectorOf(message.selector);
      const settings = settingsOf(message.settings);
      const requestId = takeIdText(message.request_id, 'request_id');
      return this.#home.atHome(context, on, request, async (partition) => {
        const start = await subscriptionStart(this.#services, context, on.tenant, selector, message.start);
        const command = encodeCreateSubscription({ ...on, requestId, selector, settings, ...start });
        return this.#home.change(
          context,
          on,
          partition,
          onceOnly(requestId, context.method, request, command),
        );
      });
    };
  }

  get(): Handler {
    const decode = this.#services.codecs.decoder<object>('hansard.v1.GetSubscriptionRequest');
    return (context, request) => {
      const on = takeSubscription(request);
      decode(request);
      return this.#home.read(context, on, request, (state, partition) => this.#home.shown(state, partition));
    };
  }

  update(): Handler {
    const decode = this.#services.codecs.decoder<{
      settings: SettingsMessage | null;
      etag: string;
      selector: SelectorMessage | null;
      request_id: string;
    }>('hansard.v1.UpdateSubscriptionRequest');
    return (context, request) => {
      const on = takeSubscription(request);
      const message = decode(request);
      const settings = settingsOf(message.settings);
      const selector = message.selector === null ? undefined : selectorOf(message.selector);
      const expected = expectedOf(message.etag);
      const requestId = takeIdText(message.request_id, 'request_id');
      const once = (command: Uint8Array) => onceOnly(requestId, context.method, request, command);
      return this.#home.atHome(context, on, request, async (partition) => {
        if (selector === undefined) {
          const command = encodeUpdateSubscription({ ...on, settings, expected });
          return this.#home.change(context, on, partition, once(command));
        }
        return this.#home.changeSeen(context, on, partition, expected, async (state, seen) => {
          const reselect = await reselectionOf(this.#services, context, state, selector);
          return once(encodeUpdateSubscription({ ...on, settings, expected: seen, reselect }));
        });
      });
    };
  }

  delete(): Handler {
    const { node, codecs } = this.#services;
    const decode = codecs.decoder<{ etag: string; request_id: string }>(
      'hansard.v1.DeleteSubscriptionRequest',
    );
    const encode = codecs.encoder('hansard.v1.DeleteSubscriptionResponse');
    return (context, request) => {
      const on = takeSubscription(request);
      const { etag, request_id } = decode(request);
      const requestId = takeIdText(request_id, 'request_id');
      const deletion = encodeDeleteSubscription({ ...on, expected: expectedOf(etag) });
      const command = onceOnly(requestId, context.method, request, deletion);
      return this.#home.atHome(context, on, request, async (partition) => {
        await proposeFor(node, partition, command, context.deadlineMs, 'done');
        this.#leaders.get(on)?.wake();
        return encode({});
      });
    };
  }

  seek(): Handler {
    const decode = this.#services.codecs.decoder<{
      start: StartMessage | null;
      etag: string;
      drop_dead_letters: boolean;
      request_id: string;
    }>('hansard.v1.SeekSubscriptionRequest');
    return (context, request) => {
      const on = takeSubscription(request);
      const { start, etag, drop_dead_letters, request_id } = decode(request);
      const requestId = takeIdText(request_id, 'request_id');
      const expected = expectedOf(etag);
      return this.#home.atHome(context, on, request, async (partition) => {
        // Of another selector these places would be too few, and nothing adds those that are missing.
        return this.#home.changeSeen(context, on, partition, expected, async (state, seen) => {
          const places = await subscriptionStart(this.#services, context, on.tenant, state.selector, start);
          const dropDeadLetters = drop_dead_letters;
          const command = encodeSeekSubscription({ ...on, expected: seen, dropDeadLetters, ...places });
          return onceOnly(requestId, context.method, request, command);
        });
      });
    };
  }

  settle(type: string): Handler {
    const { codecs } = this.#services;
    const decode = codecs.decoder<{
      acks?: AckMessage[];
      nacks?: NackMessage[];
      extensions?: ExtensionMessage[];
    }>(`hansard.v1.${type}`);
    const encode = codecs.encoder('hansard.v1.SettledResponse');
    return (context, request) => {
      const on = takeSubscription(request);
      const message = decode(request);
      return this.#home.atHome(context, on, request, async (partition) => {
        await this.#home.stateAt(context, on, partition);
        const leader = this.#leaders.at(on);
        const notes = notesOf(message, leader);
        const kept = await Promise.all(notes.map((note) => leader.settle(note)));
        const open = notes.filter((_, i) => !kept[i]);
        if (open.length === 0) return encode({ lost: [] });
        const state = await this.#home.stateAt(context, on, partition);
        return encode({ lost: open.filter((note) => !isOver(state, note)).map(({ lease }) => lease) });
      });
    };
  }

  replay(): Handler {
    const { node, codecs } = this.#services;
    const decode = codecs.decoder<{
      dead_letters: { channel: string; seq: string }[];
      drop: boolean;
      request_id: string;
    }>('hansard.v1.ReplayDeadLettersRequest');
    const encode = codecs.encoder('hansard.v1.ReplayDeadLettersResponse');
    return (context, request) => {
      const on = takeSubscription(request);
      const { dead_letters, drop, request_id } = decode(request);
      const requestId = takeIdText(request_id, 'request_id');
      const letters = dead_letters.map(({ channel, seq }) => ({ channel, seq: toNumber(seq) }));
      const move = encodeDeadLetters({ ...on, replay: !drop, letters });
      const command = onceOnly(requestId, context.method, request, move);
      return this.#home.atHome(context, on, request, async (partition) => {
        const { answer } = await proposeFor(node, partition, command, context.deadlineMs, 'deadLettersMoved');
        this.#leaders.get(on)?.wake();
        return encode({ count: answer.count });
      });
    };
  }
}

/** Somebody said the same before, perhaps this call's first attempt: what it is about is done, or given back. A seek undoes both. */
function isOver(state: Readonly<SubscriptionState>, note: Note): boolean {
  if (!isOwnLease(state, note.lease)) return false;
  const pending = state.channels.get(note.channel);
  if (note.kind === 'nack') return pending !== undefined && pending.lease === undefined;
  if (note.kind === 'extend') return false;
  if (pending === undefined) return true;
  return pending.acked >= note.seq && pending.replays.every(({ seq }) => seq !== note.seq);
}
