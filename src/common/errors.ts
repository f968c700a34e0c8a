/**
 * Every error that a user can meet, as one catalogue: the server maps it to a
 * gRPC status with google.rpc.ErrorInfo, the SDK maps it back to the same class,
 * docs/errors.md and the CLI print its cause and cure. The suite holds the docs
 * against this table.
 */
export const Code = {
  ok: 0,
  cancelled: 1,
  unknown: 2,
  invalidArgument: 3,
  deadlineExceeded: 4,
  notFound: 5,
  alreadyExists: 6,
  permissionDenied: 7,
  resourceExhausted: 8,
  failedPrecondition: 9,
  aborted: 10,
  outOfRange: 11,
  unimplemented: 12,
  internal: 13,
  unavailable: 14,
  dataLoss: 15,
  unauthenticated: 16,
} as const;
export type Code = (typeof Code)[keyof typeof Code];

export interface ReasonInfo {
  readonly code: Code;
  /** May the same request be sent again without risk of a second effect? */
  readonly retry: 'yes' | 'with-key' | 'no';
  readonly cause: string;
  readonly cure: string;
}

const table = {
  NOT_LEADER: r(
    Code.unavailable,
    'yes',
    'This node does not lead the partition and could not reach its leader.',
    'Send to the node in `leader_address`; the SDK does so by itself.',
  ),
  NO_QUORUM: r(
    Code.unavailable,
    'yes',
    'The partition has no leader or its leader no majority; nothing was proposed.',
    'Retry; if it lasts, look at `hansard status` for nodes that are down.',
  ),
  COMMIT_UNKNOWN: r(
    Code.unavailable,
    'with-key',
    'The append was proposed, and its leader was lost before the outcome was known.',
    'Retry with the same producer counter or key; without either, read the channel first.',
  ),
  DEADLINE_EXCEEDED: r(
    Code.deadlineExceeded,
    'with-key',
    'The deadline passed first; the outcome of a write is unknown.',
    'Retry with the same producer counter or key, or with a longer deadline.',
  ),
  CONDITION_FAILED: r(
    Code.aborted,
    'no',
    'The channel is not in the state that the append condition names.',
    'Read the channel, decide anew, and append with the new expectation.',
  ),
  DUPLICATE_KEY_DIFFERENT_CONTENT: r(
    Code.alreadyExists,
    'no',
    'The key was used in this channel with other content.',
    'Use a new key for new content.',
  ),
  MESSAGE_ID_EXISTS: r(
    Code.alreadyExists,
    'no',
    'The message_id is taken in this channel.',
    'Choose another id, or read the message that has it.',
  ),
  PRODUCER_GAP: r(
    Code.failedPrecondition,
    'no',
    'A counter was skipped: an earlier append of this producer has not arrived.',
    'Send the appends from `expected_counter` on, in order.',
  ),
  PRODUCER_EXPIRED: r(
    Code.failedPrecondition,
    'no',
    'The producer is unknown here: it was idle too long, or deleted.',
    'Read what was stored, open a new producer, and append what is missing.',
  ),
  TOKEN_TOO_OLD: r(
    Code.outOfRange,
    'no',
    'The resume token stands before what the change list still holds (`change_retention`).',
    'Subscribe from a time or from the beginning, and pass over what you have; come back sooner next time.',
  ),
  PRODUCER_REUSED: r(
    Code.invalidArgument,
    'no',
    'The counter was used before with another request.',
    'Give each process its own producer; never send other content under a used counter.',
  ),
  MESSAGE_TOO_LARGE: r(
    Code.invalidArgument,
    'no',
    'A message is larger than the limit.',
    'Split it, or keep the large part elsewhere and refer to it with a file part.',
  ),
  FRAME_TOO_LARGE: r(
    Code.invalidArgument,
    'no',
    'The request is larger than the limit, or holds too many messages.',
    'Send fewer messages in one call.',
  ),
  INVALID_NAME: r(
    Code.invalidArgument,
    'no',
    'A tenant, channel or id is empty, too long, or holds characters that are not allowed.',
    'See docs/limits.md for what a name may hold.',
  ),
  INVALID_UTF8: r(
    Code.invalidArgument,
    'no',
    'A text field is not valid UTF-8 (a lone surrogate, or cut in mid-character).',
    'Encode the text as UTF-8; put binary data into a bytes field.',
  ),
  METADATA_NOT_JSON: r(
    Code.invalidArgument,
    'no',
    'A field that holds JSON text does not parse.',
    'Send the JSON text itself; tool arguments alone may be invalid JSON.',
  ),
  METADATA_TOO_LARGE: r(
    Code.invalidArgument,
    'no',
    'A JSON text is larger than 16 KiB.',
    'Keep large data in a data part or elsewhere.',
  ),
  INVALID_ARGUMENT: r(
    Code.invalidArgument,
    'no',
    'The request can not be understood, or a field has a value that is not allowed.',
    'See `field` and `problem`; docs/api.md describes each field.',
  ),
  INVALID_TOKEN: r(
    Code.invalidArgument,
    'no',
    'A page token or commit token is damaged, foreign or of another request.',
    'Start the listing again without a token.',
  ),
  INCARNATION_CHANGED: r(
    Code.failedPrecondition,
    'no',
    'The token is of an earlier life of the cluster (it was restored or repaired since).',
    'Drop the token, read the state anew.',
  ),
  CHANNEL_SEALED: r(
    Code.failedPrecondition,
    'no',
    'The channel was sealed: it takes no more events.',
    'Append to another channel; what the channel has can be read as before.',
  ),
  TOO_MANY_FAILED_DELIVERIES: r(
    Code.failedPrecondition,
    'no',
    'More deliveries to one recipient in one channel have failed than are kept.',
    'Deliver some of them again and report them as recovered, then go on.',
  ),
  CHANNEL_NOT_FOUND: r(
    Code.notFound,
    'no',
    'There is no channel of that name.',
    'Check tenant and name; a first append creates a channel.',
  ),
  CHANNEL_EXISTS: r(
    Code.alreadyExists,
    'no',
    'A channel of that name exists.',
    'Use it, or choose another name.',
  ),
  SUBSCRIPTION_NOT_FOUND: r(
    Code.notFound,
    'no',
    'There is no durable subscription of that name in the tenant.',
    'Check name and tenant, or create it.',
  ),
  SUBSCRIPTION_EXISTS: r(
    Code.alreadyExists,
    'no',
    'A durable subscription of that name exists.',
    'Use it, or choose another name.',
  ),
  SUBSCRIPTION_CHANGED: r(
    Code.aborted,
    'no',
    'The durable subscription was changed meanwhile: its etag is another one.',
    'Read it again and decide anew.',
  ),
  TOO_MANY_SUBSCRIPTIONS: r(
    Code.resourceExhausted,
    'no',
    'The partition that would keep the durable subscription has as many as it may.',
    'Delete some that nobody uses, or choose a name that falls into another partition.',
  ),
  TOO_MANY_CHANNELS: r(
    Code.failedPrecondition,
    'no',
    'So many channels have that label, participant or prefix that a listing by activity or by both would take too long.',
    'Ask for a narrower label, a longer prefix or one `{tag}`, or list by name.',
  ),
  MESSAGE_NOT_FOUND: r(
    Code.notFound,
    'no',
    'The channel has no event with that seq or message_id.',
    'Check the reference; `head_seq` of the channel is its last seq.',
  ),
  CHECKSUM_MISMATCH: r(
    Code.dataLoss,
    'no',
    'Bytes do not match their checksum.',
    'Sent by a client: encode again and retry. Read from a server: try another replica and run `hansard verify`.',
  ),
  OVERLOADED: r(
    Code.resourceExhausted,
    'yes',
    'A queue is full; nothing was proposed.',
    'Wait for `retry_delay` and retry; send fewer requests at once.',
  ),
  DISK_FULL: r(
    Code.resourceExhausted,
    'yes',
    "The disk of the partition's leader, or of a majority of its nodes, has less room than its reserve; nothing was proposed.",
    'Make room: delete channels (permanently), or free the disk; appends go on by themselves then. Retry after `retry_delay`.',
  ),
  NO_SECONDARY: r(
    Code.unavailable,
    'yes',
    'The read asks for a secondary, and none of the partition can be reached.',
    'Use SECONDARY_PREFERRED, or look at `hansard status` for nodes that are down.',
  ),
  NOT_IMPLEMENTED: r(
    Code.unimplemented,
    'no',
    'This version has no such method.',
    'See docs/api.md for what it has.',
  ),
  UPGRADE_BLOCKED: r(
    Code.failedPrecondition,
    'no',
    'Not every node of the cluster can carry out the apply version, or could be asked.',
    'Start the nodes in `unreachable`, update those in `too_old`, and repeat; `hansard status` shows who is connected.',
  ),
  MEMBERSHIP_BUSY: r(
    Code.unavailable,
    'yes',
    "A partition's members change one step at a time, and a step is under way; or its leader is new.",
    'Repeat it in a moment; `hansard partition show` tells how far the step is.',
  ),
  WOULD_LOSE_QUORUM: r(
    Code.failedPrecondition,
    'no',
    'With that change the partition would have no majority of voters that can be reached.',
    'Start the nodes that are down, or add a replica first; `--force` changes it all the same.',
  ),
  LEARNER_LAGS: r(
    Code.failedPrecondition,
    'yes',
    'The replica has not caught up: with its vote it would hold appends up.',
    'Repeat it when `hansard partition show` says that it has caught up; `--force` promotes it all the same.',
  ),
  NOT_A_MEMBER: r(
    Code.notFound,
    'no',
    'The partition has, and had, no replica of that id.',
    'Look up its replicas: `hansard partition show`.',
  ),
  ALREADY_A_MEMBER: r(
    Code.alreadyExists,
    'no',
    'The node holds a replica of the partition that votes already.',
    'Choose another node, or remove the replica that is no longer wanted.',
  ),
  NODE_UNKNOWN: r(
    Code.notFound,
    'no',
    'The cluster has no node of that number.',
    'Look up the nodes: `hansard status`.',
  ),
  NODE_UNREACHABLE: r(
    Code.unavailable,
    'yes',
    "The partition's leader can't reach the node that is to hold the replica.",
    'Start that node, or choose another; `hansard status` shows who is connected.',
  ),
  REPLICA_LOST: r(
    Code.failedPrecondition,
    'no',
    'The folder is empty or belongs to another node: what this node promised to its peers is gone.',
    'Put the right folder back, or replace the node; never start it with an empty folder.',
  ),
  DIRECTORY_IN_USE: r(
    Code.failedPrecondition,
    'no',
    'Another process has this folder open.',
    'Stop the other process, or use another folder.',
  ),
  NODE_RUNNING: r(
    Code.failedPrecondition,
    'no',
    'The cluster is to be repaired, and at the address of a node whose folder is not here somebody answers.',
    'Stop all nodes first; where another program has that address by now, stop it, or cut this machine off it meanwhile.',
  ),
  REPAIR_OUTDATED: r(
    Code.failedPrecondition,
    'no',
    'A folder is not as it was when the plan of the repair was made: a node ran on it, or another repair.',
    'Nothing was changed. Run the repair again, and decide on its new plan.',
  ),
  DIRECTORY_NOT_EMPTY: r(
    Code.failedPrecondition,
    'no',
    'The folder to format holds data already.',
    'Use an empty folder; `hansard start` opens an existing one.',
  ),
  DIRECTORY_UNFINISHED: r(
    Code.failedPrecondition,
    'no',
    'An init of this folder was interrupted; no node has ever run on it.',
    'Delete the folder and run `hansard init` again.',
  ),
  FORMAT_TOO_NEW: r(
    Code.failedPrecondition,
    'no',
    'The data was written by a newer version.',
    'Start it with that version or a newer one.',
  ),
  LOG_DAMAGED: r(
    Code.dataLoss,
    'no',
    'The log on disk is damaged before its end.',
    'Keep the folder; see docs/operations.md, "Damage".',
  ),
  STORE_DAMAGED: r(
    Code.dataLoss,
    'no',
    'The database on disk is damaged or incomplete.',
    'Keep the folder; see docs/operations.md, "Damage".',
  ),
  DISK_FAILED: r(
    Code.dataLoss,
    'no',
    'A write or sync failed; the process ends so that it acknowledges nothing it has not kept.',
    'Check the disk, then start the node again.',
  ),
  INVALID_SETTINGS: r(
    Code.invalidArgument,
    'no',
    'A setting is missing, unknown or out of its range.',
    'See `hansard start --help`; `--print-config` shows where each value comes from.',
  ),
  ADDRESS_IN_USE: r(
    Code.failedPrecondition,
    'no',
    'The port is taken by another process.',
    'Stop that process, or choose another port.',
  ),
  UNREACHABLE: r(
    Code.unavailable,
    'yes',
    'No server answers at the given endpoints.',
    'Check the endpoint, and that the cluster is up: `hansard cluster status`.',
  ),
  SHUTTING_DOWN: r(
    Code.unavailable,
    'yes',
    'The node is stopping; nothing was proposed.',
    'Send to another node; the SDK does so by itself.',
  ),
  CLIENT_CLOSED: r(
    Code.cancelled,
    'with-key',
    'The client was closed before the answer came; the outcome of a write is unknown.',
    'Await the appends before `close()`, or read the channel to see what was stored.',
  ),
  INTERNAL: r(Code.internal, 'no', 'A defect of Hansard.', 'Please report it with the text of the error.'),
} as const satisfies Record<string, ReasonInfo>;

