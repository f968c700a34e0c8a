/**
 * What clients did to channels and were told, at every read level, as a list of events that can be saved and judged
 * again: `*.history.jsonl`, one event a line (README.md describes them). The judgement takes nothing but the events:
 *
 * - appends and linearizable reads: one order explains every answer (checker.ts);
 * - session: a client finds what it wrote, and never less than it saw before;
 * - bounded: whatever anybody was acknowledged before the bound is there;
 * - every read of every level: what it shows is what stands there in the end, and the asked kind of replica answered;
 * - in the end: dense, in each client's order, each acknowledged append once and at its seq, nothing that was refused.
 */
import type { CheckOptions } from './checker.js';
import { HistoryError } from './histories.js';
import { ChannelRecorder, type Recording } from './recorder.js';

export const levels = ['linearizable', 'session', 'bounded', 'eventual'] as const;
export type Level = (typeof levels)[number];

interface AppendCall {
  readonly type: 'append';
  /** Who calls: one call at a time. */
  readonly process: string;
  readonly ms: number;
  readonly channel: string;
  /** Unique in the history; ascending by its number behind the last slash for each process and channel. */
  readonly id: string;
  readonly expectedHead?: number | undefined;
}
interface ReadCall {
  readonly type: 'read';
  readonly process: string;
  readonly ms: number;
  readonly channel: string;
  readonly level: Level;
  /** Of bounded reads. */
  readonly boundMs?: number | undefined;
  /** As asked for: primary, secondary …; absent: whoever can. */
  readonly preference?: string | undefined;
}
interface End {
  readonly process: string;
  readonly ms: number;
}
export type Event =
  | AppendCall
  | ReadCall
  | (End & { readonly type: 'appended'; readonly seq: number })
  /** The append's condition did not hold. */
  | (End & { readonly type: 'refused'; readonly actualHead: number })
  | (End & {
      readonly type: 'page';
      readonly head: number;
      /** Ids of the newest messages up to the head, oldest first. */
      readonly newest: readonly string[];
      readonly node: number;
      readonly role: string;
    })
  /** It had no effect and told nothing; `unknown`: an append may have had its effect, or have it yet. */
  | (End & { readonly type: 'failed' | 'unknown'; readonly reason: string })
  /** All ids that a channel holds once nothing is under way any more, from seq 1. */
  | { readonly type: 'content'; readonly channel: string; readonly ids: readonly string[] };
type Call = AppendCall | ReadCall;
type Ended = Exclude<Event, Call | { type: 'content' }>;
type EndOf<T> = T extends Ended ? Omit<T, 'process' | 'ms'> : never;

/** Notes events down as they come. */
export class ChannelHistory {
  readonly events: Event[] = [];
  constructor(private readonly nowMs: () => number) {}

  /** Gives the function that ends the call. */
  begin(call: Omit<AppendCall, 'ms'> | Omit<ReadCall, 'ms'>): (end: EndOf<Ended>) => void {
    this.events.push({ ...call, ms: this.nowMs() });
    return (end) => this.events.push({ ...end, process: call.process, ms: this.nowMs() } as Event);
  }

  content(channel: string, ids: readonly string[]): void {
    this.events.push({ type: 'content', channel, ids });
  }

  get lines(): string {
    return this.events.map((event) => `${JSON.stringify(event)}\n`).join('');
  }
}

export function readChannelHistory(text: string): Event[] {
  return text
    .split('\n')
    .filter((line) => line !== '')
    .map((line, i) => {
      try {
        const event = JSON.parse(line) as Event;
        if (typeof event.type === 'string') return event;
      } catch {
        // Told below.
      }
      throw new HistoryError(i + 1, `no event: ${line.slice(0, 80)}`);
    });
}

export interface Judgement {
  /** Empty: every promise was kept. */
  readonly problems: readonly string[];
  /** The checker gave up: nothing is said of one order. */
  readonly unknown: boolean;
  readonly appended: number;
  /** Answered, by level. */
  readonly reads: Readonly<Record<Level, number>>;
}

