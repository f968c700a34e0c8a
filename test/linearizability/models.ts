/** What the checker knows: a register, a text with append, a Hansard channel. */
import type { Model } from './checker.js';

// ---- a register with compare-and-set

export type RegisterInput =
  | { readonly kind: 'read' }
  | { readonly kind: 'write'; readonly value: string }
  | { readonly kind: 'cas'; readonly from: string; readonly to: string };
/** Of a read its value, of a cas whether it changed the register, of a write nothing. */
export type RegisterOutput = { readonly value?: string; readonly changed?: boolean };

export const absent = 'nil';

export const register: Model<string, RegisterInput, RegisterOutput> = {
  keyOf: () => '',
  initial: absent,
  step(state, input, output) {
    if (input.kind === 'write') return input.value;
    if (input.kind === 'read') return output === undefined || output.value === state ? state : undefined;
    const matches = input.from === state;
    if (output !== undefined && output.changed !== matches) return undefined;
    return matches ? input.to : state;
  },
  stateKey: (state) => state,
  describe(input, output) {
    if (input.kind === 'write') return `write ${input.value}${output === undefined ? ' (unknown)' : ''}`;
    if (input.kind === 'read') return `read ${output?.value ?? '(unknown)'}`;
    const outcome = output === undefined ? 'unknown' : output.changed ? 'changed' : 'not equal';
    return `cas ${input.from} to ${input.to} (${outcome})`;
  },
};

// ---- texts by key, with get, put and append

export type TextInput =
  | { readonly kind: 'get'; readonly key: string }
  | { readonly kind: 'put' | 'append'; readonly key: string; readonly value: string };
export type TextOutput = { readonly value?: string };

export const texts: Model<string, TextInput, TextOutput> = {
  keyOf: (input) => input.key,
  initial: '',
  step(state, input, output) {
    if (input.kind === 'put') return input.value;
    if (input.kind === 'append') return state + input.value;
    return output === undefined || output.value === state ? state : undefined;
  },
  stateKey: (state) => state,
  describe(input, output) {
    if (input.kind === 'get') return `get ${input.key}: ${JSON.stringify(output?.value ?? '(unknown)')}`;
    return `${input.kind} ${input.key} ${JSON.stringify(input.value)}${output === undefined ? ' (unknown)' : ''}`;
  },
};

// ---- a Hansard channel

export type ChannelInput =
  | {
      readonly kind: 'append';
      readonly channel: string;
      /** Names the message; unique in the history. */
      readonly id: string;
      /** The append condition expected_head_seq. */
      readonly expectedHead?: number | undefined;
    }
  | { readonly kind: 'read'; readonly channel: string };

export type ChannelOutput =
  | { readonly kind: 'appended'; readonly seq: number }
  /** The condition did not hold. */
  | { readonly kind: 'refused'; readonly actualHead: number }
  /** Head, and the ids of the newest messages up to it, oldest first (as many as were asked for). */
  | { readonly kind: 'page'; readonly head: number; readonly newest: readonly string[] };

/** The log's end: persistent, so that a step costs the same however long the log is. */
export interface ChannelLog {
  readonly head: number;
  readonly id: string;
  readonly before: ChannelLog | undefined;
  /** Names the whole content: ids are unique, so the chain of them is. */
  readonly digest: string;
}

const emptyLog: ChannelLog = { head: 0, id: '', before: undefined, digest: '' };

export const channel: Model<ChannelLog, ChannelInput, ChannelOutput> = {
  keyOf: (input) => input.channel,
  initial: emptyLog,
  step(log, input, output) {
    if (input.kind === 'read') {
      if (output === undefined) return log;
      return output.kind === 'page' && output.head === log.head && endsWith(log, output.newest)
        ? log
        : undefined;
    }
    const holds = input.expectedHead === undefined || input.expectedHead === log.head;
    if (output === undefined) return holds ? appended(log, input.id) : log;
    if (output.kind === 'refused') return !holds && output.actualHead === log.head ? log : undefined;
    if (output.kind !== 'appended' || !holds || output.seq !== log.head + 1) return undefined;
    return appended(log, input.id);
  },
  stateKey: (log) => log.digest,
  describe(input, output) {
    if (input.kind === 'read') {
      return output?.kind === 'page'
        ? `read: head ${output.head}, ends with ${output.newest.join(' ') || 'nothing'}`
        : 'read (unknown)';
    }
    const condition = input.expectedHead === undefined ? '' : ` if head is ${input.expectedHead}`;
    if (output === undefined) return `append ${input.id}${condition} (unknown)`;
    return output.kind === 'appended'
      ? `append ${input.id}${condition}: seq ${output.seq}`
      : `append ${input.id}${condition}: refused${output.kind === 'refused' ? `, head ${output.actualHead}` : ''}`;
  },
};

function appended(log: ChannelLog, id: string): ChannelLog {
  return { head: log.head + 1, id, before: log, digest: `${log.head + 1}:${chain(log.digest, id)}` };
}

function endsWith(log: ChannelLog, newest: readonly string[]): boolean {
  let at: ChannelLog | undefined = log;
  for (let i = newest.length - 1; i >= 0; i--) {
    if (at === undefined || at.head === 0 || at.id !== newest[i]) return false;
    at = at.before;
  }
  return true;
}

/**
 * 64 bits of a chain over ids. Two logs that collide would be taken for one: at
 * a million configurations the chance is 1 in 30 million.
 */
function chain(before: string, id: string): string {
  let a = 0x811c9dc5;
  let b = 0x1b873593;
  for (const text of [before, '\0', id]) {
    for (let i = 0; i < text.length; i++) {
      const code = text.charCodeAt(i);
      a = Math.imul(a ^ code, 0x01000193);
      b = Math.imul(b ^ code, 0x85ebca77);
      b = (b << 13) | (b >>> 19);
    }
  }
  return (a >>> 0).toString(36) + (b >>> 0).toString(36);
}
