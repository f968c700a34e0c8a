/**
 * The search for a linearization: J. Wing and C. Gong, "Testing and Verifying
 * Concurrent Objects" (1993), with G. Lowe's memory of configurations that were
 * tried ("Testing for Linearizability", 2017): the same set of operations done
 * and the same state need not be gone on with twice.
 *
 * An operation whose outcome is unknown returns never: the search may let it take
 * effect anywhere after its call, behind all others as well, where nobody sees it.
 */

export interface Operation<Input, Output> {
  readonly process: string;
  readonly input: Input;
  /** Undefined: nobody learned the outcome. */
  readonly output: Output | undefined;
  /** Place in the history, or time; any unit, ascending. */
  readonly callAt: number;
  /** Infinity where the outcome is unknown. */
  readonly returnAt: number;
}

export interface Model<State, Input, Output> {
  /** Objects that don't influence one another; a history is judged key by key. */
  keyOf(input: Input): string;
  readonly initial: State;
  /** The state after the operation; undefined: it can not have this output here. Changes nothing in place. */
  step(state: State, input: Input, output: Output | undefined): State | undefined;
  /** Equal for equal states only. */
  stateKey(state: State): string;
  describe(input: Input, output: Output | undefined): string;
}

export interface CheckOptions {
  /** The search of one key ends as `unknown` after so many steps: bounds memory as well. */
  readonly maxSteps?: number;
  /** Asked now and then; true ends the search as `unknown`. */
  readonly isExpired?: () => boolean;
}

export const checkDefaults = Object.freeze({
  /** A step takes about 1 µs and up to 200 bytes. */
  maxSteps: 5_000_000,
});

export type Verdict =
  | { readonly verdict: 'linearizable' | 'unknown' }
  | {
      readonly verdict: 'not-linearizable';
      readonly key: string;
      /** The longest order that was found, and what could come next in it by time, yet not by its answer. */
      readonly longest: readonly string[];
      readonly stuckAt: readonly string[];
    };

export function check<State, Input, Output>(
  model: Model<State, Input, Output>,
  history: readonly Operation<Input, Output>[],
  options: CheckOptions = {},
): Verdict {
  let isUnknown = false;
  for (const [key, operations] of byKey(model, history)) {
    const search = new Search(model, operations);
    const found = search.run(options.maxSteps ?? checkDefaults.maxSteps, options.isExpired ?? never);
    if (found === 'unknown') isUnknown = true;
    else if (found === 'none') {
      return { verdict: 'not-linearizable', key, longest: search.longest(), stuckAt: search.stuckAt() };
    }
  }
  return { verdict: isUnknown ? 'unknown' : 'linearizable' };
}

function never(): boolean {
  return false;
}

function byKey<State, Input, Output>(
  model: Model<State, Input, Output>,
  history: readonly Operation<Input, Output>[],
): Map<string, Operation<Input, Output>[]> {
  const parts = new Map<string, Operation<Input, Output>[]>();
  for (const operation of history) {
    const key = model.keyOf(operation.input);
    const part = parts.get(key);
    if (part === undefined) parts.set(key, [operation]);
    else part.push(operation);
  }
  return parts;
}

/** How many steps between two looks at the clock. */
const stepsBetweenLooks = 4_096;

class Search<State, Input, Output> {
  readonly #model: Model<State, Input, Output>;
  readonly #operations: readonly Operation<Input, Output>[];
  /**
   * Calls and returns in their order, as a linked list: event 2i is the call of
   * operation i, 2i + 1 its return; `#head` stands before the first. Done
   * operations are lifted out.
   */
  readonly #next: Int32Array;
  readonly #previous: Int32Array;
  readonly #head: number;
  readonly #done: Uint32Array;
  #doneHash = 0;
  /** Operations done, in order, each with the state before it. */
  readonly #stack: { readonly operation: number; readonly before: State }[] = [];
  readonly #tried = new Map<string, Uint32Array[]>();
  #longest: number[] = [];

  constructor(model: Model<State, Input, Output>, operations: readonly Operation<Input, Output>[]) {
    this.#model = model;
    this.#operations = operations;
    const events = eventsInOrder(operations);
    this.#head = operations.length * 2;
    this.#next = new Int32Array(this.#head + 1).fill(-1);
    this.#previous = new Int32Array(this.#head + 1).fill(-1);
    this.#done = new Uint32Array(Math.ceil(operations.length / 32));
    let last = this.#head;
    for (const event of events) {
      this.#next[last] = event;
      this.#previous[event] = last;
      last = event;
    }
  }

