/** What an application writes and reads: messages, their typed parts, events, channels. */

/** A 64-bit number of a message: a bigint only where it is beyond 2^53 - 1. */
export type Uint64 = number | bigint;

export type Json = null | boolean | number | string | readonly Json[] | { readonly [key: string]: Json };

/** `other` is what a message without a known role has. A number: a role of a newer version. */
export type Role = 'unspecified' | 'user' | 'assistant' | 'system' | 'tool' | 'developer' | 'other' | number;

export type EventType =
  | 'unspecified'
  | 'message-completed'
  | 'message-created'
  | 'message-started'
  | 'message-edited'
  | 'message-deleted'
  | 'message-redacted'
  | 'reaction-added'
  | 'reaction-removed'
  | 'feedback-given'
  | 'annotated'
  | 'participant-joined'
  | 'participant-left'
  | 'branch-selected'
  | 'delivery-state-changed'
  | 'channel-updated'
  | 'erased'
  | 'custom'
  | number;

/** Another message of the same channel; `batchPosition` counts within one append, from 0. */
export type MessageRef =
  | { readonly seq: Uint64 }
  | { readonly messageId: string }
  | { readonly batchPosition: number };

export interface Usage {
  readonly model?: string;
  readonly inputTokens?: Uint64;
  readonly outputTokens?: Uint64;
  readonly cachedInputTokens?: Uint64;
  readonly reasoningTokens?: Uint64;
  /** JSON text, kept byte for byte; at most 16 KiB. */
  readonly detailsJson?: string;
}

interface PartBase {
  /** JSON text that the provider wants back with this part, kept byte for byte; at most 16 KiB. */
  readonly providerMetadataJson?: string;
}

export interface TextPart extends PartBase {
  readonly type: 'text';
  readonly text: string;
  readonly state?: string;
}
export interface ReasoningPart extends PartBase {
  readonly type: 'reasoning';
  readonly text?: string;
  /** The provider's proof of this reasoning, sent back unchanged. */
  readonly signature?: Uint8Array;
  readonly encrypted?: Uint8Array;
  readonly summary?: readonly string[];
  readonly id?: string;
  readonly state?: string;
}
export interface ToolCallPart extends PartBase {
  readonly type: 'tool-call';
  readonly callId: string;
  readonly name: string;
  /** As the model wrote them, valid JSON or not, kept byte for byte; at most 16 KiB. */
  readonly arguments: string;
  readonly id?: string;
  readonly state?: string;
  readonly providerExecuted?: boolean;
}
export interface ToolResultPart extends PartBase {
  readonly type: 'tool-result';
  readonly callId: string;
  readonly name?: string;
  /** At most one of the three: JSON text kept byte for byte, a text, or an error's text. */
  readonly outputJson?: string;
  readonly outputText?: string;
  readonly errorText?: string;
  readonly isError?: boolean;
  readonly id?: string;
  readonly state?: string;
}
export interface FilePart extends PartBase {
  readonly type: 'file';
  readonly mediaType?: string;
  readonly filename?: string;
  /** At most one of the three says where the file is. */
  readonly url?: string;
  readonly fileId?: string;
  readonly inlineData?: Uint8Array;
  readonly sizeBytes?: Uint64;
  readonly sha256?: Uint8Array;
}
export interface SourcePart extends PartBase {
  readonly type: 'source';
  readonly sourceId?: string;
  readonly kind?: string;
  readonly url?: string;
  readonly title?: string;
  readonly mediaType?: string;
  readonly filename?: string;
}
export interface DataPart extends PartBase {
  readonly type: 'data';
  readonly name: string;
  readonly id?: string;
  /** JSON text, kept byte for byte. */
  readonly json?: string;
}
export interface CustomPart extends PartBase {
  readonly type: 'custom';
  readonly kind: string;
  readonly json?: string;
  readonly binary?: Uint8Array;
}
/** A part that this version of the SDK does not know: its bytes, which are written back as they are. */
export interface UnknownPart {
  readonly type: 'unknown';
  readonly bytes: Uint8Array;
}

export type Part =
  | TextPart
  | ReasoningPart
  | ToolCallPart
  | ToolResultPart
  | FilePart
  | SourcePart
  | DataPart
  | CustomPart
  | UnknownPart;

