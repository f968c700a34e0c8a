/** Messages, entries and Readys as etcd's scripts print them. */
import { type ConfState, type Entry, EntryType, type HardState } from '../../../src/common/log-types.js';
import {
  decodeConfChange,
  describeChanges,
  LOCAL_APPEND_THREAD,
  LOCAL_APPLY_THREAD,
  type Message,
  messageTypeNames,
  type Ready,
  roleNames,
  type Snapshot,
} from '../../../src/raft/index.js';

const decoder = new TextDecoder();
const entryTypeNames = ['EntryNormal', 'EntryConfChange', 'EntryConfChangeV2'];

export function describeMessage(m: Message, indent = ''): string {
  let text = `${indent}${target(m.from)}->${target(m.to)} ${messageTypeNames[m.type]}`;
  text += ` Term:${m.term} Log:${m.logTerm}/${m.index}`;
  if (m.reject) text += ` Rejected (Hint: ${m.rejectHint})`;
  if (m.commit !== 0) text += ` Commit:${m.commit}`;
  if (m.vote !== 0) text += ` Vote:${m.vote}`;
  if (m.entries.length === 1) {
    text += ` Entries:[${describeEntry(m.entries[0]!)}]`;
  } else if (m.entries.length > 1) {
    const entries = m.entries.map((entry) => `\n${indent}  ${describeEntry(entry)}`);
    text += ` Entries:[${entries.join('')}\n${indent}]`;
  }
  if (m.snapshot !== undefined && m.snapshot.metadata.index > 0) {
    text += `\n${indent}  Snapshot: ${describeSnapshot(m.snapshot)}`;
  }
  if (m.responses.length > 0) {
    const responses = m.responses.map((response) => `\n${describeMessage(response, `${indent}  `)}`);
    text += ` Responses:[${responses.join('')}\n${indent}]`;
  }
  return text;
}

export function describeEntry(entry: Entry): string {
  const data = entry.data ?? new Uint8Array(0);
  const body =
    entry.type === EntryType.normal ? quoted(data) : describeChanges(decodeConfChange(data).changes);
  return `${entry.term}/${entry.index} ${entryTypeNames[entry.type]}${body === '' ? '' : ` ${body}`}`;
}

export function describeEntries(entries: readonly Entry[]): string {
  return entries.map((entry) => `${describeEntry(entry)}\n`).join('');
}

export function describeReady(ready: Ready): string {
  let text = '';
  if (ready.softState !== undefined) {
    text += `Lead:${ready.softState.lead} State:${roleNames[ready.softState.role]}\n`;
  }
  if (ready.hardState !== undefined) text += `HardState ${describeHardState(ready.hardState)}\n`;
  if (ready.readStates.length > 0) {
    text += `ReadStates [${ready.readStates.map((read) => `{${read.index} ${read.context}}`).join(' ')}]\n`;
  }
  if (ready.entries.length > 0) text += `Entries:\n${describeEntries(ready.entries)}`;
  if (ready.snapshot !== undefined) text += `Snapshot ${describeSnapshot(ready.snapshot)}\n`;
  if (ready.committedEntries.length > 0) {
    text += `CommittedEntries:\n${describeEntries(ready.committedEntries)}`;
  }
  if (ready.messages.length > 0) {
    text += `Messages:\n${ready.messages.map((m) => `${describeMessage(m)}\n`).join('')}`;
  }
  return text === '' ? '<empty Ready>' : `Ready MustSync=${ready.mustSync}:\n${text}`;
}

function describeHardState(state: HardState): string {
  const vote = state.vote === 0 ? '' : ` Vote:${state.vote}`;
  return `Term:${state.term}${vote} Commit:${state.commit}`;
}

function describeSnapshot({ metadata }: Snapshot): string {
  return `Index:${metadata.index} Term:${metadata.term} ConfState:${describeConfState(metadata.confState)}`;
}

function describeConfState(state: ConfState): string {
  const list = (ids: readonly number[]) => `[${ids.join(' ')}]`;
  return (
    `Voters:${list(state.voters)} VotersOutgoing:${list(state.votersOutgoing)} ` +
    `Learners:${list(state.learners)} LearnersNext:${list(state.learnersNext)} AutoLeave:${state.autoLeave}`
  );
}

function target(id: number): string {
  if (id === 0) return 'None';
  if (id === LOCAL_APPEND_THREAD) return 'AppendThread';
  if (id === LOCAL_APPLY_THREAD) return 'ApplyThread';
  return id.toString(16);
}

/** JSON's quoting equals Go's for what scripts hold. */
function quoted(data: Uint8Array): string {
  return JSON.stringify(decoder.decode(data));
}
