/** `hansard subscribe`: events of many channels as they come, until Ctrl-C. */
import type { SubscribedEvents, SubscribeOptions } from '../../client/index.js';
import type { ActionContext } from '../action.js';
import { exportLine } from '../export-line.js';
import { printable, writeAll } from '../output.js';
import { type ClientOptions, openSession } from '../session.js';
import { type StartOptions, startOf } from '../start-place.js';
import { labelOf } from './channels.js';
import { eventText } from './read.js';

interface SubscribeCommandOptions extends ClientOptions, StartOptions {
  readonly prefix?: string;
  readonly label?: string;
  readonly limit?: number;
  readonly untilCaughtUp?: boolean;
}

export async function subscribe({
  output,
  options,
  args,
}: ActionContext<SubscribeCommandOptions>): Promise<undefined> {
  const session = openSession(options);
  const stop = new AbortController();
  const onSignal = (): void => stop.abort();
  process.once('SIGINT', onSignal);
  process.once('SIGTERM', onSignal);
  let token = '';
  try {
    const updates = session.client
      .subscribe({ ...followed(options, args), signal: stop.signal, timeoutMs: session.timeoutMs })
      .updates();
    let left = options.limit ?? Number.POSITIVE_INFINITY;
    let wasTold = false;
    for await (const update of updates) {
      if (update.kind === 'interrupted') {
        output.note(`interrupted (${update.error.reason}); going on as soon as a node answers`);
        continue;
      }
      if (update.kind === 'caught-up') {
        token = update.resumeToken;
        if (options.untilCaughtUp) break;
        if (!wasTold) output.note('everything is here; waiting for more (Ctrl-C ends)');
        wasTold = true;
        continue;
      }
      const { lines, count } = linesOf(update.channels, left, output);
      await writeAll(output.stdout, lines);
      left -= count;
      const all = update.channels.reduce((sum, { events }) => sum + events.length, 0);
      if (count === all) token = update.resumeToken;
      if (left <= 0) break;
    }
    // Behind the last whole update: after a cut by --limit some of it comes again.
    if (token !== '') output.note(`go on with --resume ${token}`);
  } finally {
    process.off('SIGINT', onSignal);
    process.off('SIGTERM', onSignal);
    await session.close();
  }
}

function followed(options: SubscribeCommandOptions, names: readonly string[]): SubscribeOptions {
  const { prefix, label } = options;
  return {
    ...(names.length === 0 ? {} : { channels: names }),
    ...(prefix === undefined ? {} : { prefix }),
    ...(label === undefined ? {} : { label: labelOf(label) }),
    ...startOf(options),
  };
}

function linesOf(
  channels: readonly SubscribedEvents[],
  limit: number,
  output: ActionContext<object>['output'],
): { lines: string; count: number } {
  let lines = '';
  let count = 0;
  for (const { channel, events } of channels) {
    for (const event of events) {
      if (count >= limit) return { lines, count };
      lines += output.isJson
        ? exportLine(channel, event, { full: false })
        : `${printable(channel)}  ${eventText(event, output)}`;
      count++;
    }
  }
  return { lines, count };
}