/** What a message says. Absent fields are the empty ones of the protocol. */
export interface MessageContent {
  readonly role?: Role;
  readonly author?: string;
  readonly parts?: readonly Part[];
  readonly parent?: MessageRef;
  readonly replyTo?: MessageRef;
  /** JSON text, kept byte for byte; at most 16 KiB. */
  readonly metadataJson?: string;
  /** When the client says it happened, µs since 1970 (may be negative). */
  readonly clientTimeUs?: number;
  readonly usage?: Usage;
}

/**
 * A message to append.
 * @example { role: 'user', text: 'hello' }
 * @example { role: 'assistant', parts: [{ type: 'reasoning', text: '…' }, { type: 'text', text: 'hi' }] }
 */
export interface NewMessage extends MessageContent {
  /** Short for one text part; not together with `parts`. */
  readonly text?: string;
  /** Short for `metadataJson: JSON.stringify(…)`. */
  readonly metadata?: Json;
  /** Short for `clientTimeUs`. */
  readonly clientTime?: Date;
  /** `message-completed` if absent. */
  readonly type?: EventType;
  /** The application's idempotency key (at most 128 bytes), kept at least 24 hours. */
  readonly key?: string;
  /** The application's own id (at most 128 bytes), unique in its channel for ever. */
  readonly messageId?: string;
  /** Whose data this is (at most 128 bytes). */
  readonly subject?: string;
  /** The earlier event that this one is about. */
  readonly targetSeq?: number;
  /** Encoded content, sent as it is instead of the fields above: an export that is loaded again keeps its checksums. */
  readonly contentBytes?: Uint8Array;
}

export interface ServedBy {
  readonly nodeId: number;
  readonly role: 'unspecified' | 'primary' | 'secondary' | 'learner';
  readonly partition: number;
  readonly appliedIndex: number;
  /** How far behind the answer is at most; absent where it is not known. */
  readonly stalenessMs?: number;
  /** At least what the answer saw. The client's session keeps it by itself. */
  readonly commitToken: Uint8Array;
}

/** One record of a channel's log, its checksum verified. */
export interface Event {
  readonly seq: number;
  readonly type: EventType;
  readonly commitTimeUs: number;
  /** 0: none. */
  readonly producerId: number;
  readonly producerCounter: number;
  readonly actor: string;
  readonly subject: string;
  readonly targetSeq: number;
  readonly messageId: string;
  readonly key: string;
  readonly batchPosition: number;
  readonly erased: boolean;
  /** xxh64 of `contentBytes`. */
  readonly checksum: bigint;
  readonly commitment: Uint8Array;
  readonly salt: Uint8Array;
  /** What the client sent, byte for byte, fields unknown to this version included. */
  readonly contentBytes: Uint8Array;
  /** Decoded; absent for other types, erased content, and bytes that this version can't decode. */
  readonly message?: MessageContent;
}

export interface Participant {
  readonly id: string;
  readonly displayName: string;
  readonly role: string;
}

export interface ChannelInfo {
  readonly tenant: string;
  readonly name: string;
  readonly uid: string;
  readonly title: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly class: string;
  readonly participants: readonly Participant[];
  readonly createTimeUs: number;
  readonly updateTimeUs: number;
  /** Commit time of the last event, or of the creation. */
  readonly activityTimeUs: number;
  /** Seq of the first event: 1, unless a channel of that name was deleted before. */
  readonly firstSeq: number;
  /** `firstSeq - 1` while there is no event. */
  readonly headSeq: number;
  readonly lastMessageSeq: number;
  readonly messageCount: number;
  readonly etag: string;
  readonly partition: number;
  /** Since when it takes no more events, µs since 1970; 0: it does. */
  readonly sealTimeUs: number;
  /** When it was deleted, as `client.channels({ deleted: true })` tells; 0: it is there. */
  readonly deleteTimeUs: number;
  /** Until then `undelete()` brings it back; 0: it is there. */
  readonly purgeTimeUs: number;
}

