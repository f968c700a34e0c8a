/**
 * What callers give, held against its documented shape before any of it is
 * encoded: types are gone at run time, and a field misspelt, or a part without
 * its type, must not become another message. INVALID_ARGUMENT names the field and
 * the cure. Limits and texts are checked where they are written (content-encode.ts).
 *
 * A shape is a table; looking costs about 0.1 µs for a message of three fields.
 */
import { HansardError } from '../common/errors.js';

/** Undefined where the value is as it should be; else what it must be, or where within it something is wrong. */
type Check = (value: unknown) => string | Problem | undefined;
type Shape = ReadonlyMap<string, Check>;

interface Problem {
  readonly field: string;
  readonly problem: string;
}

export function invalid(field: string, problem: string): HansardError {
  return new HansardError('INVALID_ARGUMENT', `${field}: ${problem}`, { field, problem });
}

const text: Check = (value) => (typeof value === 'string' ? undefined : 'must be a string');
/** Empty it would leave as if it were not given: a repeat counts twice, a change takes effect on whatever is there. */
const filled: Check = (value) =>
  text(value) ?? (value === '' ? 'must not be empty: leave it out' : undefined);
const flag: Check = (value) => (typeof value === 'boolean' ? undefined : 'must be true or false');
const bytes: Check = (value) => (value instanceof Uint8Array ? undefined : 'must be a Uint8Array');
const number: Check = (value) => (typeof value === 'number' ? undefined : 'must be a number');
const count: Check = (value) =>
  Number.isSafeInteger(value) && (value as number) >= 0 ? undefined : 'must be a whole number of at least 0';
const uint64: Check = (value) =>
  typeof value === 'bigint' && value >= 0n && value < 1n << 64n
    ? undefined
    : count(value) && 'must be a whole number of at least 0 (a bigint beyond 2^53)';
const milliseconds: Check = (value) =>
  typeof value === 'number' && value > 0 ? undefined : 'must be a number of milliseconds above 0';
const any: Check = () => undefined;

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function shape(fields: Readonly<Record<string, Check>>): Shape {
  return new Map(Object.entries(fields));
}

function oneOf(...names: readonly string[]): Check {
  const allowed = new Set<unknown>(names);
  const problem = `must be one of ${names.map((name) => `'${name}'`).join(', ')}`;
  return (value) => (allowed.has(value) ? undefined : problem);
}

function object(fields: Shape, cure: string): Check {
  return (value) => (isObject(value) ? fieldProblem(value, fields) : `must be an object${cure}`);
}

function listOf(each: Check, what: string): Check {
  return (value) => {
    if (!Array.isArray(value)) return `must be an array of ${what}`;
    for (let i = 0; i < value.length; i++) {
      const problem = each(value[i]);
      if (problem !== undefined) return within(`[${i}]`, problem);
    }
    return undefined;
  };
}

function textsByName(what: string): Check {
  return (value) => {
    if (!isObject(value)) return `must be an object of ${what}`;
    for (const [name, each] of Object.entries(value))
      if (typeof each !== 'string') return { field: `.${name}`, problem: 'must be a string' };
    return undefined;
  };
}

function within(path: string, problem: string | Problem): Problem {
  return typeof problem === 'string'
    ? { field: path, problem }
    : { field: path + problem.field, problem: problem.problem };
}

/** The first field of `value` that is unknown or wrong. Undefined counts as absent, as in TypeScript; null does not. */
function fieldProblem(value: Record<string, unknown>, fields: Shape): Problem | undefined {
  for (const name in value) {
    const given = value[name];
    if (given === undefined) continue;
    const check = fields.get(name);
    if (check === undefined)
      return { field: `.${name}`, problem: `no such field; there are ${listed(fields)}` };
    const problem = check(given);
    if (problem === undefined) continue;
    if (given === null)
      return { field: `.${name}`, problem: `${problemText(problem)}, not null: leave it out` };
    return within(`.${name}`, problem);
  }
  return undefined;
}