export type Reason = keyof typeof table;
export const reasons: Readonly<Record<Reason, ReasonInfo>> = Object.freeze(table);
export const errorDomain = 'hansard';

export type ErrorFields = Readonly<Record<string, string | number | boolean>>;

/** An error with a reason of the catalogue. `fields` become ErrorInfo.metadata. */
export class HansardError extends Error {
  override readonly name = 'HansardError';
  readonly code: Code;
  constructor(
    readonly reason: Reason,
    /** What happened, with the values at hand; one line, no trailing dot needed. */
    message: string,
    readonly fields: ErrorFields = {},
    options?: { cause?: unknown; retryDelayMs?: number; code?: Code },
  ) {
    super(message, options?.cause === undefined ? undefined : { cause: options.cause });
    this.code = options?.code ?? reasons[reason].code;
    this.retryDelayMs = options?.retryDelayMs;
  }
  /** When to try again, where that is known (RetryInfo). */
  readonly retryDelayMs: number | undefined;
}

/** Thrown where the code itself is wrong. The process ends on it, never one partition in silence. */
export class InvariantError extends Error {
  override readonly name = 'InvariantError';
}

/**
 * Stays on in production. A text that is put together is so on every call, right
 * or wrong: where that is often, throw the InvariantError behind an `if` instead.
 */
export function assert(condition: unknown, what: string): asserts condition {
  if (!condition) throw new InvariantError(what);
}

function r(code: Code, retry: ReasonInfo['retry'], cause: string, cure: string): ReasonInfo {
  return { code, retry, cause, cure };
}
