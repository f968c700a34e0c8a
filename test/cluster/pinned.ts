/**
 * Readers that ask one node alone, whatever it believes, as plain gRPC calls without the SDK's retries and its map: so
 * it is that very node which answers, hands the read over or says that it can't. What they were told goes into the history.
 */
import { HansardError } from '../../src/common/errors.js';
import type { Decoded, Failure } from '../api/harness.js';
import type { Level } from '../linearizability/channel-history.js';
import { Direct } from './direct.js';
import { sleep, type TestNode } from './harness.js';
import { type Notes, newestCount } from './judged.js';

const levelNumbers: Readonly<Record<Level, number>> = {
  linearizable: 1,
  session: 2,
  bounded: 3,
  eventual: 4,
};
const roles = ['unspecified', 'primary', 'secondary', 'learner'] as const;
/** Longer than a node waits for a leader, so that it is the node that says so. */
export const askMs = 5_000;
/** An answer of grpc-js itself: the node stands still. */
export const noAnswer = 'no answer';

export type Answer =
  | { readonly head: number; readonly node: number; readonly role: string; readonly ms: number }
  | { readonly reason: string; readonly ms: number };

/** What a session has seen: the token of the newest state. */
export class PinnedSession {
  #index = 0;
  token: Buffer | undefined;

  saw({ applied_index, commit_token }: Decoded): void {
    if (Number(applied_index) < this.#index) return;
    this.#index = Number(applied_index);
    this.token = commit_token;
  }
}

export interface Ask {
  readonly level: Level;
  readonly boundMs?: number;
  readonly timeoutMs?: number;
}

/** Asks nodes for a channel's end, noted down as reads of `process`. */
export class PinnedReader {
  readonly session = new PinnedSession();
  readonly #directs = new Map<TestNode, Direct>();

  constructor(
    readonly process: string,
    readonly channel: string,
    readonly notes: Notes,
  ) {}

  close(): void {
    for (const direct of this.#directs.values()) direct.close();
  }

  async ask(node: TestNode, { level, boundMs, timeoutMs = askMs }: Ask): Promise<Answer> {
    const { channel, process, session } = this;
    const end = this.notes.history.begin({ type: 'read', process, channel, level, boundMs });
    const begunMs = performance.now();
    try {
      const request = { channel, before: newestCount, read: optionsOf(level, boundMs, session) };
      const page = await this.#direct(node).call('MessageService/ListMessages', request, timeoutMs);
      const { node_id, role: roleNumber } = page.served_by;
      const [head, role] = [Number(page.head_seq), roles[roleNumber] ?? 'unknown'];
      end({ type: 'page', head, newest: page.events.map(idOf), node: node_id, role });
      if (level === 'session' || level === 'linearizable') session.saw(page.served_by);
      return { head, node: node_id, role, ms: performance.now() - begunMs };
    } catch (error) {
      const reason = reasonOf(error);
      end({ type: 'failed', reason });
      return { reason, ms: performance.now() - begunMs };
    }
  }

  #direct(node: TestNode): Direct {
    let direct = this.#directs.get(node);
    if (direct === undefined) {
      direct = new Direct(node.clientAddress);
      this.#directs.set(node, direct);
    }
    return direct;
  }
}

function optionsOf(level: Level, boundMs: number | undefined, { token }: PinnedSession): object {
  return {
    level: levelNumbers[level],
    ...(boundMs === undefined
      ? {}
      : { max_staleness: { seconds: Math.floor(boundMs / 1_000), nanos: (boundMs % 1_000) * 1e6 } }),
    ...(level === 'session' && token !== undefined ? { commit_tokens: [token] } : {}),
  };
}

function idOf(event: Decoded): string {
  return event.message.parts[0].text.text;
}

function reasonOf(error: unknown): string {
  if (error instanceof HansardError) return error.reason;
  const { code, error: told, message } = error as Failure;
  if (told !== undefined) return told.reason;
  return code === 4 || code === 14 ? noAnswer : `code ${code}: ${message}`;
}

/** Asks on and on until it is stopped: nodes by turns, each at the levels by turns. */
export class AskingLoop {
  readonly answers: { readonly node: TestNode; readonly level: Level; readonly answer: Answer }[] = [];
  #stopped = false;
  readonly #done: Promise<void>;

  constructor(
    readonly reader: PinnedReader,
    readonly nodes: readonly TestNode[],
    readonly asks: readonly Ask[],
  ) {
    this.#done = this.#run();
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    await this.#done;
    this.reader.close();
  }

  async #run(): Promise<void> {
    for (let n = 0; !this.#stopped; n++) {
      const node = this.nodes[n % this.nodes.length] as TestNode;
      const ask = this.asks[Math.floor(n / this.nodes.length) % this.asks.length] as Ask;
      this.answers.push({ node, level: ask.level, answer: await this.reader.ask(node, ask) });
      await sleep(15);
    }
  }
}
