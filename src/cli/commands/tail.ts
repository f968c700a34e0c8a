/** `hansard tail`: a channel's events as they come, until Ctrl-C. */
import type { ActionContext } from '../action.js';
import { exportLine } from '../export-line.js';
import { printable, writeAll } from '../output.js';
import { type ClientOptions, openSession } from '../session.js';
import { eventText } from './read.js';

interface TailCommandOptions extends ClientOptions {
  readonly fromStart?: boolean;
  readonly after?: number;
  readonly limit?: number;
  readonly mustExist?: boolean;
}

export async function tail({ output, options, args }: ActionContext<TailCommandOptions>): Promise<undefined> {
  const channel = args[0] ?? '';
  const session = openSession(options);
  const stop = new AbortController();
  const onSignal = (): void => stop.abort();
  process.once('SIGINT', onSignal);
  process.once('SIGTERM', onSignal);
  try {
    const afterSeq = options.fromStart ? 0 : options.after;
    const updates = session.client
      .channel(channel)
      .tail({
        ...(afterSeq === undefined ? {} : { afterSeq }),
        mustExist: options.mustExist === true,
        signal: stop.signal,
        timeoutMs: session.timeoutMs,
      })
      .updates();
    let left = options.limit ?? Number.POSITIVE_INFINITY;
    let wasTold = false;
    for await (const update of updates) {
      if (update.kind === 'interrupted') {
        output.note(`interrupted (${update.error.reason}); going on as soon as a node answers`);
      } else if (update.kind === 'caught-up') {
        if (!wasTold) output.note(waiting(channel, update.headSeq, update.channelUid !== ''));
        wasTold = true;
      } else {
        const events = update.events.slice(0, left);
        const lines = events.map((event) =>
          output.isJson ? exportLine(channel, event, { full: false }) : eventText(event, output),
        );
        await writeAll(output.stdout, lines.join(''));
        left -= events.length;
        if (left <= 0) break;
      }
    }
  } finally {
    process.off('SIGINT', onSignal);
    process.off('SIGTERM', onSignal);
    await session.close();
  }
}

function waiting(channel: string, headSeq: number, exists: boolean): string {
  const name = printable(channel);
  if (!exists) return `${name} does not exist yet; waiting for it (Ctrl-C ends)`;
  return `waiting for events of ${name} after #${headSeq} (Ctrl-C ends)`;
}