const problemsMax = 10;

export function judgeChannelHistory(events: readonly Event[], options: CheckOptions = {}): Judgement {
  const judge = new Judge(events);
  judge.run();
  const verdict = judge.recorder.check(options);
  if (verdict.verdict === 'not-linearizable')
    judge.problems.push(
      `${verdict.key}: no order explains the answers; after ${verdict.longest.slice(-5).join(', ')} comes none of ${verdict.stuckAt.join(', ')}`,
    );
  return {
    problems: judge.problems.slice(0, problemsMax),
    unknown: verdict.verdict === 'unknown',
    appended: judge.appended,
    reads: judge.reads,
  };
}

interface Open {
  readonly call: Call;
  /** Of appends and linearizable reads. */
  readonly recording: Recording | undefined;
  /** What a weaker read must show at least. */
  readonly least: number;
}

class Judge {
  readonly problems: string[] = [];
  readonly recorder = new ChannelRecorder();
  readonly reads: Record<Level, number> = { linearizable: 0, session: 0, bounded: 0, eventual: 0 };
  appended = 0;
  readonly #open = new Map<string, Open>();
  /** By process and channel: what its session must not see less of. */
  readonly #seen = new Map<string, number>();
  /** By channel: heads that were acknowledged, and when; ascending in both. */
  readonly #heads = new Map<string, { readonly seq: number; readonly ms: number }[]>();
  readonly #refused = new Set<string>();
  readonly #acknowledged = new Map<string, number>();
  readonly #shown: { readonly call: ReadCall; readonly head: number; readonly newest: readonly string[] }[] =
    [];
  readonly #contents = new Map<string, readonly string[]>();

  constructor(readonly events: readonly Event[]) {}

  run(): void {
    for (const [i, event] of this.events.entries()) {
      if (event.type === 'content') this.#contents.set(event.channel, event.ids);
      else if (event.type === 'append' || event.type === 'read') this.#begin(event, i);
      else this.#end(event, i);
    }
    for (const event of this.events)
      if ('channel' in event && !this.#contents.has(event.channel))
        throw new HistoryError(this.events.length, `what ${event.channel} holds in the end is not told`);
    for (const [channel, ids] of this.#contents) this.#judgeContent(channel, ids);
  }

  #begin(call: Call, i: number): void {
    if (this.#open.has(call.process)) throw new HistoryError(i + 1, `${call.process} calls within a call`);
    const { channel, process } = call;
    const isWeak = call.type === 'read' && call.level !== 'linearizable';
    const input =
      call.type === 'append'
        ? ({ kind: 'append', channel, id: call.id, expectedHead: call.expectedHead } as const)
        : ({ kind: 'read', channel } as const);
    const recording = isWeak ? undefined : this.recorder.begin(process, input);
    this.#open.set(process, { call, recording, least: call.type === 'read' ? this.#leastOf(call) : 0 });
  }

  #leastOf({ level, process, channel, ms, boundMs = 0 }: ReadCall): number {
    if (level === 'session') return this.#seen.get(sessionKey(process, channel)) ?? 0;
    if (level !== 'bounded') return 0;
    return this.#heads.get(channel)?.findLast((head) => head.ms <= ms - boundMs)?.seq ?? 0;
  }

  #end(event: Ended, i: number): void {
    const open = this.#open.get(event.process);
    if (open === undefined) throw new HistoryError(i + 1, `${event.process} ends what it did not begin`);
    this.#open.delete(event.process);
    const { call, recording } = open;
    if (event.type === 'appended' && call.type === 'append') {
      recording?.returned({ kind: 'appended', seq: event.seq });
      this.#acknowledge(call, event.seq, event.ms);
    } else if (event.type === 'page' && call.type === 'read') {
      recording?.returned({ kind: 'page', head: event.head, newest: event.newest });
      this.#judgePage(call, open.least, event);
    } else if (event.type === 'unknown') {
      // A read that nobody got an answer to says nothing; an append stays open.
      if (call.type === 'read') recording?.hadNoEffect();
    } else if (event.type === 'failed' || event.type === 'refused') {
      if (call.type === 'append') this.#refused.add(call.id);
      if (event.type === 'refused') recording?.returned({ kind: 'refused', actualHead: event.actualHead });
      else recording?.hadNoEffect();
    } else throw new HistoryError(i + 1, `${call.type} can't end with ${event.type}`);
  }