  run(maxSteps: number, isExpired: () => boolean): 'found' | 'none' | 'unknown' {
    let state = this.#model.initial;
    let event = this.#first();
    let certain = this.#operations.reduce((sum, { returnAt }) => sum + (returnAt === Infinity ? 0 : 1), 0);
    for (let step = 0; certain > 0; step++) {
      if (step >= maxSteps || (step % stepsBetweenLooks === 0 && isExpired())) return 'unknown';
      if (event !== -1 && (event & 1) === 0) {
        const after = this.#tryNext(event >> 1, state);
        if (after === undefined) {
          event = this.#next[event] as number;
          continue;
        }
        if ((this.#operations[event >> 1] as Operation<Input, Output>).returnAt !== Infinity) certain--;
        this.#stack.push({ operation: event >> 1, before: state });
        this.#lift(event >> 1);
        if (this.#stack.length > this.#longest.length) this.#longest = this.#stack.map((s) => s.operation);
        state = after;
        event = this.#first();
        continue;
      }
      // A return (or the end): what it belongs to had to take effect before here. Take the last choice back.
      const last = this.#stack.pop();
      if (last === undefined) return 'none';
      state = last.before;
      this.#putBack(last.operation);
      if ((this.#operations[last.operation] as Operation<Input, Output>).returnAt !== Infinity) certain++;
      event = this.#next[last.operation * 2] as number;
    }
    return 'found';
  }

  longest(): string[] {
    return this.#longest.map((operation) => this.#describe(operation));
  }

  /** What could have followed the longest order as far as time goes. */
  stuckAt(): string[] {
    const done = new Set(this.#longest);
    const left = this.#operations.map((_, i) => i).filter((i) => !done.has(i));
    const returns = left.map((i) => (this.#operations[i] as Operation<Input, Output>).returnAt);
    const first = returns.reduce((least, at) => Math.min(least, at), Infinity);
    return left
      .filter((i) => (this.#operations[i] as Operation<Input, Output>).callAt < first)
      .map((i) => this.#describe(i));
  }

  #describe(operation: number): string {
    const { process, input, output } = this.#operations[operation] as Operation<Input, Output>;
    return `${process}: ${this.#model.describe(input, output)}`;
  }

  #first(): number {
    return this.#next[this.#head] as number;
  }

  /** The state after the operation, unless that can't be, or was tried from here on. */
  #tryNext(operation: number, state: State): State | undefined {
    const { input, output } = this.#operations[operation] as Operation<Input, Output>;
    const after = this.#model.step(state, input, output);
    if (after === undefined) return undefined;
    this.#flip(operation);
    const isNew = this.#remember(after);
    this.#flip(operation);
    return isNew ? after : undefined;
  }

  #remember(state: State): boolean {
    const key = `${this.#doneHash}|${this.#model.stateKey(state)}`;
    const known = this.#tried.get(key);
    if (known === undefined) {
      this.#tried.set(key, [this.#done.slice()]);
      return true;
    }
    // A hash may collide, and a configuration wrongly taken for a tried one would be a wrong verdict.
    if (known.some((done) => equalSets(done, this.#done))) return false;
    known.push(this.#done.slice());
    return true;
  }

  #flip(operation: number): void {
    (this.#done[operation >> 5] as number) ^= 1 << (operation & 31);
    this.#doneHash ^= hashOf(operation);
  }

  #lift(operation: number): void {
    this.#flip(operation);
    this.#unlink(operation * 2);
    this.#unlink(operation * 2 + 1);
  }

  /** In the reverse order of lifting, so that the neighbours are in their places. */
  #putBack(operation: number): void {
    this.#relink(operation * 2 + 1);
    this.#relink(operation * 2);
    this.#flip(operation);
  }

  #unlink(event: number): void {
    const next = this.#next[event] as number;
    const previous = this.#previous[event] as number;
    this.#next[previous] = next;
    if (next !== -1) this.#previous[next] = previous;
  }

  #relink(event: number): void {
    const next = this.#next[event] as number;
    this.#next[this.#previous[event] as number] = event;
    if (next !== -1) this.#previous[next] = event;
  }
}

/** Where times are equal, calls come first: to take two operations for concurrent excuses more, never less. */
function eventsInOrder(operations: readonly { callAt: number; returnAt: number }[]): number[] {
  const at = (event: number): number => {
    const { callAt, returnAt } = operations[event >> 1] as { callAt: number; returnAt: number };
    return (event & 1) === 0 ? callAt : returnAt;
  };
  const events = Array.from({ length: operations.length * 2 }, (_, event) => event);
  return events.sort((a, b) => {
    const [atA, atB] = [at(a), at(b)];
    if (atA !== atB) return atA < atB ? -1 : 1;
    return (a & 1) - (b & 1) || a - b;
  });
}

function equalSets(a: Uint32Array, b: Uint32Array): boolean {
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false;
  return true;
}

/** Spreads small numbers over 32 bits (an odd multiplier and two shifts). */
function hashOf(operation: number): number {
  let hash = Math.imul(operation + 1, 0x9e3779b1);
  hash ^= hash >>> 15;
  hash = Math.imul(hash, 0x85ebca77);
  return hash ^ (hash >>> 13);
}
