/** `hansard subscriptions …`: durable subscriptions. */
import type {
  DeadLetter,
  DurableSubscription,
  PendingChannel,
  SubscriptionInfo,
  SubscriptionSettings,
} from '../../client/index.js';
import { HansardError } from '../../common/errors.js';
import type { ActionContext } from '../action.js';
import { exportLine } from '../export-line.js';
import { count, durationText, printable, writeAll } from '../output.js';
import { type ClientOptions, openSession, type Session } from '../session.js';
import { type StartOptions, startOf } from '../start-place.js';
import { subscriptionJson } from '../subscription-record.js';
import { formatTime } from '../times.js';
import { labelOf } from './channels.js';
import { eventText } from './read.js';

type Context<O = object> = ActionContext<ClientOptions & O>;

interface SelectorOptions {
  readonly prefix?: string;
  readonly label?: string;
}

interface SettingOptions {
  readonly description?: string;
  readonly ackDeadline?: number;
  readonly maxDeliveries?: number;
  readonly retryDelay?: number;
  readonly maxPending?: number;
  readonly pause?: boolean;
  readonly resumeDelivery?: boolean;
}

export function listSubscriptions({
  output,
  options,
}: Context<{ readonly prefix?: string }>): Promise<undefined> {
  return within(options, async ({ client, timeoutMs }) => {
    const found: SubscriptionInfo[] = [];
    for await (const each of client.subscriptions({ prefix: options.prefix ?? '', timeoutMs }))
      found.push(each);
    output.json({ subscriptions: found.map(subscriptionJson) });
    output.table(
      [
        { title: 'SUBSCRIPTION' },
        { title: 'STATE' },
        { title: 'CONSUMERS', align: 'right' },
        { title: 'PENDING', align: 'right' },
        { title: 'LAG', align: 'right' },
        { title: 'DEAD', align: 'right' },
        { title: 'LAST PROGRESS' },
      ],
      found.map(({ name, progress }) => [
        printable(name),
        progress.idle,
        progress.consumers,
        count(progress.pendingEvents),
        durationText(progress.oldestPendingMs / 1_000),
        count(progress.deadLetters),
        formatTime(progress.lastProgressTimeUs),
      ]),
    );
  });
}

export function showSubscription({ output, options, args }: Context): Promise<undefined> {
  return onOne(options, args, async (subscription) => show(output, await subscription.info()));
}

export function createSubscription({
  output,
  options,
  args,
}: Context<
  StartOptions & SettingOptions & SelectorOptions & { readonly ifMissing?: boolean }
>): Promise<undefined> {
  return onOne(options, args, async (subscription) => {
    const { ifMissing } = options;
    const made = await subscription.create({
      ...selectorOf(options, args),
      ...settingsOf(options),
      ...startOf(options),
      ...(ifMissing === true ? { ifMissing } : {}),
    });
    show(output, made);
  });
}

export function updateSubscription({
  output,
  options,
  args,
}: Context<SettingOptions & SelectorOptions>): Promise<undefined> {
  return onOne(options, args, async (subscription) => {
    const changes = { ...selectorOf(options, args), ...settingsOf(options) };
    show(output, await subscription.update(changes));
  });
}

export function seekSubscription({
  output,
  options,
  args,
}: Context<StartOptions & { readonly dropDeadLetters?: boolean }>): Promise<undefined> {
  return onOne(options, args, async (subscription) => {
    const dropDeadLetters = options.dropDeadLetters === true;
    show(output, await subscription.seek({ ...startOf(options), dropDeadLetters }));
  });
}

export function deleteSubscription({ output, options, args }: Context): Promise<undefined> {
  return onOne(options, args, async (subscription) => {
    await subscription.delete();
    output.json({ subscription: subscription.name, deleted: true });
    output.line(`${printable(subscription.name)} is deleted`);
  });
}