  #acknowledge({ id, channel, process }: AppendCall, seq: number, ms: number): void {
    this.appended++;
    this.#acknowledged.set(id, seq);
    this.#saw(process, channel, seq);
    let heads = this.#heads.get(channel);
    if (heads === undefined) {
      heads = [];
      this.#heads.set(channel, heads);
    }
    if (seq > (heads.at(-1)?.seq ?? 0)) heads.push({ seq, ms });
  }

  #judgePage(call: ReadCall, least: number, page: Extract<Ended, { type: 'page' }>): void {
    const { level, process, channel, preference } = call;
    this.reads[level]++;
    this.#shown.push({ call, head: page.head, newest: page.newest });
    if (page.head < least)
      this.problems.push(
        `${nameOf(call)}: node ${page.node} shows head ${page.head}, at least ${least} was to be there`,
      );
    // What an eventual or bounded read showed is in no token of the session.
    if (level === 'session' || level === 'linearizable') this.#saw(process, channel, page.head);
    const isRightRole =
      preference === 'primary'
        ? page.role === 'primary'
        : preference !== 'secondary' || page.role !== 'primary';
    if (page.head > 0 && (!isRightRole || page.node === 0))
      this.problems.push(`${nameOf(call)}: node ${page.node} answered as ${page.role}`);
  }

  #saw(process: string, channel: string, head: number): void {
    const key = sessionKey(process, channel);
    if (head > (this.#seen.get(key) ?? 0)) this.#seen.set(key, head);
  }

  #judgeContent(channel: string, ids: readonly string[]): void {
    this.recorder.learnOutcomes(channel, ids);
    const seqs = new Map<string, number>();
    const serials = new Map<string, number>();
    for (const [i, id] of ids.entries()) {
      if (seqs.has(id)) this.problems.push(`${id} is there twice: ${seqs.get(id)} and ${i + 1}`);
      seqs.set(id, i + 1);
      if (this.#refused.has(id)) this.problems.push(`${id} was refused and is there`);
      const [process, serial] = [id.slice(0, id.indexOf('/')), Number(id.slice(id.lastIndexOf('/') + 1))];
      if (serial <= (serials.get(process) ?? 0))
        this.problems.push(`${id} came after ${process}'s ${serials.get(process)}`);
      serials.set(process, serial);
    }
    for (const event of this.events) {
      if (event.type !== 'append' || event.channel !== channel) continue;
      const seq = this.#acknowledged.get(event.id);
      if (seq !== undefined && seqs.get(event.id) !== seq)
        this.problems.push(`${event.id}: acknowledged as ${seq}, is at ${seqs.get(event.id)}`);
    }
    for (const { call, head, newest } of this.#shown) {
      if (call.channel !== channel) continue;
      const there = ids.slice(Math.max(0, head - newest.length), head);
      if (there.join() !== newest.join())
        this.problems.push(`${nameOf(call)}: showed ${newest}, there is ${there}`);
    }
  }
}

function sessionKey(process: string, channel: string): string {
  return `${process}\0${channel}`;
}

function nameOf({ process, level, channel, preference, boundMs, ms }: ReadCall): string {
  const bound = boundMs === undefined ? '' : ` within ${boundMs} ms`;
  const by = preference === undefined ? '' : ` by ${preference}`;
  return `${process}, at ${Math.round(ms)} ms: ${level} read of ${channel}${bound}${by}`;
}