export interface ClusterInfo {
  readonly clusterId: string;
  readonly incarnation: number;
  readonly answeredByNodeId: number;
  readonly version: string;
  readonly nodes: readonly NodeInfo[];
  readonly pools: readonly { name: string; partitionCount: number; replicationFactor: number }[];
  readonly partitionMapVersion: number;
  readonly partitions: readonly PartitionInfo[];
  /** Damaged replicas, by partition; they become sound by themselves. */
  readonly faults: readonly ReplicaFaultInfo[];
  /** Partitions that can elect no leader: damage is on a majority of their replicas. */
  readonly refused: readonly RefusedPartitionInfo[];
}
export interface RefusedPartitionInfo {
  readonly partition: number;
  readonly damagedNodeIds: readonly number[];
  /** Events behind `knownSeq` may be lost; as the answering node knows, of up to 100 channels. */
  readonly channels: readonly { tenant: string; channel: string; knownSeq: number }[];
  readonly moreChannels: boolean;
  readonly reason: string;
}
export interface ReplicaFaultInfo {
  readonly partition: number;
  readonly nodeId: number;
  readonly kind: 'unspecified' | 'state-damaged' | 'log-damaged' | 'term-or-vote-lost';
  readonly sinceTimeUs: number;
  /** Empty where another node than the answering one has it. */
  readonly reason: string;
}
export interface NodeInfo {
  readonly nodeId: number;
  readonly clientAddress: string;
  readonly peerAddress: string;
  readonly state: 'unspecified' | 'connected' | 'unreachable';
  readonly storeId: string;
  /** The newest apply version that it can carry out; 0: not told. */
  readonly applyVersion: number;
  /** Its disk has less room than its reserve: no appends there. */
  readonly diskFull: boolean;
}
export interface PartitionInfo {
  readonly pool: string;
  readonly partition: number;
  /** 0: unknown or none. */
  readonly leaderNodeId: number;
  readonly term: number;
  readonly replicas: readonly { replicaId: number; nodeId: number; learner: boolean }[];
  readonly commitIndex: number;
  readonly appliedIndex: number;
  /** What the answering node's replica is applied with; 0: none there. */
  readonly applyVersion: number;
}

export type MemberRole = 'unspecified' | 'voter' | 'learner' | 'incoming' | 'outgoing';

/** A partition as its leader sees it. */
export interface PartitionDetail extends PartitionInfo {
  readonly members: readonly {
    readonly replicaId: number;
    readonly nodeId: number;
    /** In a joint configuration `incoming` votes in the new half alone, `outgoing` in the old one. */
    readonly role: MemberRole;
    readonly connected: boolean;
    /** Entries up to here are known to be there; 0 where no leader answered. */
    readonly matchIndex: number;
    readonly caughtUp: boolean;
  }[];
  readonly answeredByNodeId: number;
  /** False: nobody's progress is known, and members may have changed since. */
  readonly toldByLeader: boolean;
  readonly joint: boolean;
  /** How often its members have changed since the cluster was made. */
  readonly changes: number;
}

export interface ChangedReplicas {
  /** All of it is in force. */
  readonly done: boolean;
  /** A learner that has to catch up first; 0: none. */
  readonly waitsForReplicaId: number;
}

export interface UpgradedCluster {
  readonly applyVersion: number;
  readonly partitions: readonly {
    readonly partition: number;
    /** `applyVersion` where nothing had to be done. */
    readonly fromVersion: number;
  }[];
}

export type ReadLevel = 'linearizable' | 'session' | 'bounded' | 'eventual';
export type ReadPreference =
  | 'primary'
  | 'primary-preferred'
  | 'secondary'
  | 'secondary-preferred'
  | 'nearest';

export interface ReadOptions {
  /**
   * Default `session` (the client's `readLevel`): sees this client's own writes, and never
   * less than its earlier reads. `linearizable`: every write acknowledged before the read
   * began. `bounded`: at most `maxStalenessMs` behind. `eventual`: what the replica has.
   */
  readonly level?: ReadLevel;
  /** Default: the leader for `linearizable`, else `nearest`. Reads spread over all that are near. */
  readonly preference?: ReadPreference;
  /** What the answer must include beside what the session knows: tokens of other clients' writes. */
  readonly commitTokens?: readonly Uint8Array[];
  /** For level `bounded`, which needs it. */
  readonly maxStalenessMs?: number;
  /** Default 5 s. */
  readonly timeoutMs?: number;
  /** Told who answered, once for each partition that was read. */
  readonly onServed?: (servedBy: ServedBy) => void;
}