export function listPending({
  output,
  options,
  args,
}: Context<{ readonly limit: number }>): Promise<undefined> {
  return onOne(options, args, async (subscription) => {
    const found = await first(subscription.pending(), options.limit);
    output.json({ channels: found.items.map(pendingJson), more: found.more });
    output.table(
      [
        { title: 'CHANNEL' },
        { title: 'DONE', align: 'right' },
        { title: 'TAKEN', align: 'right' },
        { title: 'DELIVERIES', align: 'right' },
        { title: 'CONSUMER' },
        { title: 'SINCE' },
        { title: 'ERROR' },
      ],
      found.items.map((each) => [
        printable(each.channel),
        each.acknowledgedSeq,
        each.takenSeq,
        each.deliveries,
        printable(each.consumerId),
        formatTime(each.sinceUs),
        printable(each.error),
      ]),
    );
    if (found.more) output.note('there are more; go on with a larger --limit');
  });
}

export function listDeadLetters({
  output,
  options,
  args,
}: Context<{ readonly limit: number }>): Promise<undefined> {
  return onOne(options, args, async (subscription) => {
    const found = await first(subscription.deadLetters(), options.limit);
    output.json({ dead_letters: found.items.map(letterJson), more: found.more });
    output.table(
      [
        { title: 'CHANNEL' },
        { title: 'SEQ', align: 'right' },
        { title: 'DELIVERIES', align: 'right' },
        { title: 'SINCE' },
        { title: 'ERROR' },
      ],
      found.items.map((each) => [
        printable(each.channel),
        each.seq,
        each.deliveries,
        formatTime(each.timeUs),
        printable(each.error),
      ]),
    );
    if (found.more) output.note('there are more; go on with a larger --limit');
  });
}

export function replayDeadLetters({
  output,
  options,
  args,
}: Context<{ readonly drop?: boolean }>): Promise<undefined> {
  const [, ...named] = args;
  const letters = named.map(letterOf);
  return onOne(options, args, async (subscription) => {
    const moved = options.drop
      ? await subscription.dropDeadLetters(letters)
      : await subscription.replayDeadLetters(letters);
    output.json({ subscription: subscription.name, count: moved, dropped: options.drop === true });
    output.line(`${count(moved)} dead letters ${options.drop ? 'are dropped' : 'are delivered again'}`);
  });
}

export function consumeSubscription({
  output,
  options,
  args,
}: Context<{ readonly limit?: number; readonly untilCaughtUp?: boolean }>): Promise<undefined> {
  return onOne(options, args, async (subscription, { timeoutMs }) => {
    let left = options.limit ?? Number.POSITIVE_INFINITY;
    const stop = new AbortController();
    const onSignal = (): void => stop.abort();
    process.once('SIGINT', onSignal);
    process.once('SIGTERM', onSignal);
    const worker = subscription.consume({
      timeoutMs,
      // What is told out is acknowledged: no more is taken than is to be told.
      ...(options.limit === undefined ? {} : { creditEvents: options.limit, concurrency: 1 }),
      handler: async ({ channel, event }) => {
        if (left <= 0) return new Promise(() => undefined);
        left--;
        const line = output.isJson
          ? exportLine(channel, event, { full: false })
          : `${printable(channel)}  ${eventText(event, output)}`;
        await writeAll(output.stdout, line);
        if (left <= 0) setImmediate(onSignal);
      },
      onProgress: ({ idle }) => {
        if (options.untilCaughtUp && idle === 'caught-up') onSignal();
      },
      onInterrupted: ({ reason }) =>
        output.note(`interrupted (${reason}); going on as soon as a node answers`),
    });
    try {
      const stopped = new Promise((resolve) => stop.signal.addEventListener('abort', resolve));
      await Promise.race([stopped, worker.done]);
    } finally {
      process.off('SIGINT', onSignal);
      process.off('SIGTERM', onSignal);
      await worker.stop({ timeoutMs: 1_000 });
    }
  });
}

// ---- what they share

async function within(options: ClientOptions, work: (session: Session) => Promise<void>): Promise<undefined> {
  const session = openSession(options);
  try {
    await work(session);
  } finally {
    await session.close();
  }
}

function onOne(
  options: ClientOptions,
  [name = '']: readonly string[],
  work: (subscription: DurableSubscription, session: Session) => Promise<void>,
): Promise<undefined> {
  return within(options, (session) => work(session.client.subscription(name), session));
}

