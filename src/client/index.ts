/** The TypeScript SDK of Hansard. See README.md in this folder. */
export { Code, HansardError, type Reason, reasons } from '../common/errors.js';
export {
  type AppendOptions,
  type AppendResult,
  type Channel,
  type DeleteOptions,
  type ListCursorsOptions,
  Listing,
  type ListOptions,
  type MarkReadOptions,
  type Page,
  type StateOptions,
} from './channel.js';
export type { DeletedChannel } from './channel-responses.js';
export {
  type BatchItem,
  type ChannelPage,
  type Client,
  type CreateChannelOptions,
  connect,
  type InboxOptions,
  type ListChannelsOptions,
} from './client.js';
export { fromUIMessage, fromUIMessages, toUIMessage, type UIMessageLike } from './convert/ai-sdk.js';
export { fromResponseItem, fromResponseItems, toResponseItem, toResponseItems } from './convert/openai.js';
export type { DeliverOptions, DeliveryHandler } from './deliver.js';
export type {
  Delivery,
  DeliveryPage,
  DeliveryQuery,
  DeliveryReport,
  DeliveryState,
  FailedEvent,
  ReportedDelivery,
} from './delivery.js';
export type { SubscribedEvents } from './follow-responses.js';
export type { CursorPage, InboxEntry, MovedCursor, ReadCursor } from './inbox.js';
export { parseMetadata } from './metadata.js';
export { type ClientOptions, clientDefaults, parseTarget } from './options.js';
export type { NamedProducer, ProducerAppendOptions, ProducerAppendResult } from './producers.js';
export type {
  AppendCondition,
  ChannelChanges,
  ChannelQuery,
  NewChannel,
  ReplicaChange,
  SubscribeFilter,
  UpgradeRequest,
} from './requests.js';
export {
  type SubscribedEvent,
  type SubscribeOptions,
  Subscription,
  type SubscriptionUpdate,
} from './subscribe.js';
export {
  type ConsumeOptions,
  type CreateSubscriptionOptions,
  DurableSubscription,
  type SubscriptionStart,
} from './subscription.js';
export type {
  DeadLetter,
  PendingChannel,
  SubscriptionIdle,
  SubscriptionInfo,
  SubscriptionProgress,
  SubscriptionSelector,
  SubscriptionSettings,
} from './subscription-types.js';
export { RetryLater, SubscriptionWorker, type WorkerStats, type WorkItem } from './subscription-worker.js';
export { Tail, type TailOptions, type TailUpdate } from './tail.js';
export type * from './types.js';