function problemText(problem: string | Problem): string {
  return typeof problem === 'string' ? problem : problem.problem;
}

function listed(fields: Shape): string {
  return [...fields.keys()].join(', ');
}

/** A union's member is told by the one field that it has. */
function exactlyOne(fields: Shape, cure: string): Check {
  return (value) => {
    if (!isObject(value)) return `must be ${cure}`;
    const problem = fieldProblem(value, fields);
    if (problem !== undefined) return problem;
    let given = 0;
    for (const name of fields.keys()) if (value[name] !== undefined) given++;
    return given === 1 ? undefined : `must be ${cure}`;
  };
}

// Messages

const roleOrNumber: Check = (value) =>
  typeof value === 'string' || count(value) === undefined ? undefined : "must be a role such as 'user'";
const typeOrNumber: Check = (value) =>
  typeof value === 'string' || count(value) === undefined ? undefined : 'must be the name of an event type';
const date: Check = (value) =>
  value instanceof Date && !Number.isNaN(value.getTime()) ? undefined : 'must be a valid Date';
const ref = exactlyOne(
  shape({ seq: uint64, messageId: text, batchPosition: count }),
  '{ seq }, { messageId } or { batchPosition }',
);
const usage = object(
  shape({
    model: text,
    inputTokens: uint64,
    outputTokens: uint64,
    cachedInputTokens: uint64,
    reasoningTokens: uint64,
    detailsJson: text,
  }),
  " such as { model: '…', inputTokens: 10 }",
);

interface PartShape {
  readonly fields: Shape;
  readonly required: readonly string[];
}

function part(required: readonly string[], fields: Readonly<Record<string, Check>>): PartShape {
  return { required, fields: shape({ type: any, ...fields, providerMetadataJson: text }) };
}

const partShapes: ReadonlyMap<unknown, PartShape> = new Map<unknown, PartShape>([
  ['text', part(['text'], { text, state: text })],
  [
    'reasoning',
    part([], {
      text,
      signature: bytes,
      encrypted: bytes,
      summary: listOf(text, 'strings'),
      id: text,
      state: text,
    }),
  ],
  [
    'tool-call',
    part(['callId', 'name', 'arguments'], {
      callId: text,
      name: text,
      arguments: (value) =>
        text(value) && 'must be a string, as the model wrote it: JSON.stringify() an object',
      id: text,
      state: text,
      providerExecuted: flag,
    }),
  ],
  [
    'tool-result',
    part(['callId'], {
      callId: text,
      name: text,
      outputJson: (value) => text(value) && 'must be JSON text: JSON.stringify() an object',
      outputText: text,
      errorText: text,
      isError: flag,
      id: text,
      state: text,
    }),
  ],
  [
    'file',
    part([], {
      mediaType: text,
      filename: text,
      url: text,
      fileId: text,
      inlineData: bytes,
      sizeBytes: uint64,
      sha256: bytes,
    }),
  ],
  [
    'source',
    part([], { sourceId: text, kind: text, url: text, title: text, mediaType: text, filename: text }),
  ],
  ['data', part(['name'], { name: text, id: text, json: text })],
  ['custom', part(['kind'], { kind: text, json: text, binary: bytes })],
  ['unknown', { required: ['bytes'], fields: shape({ type: any, bytes }) }],
]);

const partTypes = [...partShapes.keys()].map((type) => `'${type}'`).join(', ');

const partCheck: Check = (value) => {
  if (!isObject(value)) return "must be an object such as { type: 'text', text: '…' }";
  const known = partShapes.get(value.type);
  if (known === undefined) {
    const given = value.type === undefined ? 'missing; ' : '';
    return { field: '.type', problem: `${given}must be one of ${partTypes}` };
  }
  const problem = fieldProblem(value, known.fields);
  if (problem !== undefined) return problem;
  for (const name of known.required)
    if (value[name] === undefined)
      return { field: `.${name}`, problem: `missing; a part of type '${value.type}' needs it` };
  return undefined;
};

