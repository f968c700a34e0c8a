/** `hansard read`: a page of a channel, one event, or all of it. */
import type { Event, Part, ReadLevel, ReadOptions, ReadPreference, ServedBy } from '../../client/types.js';
import { HansardError } from '../../common/errors.js';
import type { ActionContext } from '../action.js';
import { eventObject } from '../export-line.js';
import { type Output, printable, writeAll } from '../output.js';
import { type ClientOptions, openSession, pageFrom, type Session } from '../session.js';
import { formatTime } from '../times.js';

interface ReadCommandOptions extends ClientOptions {
  readonly limit: number;
  readonly from?: number;
  readonly before?: number;
  readonly seq?: number;
  readonly messageId?: string;
  readonly all?: boolean;
  readonly level: ReadLevel;
  readonly preference?: ReadPreference;
  /** Seconds. */
  readonly maxStaleness?: number;
  /** base64 */
  readonly token: readonly string[];
  readonly served?: boolean;
}

export async function read({ output, options, args }: ActionContext<ReadCommandOptions>): Promise<undefined> {
  const channel = args[0] ?? '';
  const session = await openSession(options);
  try {
    const events: Event[] = [];
    let headSeq = 0;
    let served: ServedBy | undefined;
    const asked = readOptions(options, (by) => {
      served = by;
    });
    for await (const page of pages(session, channel, options, asked)) {
      headSeq = page.headSeq;
      if (output.isJson) events.push(...page.events);
      else await writeAll(output.stdout, page.events.map((event) => eventText(event, output)).join(''));
    }
    output.json({
      channel,
      head_seq: headSeq,
      events: events.map((event) => eventObject(channel, event)),
      ...(served === undefined ? {} : { served_by: servedObject(served) }),
    });
    if (options.served && served !== undefined) output.line(servedText(served));
  } finally {
    await session.close();
  }
}

/** Throws INVALID_ARGUMENT. */
function readOptions(options: ReadCommandOptions, onServed: (by: ServedBy) => void): ReadOptions {
  const { level, preference, maxStaleness, token } = options;
  if (level === 'bounded' && maxStaleness === undefined)
    throw new HansardError('INVALID_ARGUMENT', '--level bounded needs --max-staleness', {
      field: '--max-staleness',
    });
  return {
    level,
    onServed,
    ...(preference === undefined ? {} : { preference }),
    ...(maxStaleness === undefined ? {} : { maxStalenessMs: maxStaleness * 1_000 }),
    ...(token.length === 0 ? {} : { commitTokens: token.map((each) => Buffer.from(each, 'base64')) }),
  };
}

function servedObject({ nodeId, role, partition, appliedIndex, stalenessMs, commitToken }: ServedBy): object {
  return {
    node_id: nodeId,
    role,
    partition,
    applied_index: appliedIndex,
    ...(stalenessMs === undefined ? {} : { staleness_ms: stalenessMs }),
    commit_token: Buffer.from(commitToken).toString('base64'),
  };
}

function servedText({ nodeId, role, partition, appliedIndex, stalenessMs }: ServedBy): string {
  const behind = stalenessMs === undefined ? 'staleness not known' : `at most ${stalenessMs} ms behind`;
  return `answered by node ${nodeId} (${role} of partition ${partition}) at index ${appliedIndex}, ${behind}`;
}

interface Page {
  readonly events: readonly Event[];
  readonly headSeq: number;
}

async function* pages(
  session: Session,
  channel: string,
  options: ReadCommandOptions,
  asked: ReadOptions,
): AsyncGenerator<Page> {
  const handle = session.client.channel(channel);
  const single =
    options.seq !== undefined
      ? options.seq
      : options.messageId !== undefined
        ? { messageId: options.messageId }
        : undefined;
  if (single !== undefined) {
    const event = await handle.get(single, asked);
    yield { events: [event], headSeq: event.seq };
    return;
  }
  if (options.from === undefined && !options.all) {
    yield* lastPages(session, channel, options, asked);
    return;
  }
  let left = options.all ? Number.POSITIVE_INFINITY : options.limit;
  let next = options.from ?? 1;
  for (;;) {
    const page = await pageFrom(session, channel, next, Math.min(left, 1_000), asked);
    yield page;
    left -= page.events.length;
    next += page.events.length;
    if (page.events.length === 0 || left <= 0 || next > page.headSeq) return;
  }
}

/** The last `limit` before the end (or --before): read backwards, shown forwards. */
async function* lastPages(
  session: Session,
  channel: string,
  options: ReadCommandOptions,
  asked: ReadOptions,
): AsyncGenerator<Page> {
  const end = options.before;
  const head = end === undefined ? (await session.client.channel(channel).info(asked)).headSeq : end - 1;
  let next = Math.max(1, head - options.limit + 1);
  if (head < 1) yield { events: [], headSeq: 0 };
  while (next <= head) {
    const page = await pageFrom(session, channel, next, Math.min(head - next + 1, 1_000), asked);
    // A name that was deleted before begins later than the place that was asked for.
    const events = page.events.filter((event) => event.seq <= head);
    yield { ...page, events };
    if (events.length === 0) return;
    next = (events.at(-1)?.seq ?? head) + 1;
  }
}

/** As people read it: a line of who and when, then the text, indented. */
export function eventText(event: Event, output: Output): string {
  const c = output.colors;
  const message = event.message;
  const when = formatTime(message?.clientTimeUs ?? event.commitTimeUs);
  const role = message?.role ?? (typeof event.type === 'string' ? event.type : `type ${event.type}`);
  const who = message?.author ? `${printable(message.author)} ${c.dim(`(${role})`)}` : String(role);
  const type = event.type === 'message-completed' || message === undefined ? '' : c.dim(` [${event.type}]`);
  const head = `${c.dim(`#${event.seq}`)}  ${c.dim(when)}  ${c.cyan(who)}${type}`;
  const body =
    message === undefined ? c.dim(`${event.contentBytes.length} bytes`) : bodyText(message.parts ?? []);
  const lines = body.split('\n').map((line) => `    ${line}`);
  return `${head}\n${lines.join('\n')}\n`;
}

function bodyText(parts: readonly Part[]): string {
  return parts.map((part) => printable(partText(part))).join('\n');
}

function partText(part: Part): string {
  switch (part.type) {
    case 'text':
      return part.text;
    case 'reasoning':
      return `[reasoning] ${part.text ?? ''}`;
    case 'tool-call':
      return `[tool call ${part.name}] ${part.arguments}`;
    case 'tool-result':
      return `[tool result] ${part.outputText ?? part.outputJson ?? part.errorText ?? ''}`;
    case 'file':
      return `[file] ${part.filename ?? part.url ?? part.fileId ?? ''}`;
    case 'source':
      return `[source] ${part.title ?? part.url ?? part.sourceId ?? ''}`;
    case 'data':
      return `[data ${part.name}] ${part.json ?? ''}`;
    case 'custom':
      return `[${part.kind}] ${part.json ?? ''}`;
    case 'unknown':
      return `[a part that this version does not know, ${part.bytes.length} bytes]`;
  }
}
