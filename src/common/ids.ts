/**
 * The numbers that Hansard is made of. A flavoured number accepts a plain one
 * (so arithmetic stays readable) but never one of another flavour: a Term can't
 * be passed where an Index is wanted.
 */
type Flavor<Name extends string> = number & { readonly __flavor?: Name };

/** Raft term, from 1. */
export type Term = Flavor<'Term'>;
/** Place in a partition's Raft log, from 1; 0 is "before the first". */
export type Index = Flavor<'Index'>;
/** Place in a channel's log of events, from 1; 0 is "none". */
export type Seq = Flavor<'Seq'>;
/** Which partition of the pool, 0 … P - 1. */
export type PartitionId = Flavor<'PartitionId'>;
/** One replica of one partition; never used again once it is gone. 0: nobody. */
export type ReplicaId = Flavor<'ReplicaId'>;
/** One process of the cluster, from 1; 0: nobody. */
export type NodeId = Flavor<'NodeId'>;
/** A channel's internal number, unique in its partition for ever. */
export type ChannelId = Flavor<'ChannelId'>;
/** A producer's number, unique in the cluster (it holds its partition). */
export type ProducerId = Flavor<'ProducerId'>;
/** Microseconds since 1970 (fits a double until the year 2255). */
export type TimeUs = Flavor<'TimeUs'>;

/** A replica, where its partition does not go without saying. */
export interface HostedId {
  readonly partition: PartitionId;
  readonly replicaId: ReplicaId;
}