const message = shape({
  role: roleOrNumber,
  author: text,
  text,
  parts: listOf(partCheck, "parts such as { type: 'text', text: '…' }"),
  metadata: any,
  metadataJson: (value) => text(value) && 'must be JSON text; give an object as `metadata`',
  parent: ref,
  replyTo: ref,
  clientTime: date,
  clientTimeUs: number,
  usage,
  type: typeOrNumber,
  key: text,
  messageId: text,
  subject: text,
  targetSeq: count,
  contentBytes: bytes,
});

/** `place`: of a message within its append, undefined where it is the only one. */
export function checkMessage(value: unknown, place: number | undefined): void {
  const problem = isObject(value)
    ? fieldProblem(value, message)
    : "must be an object such as { role: 'user', text: '…' }";
  if (problem === undefined) return;
  if (place === undefined) throw fault(problem, 'message');
  throw fault(within(`messages[${place}]`, problem), 'message');
}

// Options

const readFields = {
  level: oneOf('linearizable', 'session', 'bounded', 'eventual'),
  preference: oneOf('primary', 'primary-preferred', 'secondary', 'secondary-preferred', 'nearest'),
  commitTokens: listOf(bytes, 'commit tokens'),
  maxStalenessMs: (value: unknown) =>
    typeof value === 'number' && value >= 0 ? undefined : 'must be a number of milliseconds',
  timeoutMs: milliseconds,
  onServed: (value: unknown) => (typeof value === 'function' ? undefined : 'must be a function'),
};
const condition = exactlyOne(
  shape({
    expectedHeadSeq: count,
    expectedLastMessageSeq: count,
    mustNotExist: (value) => (value === true ? undefined : 'must be true'),
    mustExist: (value) => (value === true ? undefined : 'must be true'),
  }),
  'one of { expectedHeadSeq }, { expectedLastMessageSeq }, { mustNotExist: true }, { mustExist: true }',
);
const anchor: Check = (value) => {
  if (typeof value === 'number') return count(value);
  if (value instanceof Date) return date(value);
  const timed = isObject(value) && Number.isSafeInteger(value.timeUs);
  return timed ? undefined : 'must be a seq, a Date or { timeUs }';
};
const channelFields = {
  title: text,
  labels: textsByName('labels: { name: value }'),
  class: text,
  participants: listOf(
    object(shape({ id: text, displayName: text, role: text }), " such as { id: '…' }"),
    "participants such as { id: '…' }",
  ),
};

const following = {
  signal: (value: unknown) => (value instanceof AbortSignal ? undefined : 'must be an AbortSignal'),
  timeoutMs: milliseconds,
  credit: object(shape({ events: count, bytes: count }), ' such as { events: 1000, bytes: 1000000 }'),
};
const selectorFields: Readonly<Record<string, Check>> = {
  channels: listOf(text, 'names of channels'),
  prefix: text,
  label: object(shape({ key: text, value: text }), " such as { key: '…', value: '…' }"),
  types: listOf(any, 'event types'),
};
const startFields: Readonly<Record<string, Check>> = {
  fromBeginning: flag,
  fromTime: (value) =>
    value instanceof Date
      ? date(value)
      : isObject(value) && count(value.timeUs) === undefined
        ? undefined
        : 'must be a Date or { timeUs }',
  resumeToken: text,
};
const subscriptionSettings: Readonly<Record<string, Check>> = {
  description: text,
  ackDeadlineMs: milliseconds,
  maxDeliveries: count,
  retryDelayMs: count,
  maxPendingChannels: count,
  paused: flag,
};
const callback: Check = (value) => (typeof value === 'function' ? undefined : 'must be a function');