async function first<T>(all: AsyncIterable<T>, limit: number): Promise<{ items: T[]; more: boolean }> {
  const items: T[] = [];
  for await (const each of all) {
    if (items.length === limit) return { items, more: true };
    items.push(each);
  }
  return { items, more: false };
}

/** The subscription's name comes first of the arguments. */
function selectorOf({ prefix, label }: SelectorOptions, [, ...channels]: readonly string[]) {
  return {
    ...(channels.length === 0 ? {} : { channels }),
    ...(prefix === undefined ? {} : { prefix }),
    ...(label === undefined ? {} : { label: labelOf(label) }),
  };
}

function settingsOf(options: SettingOptions): SubscriptionSettings {
  const { description, ackDeadline, maxDeliveries, retryDelay, maxPending } = options;
  return {
    ...(description === undefined ? {} : { description }),
    ...(ackDeadline === undefined ? {} : { ackDeadlineMs: ackDeadline * 1_000 }),
    ...(maxDeliveries === undefined ? {} : { maxDeliveries }),
    ...(retryDelay === undefined ? {} : { retryDelayMs: retryDelay * 1_000 }),
    ...(maxPending === undefined ? {} : { maxPendingChannels: maxPending }),
    ...(options.pause ? { paused: true } : options.resumeDelivery ? { paused: false } : {}),
  };
}

/** `channel#seq`; the channel ends at the last `#`. */
function letterOf(text: string): Pick<DeadLetter, 'channel' | 'seq'> {
  const at = text.lastIndexOf('#');
  const seq = Number(text.slice(at + 1));
  if (at < 1 || !Number.isSafeInteger(seq) || seq < 1)
    throw new HansardError('INVALID_ARGUMENT', `not channel#seq: ${text}`, { field: 'letters' });
  return { channel: text.slice(0, at), seq };
}

function show(output: ActionContext<object>['output'], info: SubscriptionInfo): void {
  output.json(subscriptionJson(info));
  const { selector, settings, progress } = info;
  const which = [
    selector.channels === undefined ? '' : `${selector.channels.length} channels by name`,
    selector.prefix === undefined ? '' : `prefix ${printable(selector.prefix)}`,
    selector.label === undefined ? '' : `label ${printable(`${selector.label.key}=${selector.label.value}`)}`,
    selector.types === undefined ? '' : `types ${selector.types.join(' ')}`,
  ].filter((text) => text !== '');
  output.line(`${printable(info.name)}, kept in partition ${info.partition}`);
  output.line(`  follows       ${which.length === 0 ? 'all of the tenant' : which.join(', ')}`);
  output.line(
    `  ack deadline  ${settings.ackDeadlineMs / 1_000} s, retry after ${settings.retryDelayMs / 1_000} s`,
  );
  output.line(
    `  deliveries    ${settings.maxDeliveries === 0 ? 'without end' : `${settings.maxDeliveries}, then a dead letter`}`,
  );
  output.line(`  state         ${progress.idle}, ${progress.consumers} consumers`);
  output.line(
    `  pending       ${count(progress.pendingEvents)} events of ${count(progress.pendingChannels)} channels, the oldest for ${durationText(progress.oldestPendingMs / 1_000)}`,
  );
  output.line(`  dead letters  ${count(progress.deadLetters)}`);
  output.line(
    `  done          ${count(progress.acknowledged)} events, last ${formatTime(progress.lastProgressTimeUs)}`,
  );
}

function pendingJson(each: PendingChannel): object {
  return {
    channel: each.channel,
    acknowledged_seq: each.acknowledgedSeq,
    taken_seq: each.takenSeq,
    deliveries: each.deliveries,
    consumer_id: each.consumerId,
    delivered_seq: each.deliveredSeq,
    deadline: each.deadlineUs === 0 ? null : formatTime(each.deadlineUs),
    retry_time: each.retryTimeUs === 0 ? null : formatTime(each.retryTimeUs),
    replayed_seqs: each.replayedSeqs,
    since: formatTime(each.sinceUs),
    error: each.error,
  };
}

function letterJson({ channel, seq, deliveries, timeUs, error }: DeadLetter): object {
  return { channel, seq, deliveries, time: formatTime(timeUs), error };
}