const optionShapes = {
  append: shape({ condition, key: filled, messageId: filled, timeoutMs: milliseconds }),
  producerAppend: shape({ condition, counter: any, timeoutMs: milliseconds }),
  read: shape(readFields),
  list: shape({ ...readFields, before: count, after: count, anchor, descending: flag, pageToken: text }),
  tail: shape({
    level: readFields.level,
    preference: readFields.preference,
    commitTokens: readFields.commitTokens,
    afterSeq: count,
    fromHead: flag,
    resumeToken: text,
    mustExist: flag,
    maxBatch: count,
    ...following,
  }),
  markRead: shape({ allowBack: flag, timeoutMs: milliseconds }),
  readCursors: shape({ ...readFields, pageSize: count, pageToken: text }),
  inbox: shape({ ...readFields, withoutLastMessage: flag }),
  subscriptionCreate: shape({
    ...selectorFields,
    ...subscriptionSettings,
    ...startFields,
    ifMissing: flag,
    requestId: filled,
    timeoutMs: milliseconds,
  }),
  subscriptionUpdate: shape({
    ...selectorFields,
    ...subscriptionSettings,
    etag: filled,
    timeoutMs: milliseconds,
  }),
  subscriptionSeek: shape({ ...startFields, etag: filled, dropDeadLetters: flag, timeoutMs: milliseconds }),
  subscriptionCall: shape({ etag: filled, timeoutMs: milliseconds }),
  subscriptionList: shape({ pageSize: count, timeoutMs: milliseconds }),
  consume: shape({
    handler: callback,
    concurrency: count,
    consumerId: text,
    maxBatch: count,
    creditEvents: count,
    creditBytes: count,
    maxHandlerMs: milliseconds,
    onProgress: callback,
    onFailure: callback,
    onInterrupted: callback,
    timeoutMs: milliseconds,
  }),
  deliver: shape({
    preference: readFields.preference,
    ...following,
    attempts: count,
    retryDelayMs: milliseconds,
    reportEveryMs: milliseconds,
  }),
  deliveries: shape({
    ...readFields,
    seq: count,
    messageId: text,
    recipient: text,
    pageSize: count,
    pageToken: text,
  }),
  subscribe: shape({
    ...selectorFields,
    ...startFields,
    maxBatch: count,
    ...following,
  }),
  channels: shape({
    ...readFields,
    prefix: text,
    label: object(shape({ key: text, value: text }), " such as { key: '…', value: '…' }"),
    participant: text,
    orderBy: oneOf('name', 'activity'),
    deleted: flag,
    pageSize: count,
    pageToken: text,
  }),
  createChannel: shape({ ...channelFields, timeoutMs: milliseconds }),
  changes: shape({ ...channelFields, etag: filled }),
  deleteChannel: shape({
    etag: filled,
    allowMissing: flag,
    permanent: flag,
    dryRun: flag,
    timeoutMs: milliseconds,
  }),
  channelState: shape({ etag: filled, timeoutMs: milliseconds }),
  batchItem: shape({ channel: text, messages: any, condition }),
  call: shape({ timeoutMs: milliseconds }),
  batch: shape({ requestId: filled, timeoutMs: milliseconds }),
} as const;

/** The options of a call; the empty ones cost nothing. */
export function checkOptions(kind: keyof typeof optionShapes, options: unknown): void {
  const problem = isObject(options) ? fieldProblem(options, optionShapes[kind]) : 'must be an object';
  if (problem !== undefined) throw fault(problem, 'options');
}

const refOfEvent = exactlyOne(shape({ seq: count, messageId: text }), 'a seq or { messageId }');

/** An event by seq or message id. */
export function checkRef(value: unknown): void {
  const problem = typeof value === 'number' ? count(value) : refOfEvent(value);
  if (problem !== undefined) throw fault(problem, 'ref');
}

function fault(problem: string | Problem, whole: string): HansardError {
  if (typeof problem === 'string') return invalid(whole, problem);
  return invalid(problem.field.replace(/^\./, ''), problem.problem);
}
