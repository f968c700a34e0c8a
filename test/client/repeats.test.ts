/**
 * Every unary call that changes something, its first answer lost when it is carried out: the SDK sends it again, to another leader, and
 * hears what it would have heard; it is carried out once. Also where somebody else has gone on meanwhile.
 */
import t from 'tap';
import type { Client } from '../../src/client/index.js';
import { HansardError } from '../../src/common/errors.js';
import { partitionOf } from '../../src/common/partitioning.js';
import { SubscriptionCommandKind } from '../../src/conversation/subscription-command.js';
import type { ProposeResult } from '../../src/node/types.js';
import { everyRpc } from '../cluster/every-rpc.js';
import { until } from '../support/until.js';
import { type Door, type Doors, start } from './doors.js';

t.setTimeout(300_000);

interface World {
  readonly client: Client;
  /** Goes by a door of its own, which loses nothing. */
  readonly other: Client;
  readonly doors: Doors;
}

interface Case {
  /** What it is called, beside its method, where there are several. */
  readonly what?: string;
  readonly prepare?: (world: World) => Promise<unknown>;
  /** Set: what is prepared is handed on. */
  readonly call: (world: World, prepared: unknown) => Promise<unknown>;
  /** By others, between the first attempt and the second. */
  readonly meanwhile?: (world: World) => Promise<unknown>;
  /** What there is afterwards. */
  readonly state?: (world: World) => Promise<unknown>;
  /** Steps of the subscription's leader are what is lost. */
  readonly isStep?: true;
}

const c = 'c';
const two = [{ text: 'one' }, { text: 'two' }];
const written = ({ other }: World) => other.channel(c).append(two);
const info = ({ other }: World) => other.channel(c).info();
const writtenInfo = (world: World) => written(world).then(() => info(world));
const deleted = (world: World) => written(world).then(() => world.other.channel(c).delete());
const subscription = ({ client }: Pick<World, 'client'>) => client.subscription('w');
const ofOthers = ({ other }: World) => other.subscription('w');
const made = (world: World) =>
  ofOthers(world).create({ prefix: c, fromBeginning: true, maxDeliveries: 1, retryDelayMs: 0 });
const about = (world: World) => ofOthers(world).info();

async function deadOf(world: World): Promise<number[]> {
  const seqs: number[] = [];
  for await (const { seq } of ofOthers(world).deadLetters()) seqs.push(seq);
  return seqs;
}

/** Two events that are dead letters. */
async function withDeadLetters(world: World): Promise<void> {
  await written(world);
  await made(world);
  const worker = ofOthers(world).consume({ handler: () => Promise.reject(new Error('no')) });
  await until('both are dead', async () => (await deadOf(world)).length === 2);
  await worker.stop();
}

/** A consumer that has both events, and its lease. */
async function withLease(world: World): Promise<number> {
  await written(world);
  await made(world);
  const worker = ofOthers(world).consume({ handler: () => new Promise(() => undefined) });
  // It ends with its client.
  worker.done.catch(() => undefined);
  const partition = world.doors.nodes[0]?.partitions[partitionOf('acme', 'w', 4)];
  const lease = () => partition?.subscription('acme', 'w')?.channels.get(c)?.lease;
  await until('its lease', () => lease() !== undefined);
  return lease()?.number ?? 0;
}

/** From which version each came is told by whoever raised it; a repeat finds some of them raised. */
async function upgraded(client: Client): Promise<unknown> {
  const { applyVersion, partitions } = await client.upgradeCluster();
  return { applyVersion, partitions: partitions.map(({ partition }) => partition) };
}

/** Its doors reach each other, as one carries it out for all partitions. */
function atVersionOne({ doors }: World): void {
  for (const door of doors.nodes) for (const peer of doors.nodes) door.peers.set(peer.identity.nodeId, peer);
  for (const { meta } of doors.nodes[0]?.partitions ?? []) meta.settings.applyVersion = 1;
}

function versions({ doors }: World): (number | undefined)[] {
  return (doors.nodes[0]?.partitions ?? []).map(({ meta }) => meta.settings.applyVersion);
}

const cases: Readonly<Record<string, readonly Case[]>> = {
  'MessageService/AppendMessages': [
    { call: ({ client }) => client.channel(c).append(two), state: info },
    {
      what: 'with a key',
      call: ({ client }) => client.channel(c).append({ text: 'x' }, { key: 'k' }),
      state: info,
    },
  ],
  'MessageService/AppendBatch': [
    {
      call: ({ client }) =>
        client.appendBatch([
          { channel: '{g}/a', messages: two },
          { channel: '{g}/b', messages: two, condition: { mustNotExist: true } },
        ]),
      state: ({ other }) => other.channel('{g}/b').info(),
    },
  ],
  'MessageService/OpenProducer': [
    {
      call: ({ client }) => client.openProducer('importer').append(c, two),
      state: info,
    },
  ],
  'ChannelService/CreateChannel': [
    { call: ({ client }) => client.createChannel(c, { title: 't' }) },
    {
      what: 'deleted meanwhile',
      call: ({ client }) => client.createChannel(c, { title: 't' }),
      meanwhile: ({ other }) => other.channel(c).delete(),
    },
  ],
  'ChannelService/UpdateChannel': [
    {
      what: 'with an etag',
      prepare: writtenInfo,
      call: ({ client }, before) =>
        client.channel(c).update({ title: 'new', etag: (before as { etag: string }).etag }),
      state: info,
    },
    {
      what: 'changed meanwhile',
      prepare: written,
      call: async ({ client }) => (await client.channel(c).update({ title: 'new' })).name,
      meanwhile: ({ other }) => other.channel(c).update({ title: 'newer' }),
      state: info,
    },
    {
      what: 'deleted meanwhile',
      prepare: written,
      call: ({ client }) => client.channel(c).update({ title: 'new' }),
      meanwhile: ({ other }) => other.channel(c).delete(),
    },
  ],
  'ChannelService/DeleteChannel': [
    { prepare: written, call: ({ client }) => client.channel(c).delete() },
    {
      what: 'with an etag',
      prepare: writtenInfo,
      call: ({ client }, before) => client.channel(c).delete({ etag: (before as { etag: string }).etag }),
    },
    {
      what: 'for good',
      prepare: written,
      call: ({ client }) => client.channel(c).delete({ permanent: true }),
    },
    {
      what: 'for good, what was deleted before',
      prepare: deleted,
      call: ({ client }) => client.channel(c).delete({ permanent: true }),
    },
    {
      what: 'made anew meanwhile',
      prepare: written,
      call: async ({ client }) => (await client.channel(c).delete({ permanent: true })).headSeq,
      meanwhile: written,
      state: info,
    },
  ],
  'ChannelService/UndeleteChannel': [
    {
      prepare: deleted,
      call: ({ client }) => client.channel(c).undelete(),
      state: info,
    },
    {
      what: 'deleted again meanwhile',
      prepare: deleted,
      call: async ({ client }) => (await client.channel(c).undelete()).name,
      meanwhile: ({ other }) => other.channel(c).delete(),
    },
  ],
  'ChannelService/SealChannel': [
    {
      what: 'with an etag',
      prepare: writtenInfo,
      call: ({ client }, before) => client.channel(c).seal({ etag: (before as { etag: string }).etag }),
      state: info,
    },
  ],
  'InboxService/MoveReadCursor': [
    { prepare: written, call: ({ client }) => client.channel(c).markRead('ann', 2) },
    {
      what: 'back, and on meanwhile',
      prepare: (world) => written(world).then(() => world.other.channel(c).markRead('ann', 1)),
      call: async ({ client }) => {
        await client.channel(c).markRead('ann', 0, { allowBack: true });
      },
      meanwhile: ({ other }) => other.channel(c).markRead('ann', 2),
      state: async ({ other }) => (await other.channel(c).readCursors()).cursors,
    },
  ],
  'DeliveryService/ReportDelivery': [
    {
      prepare: written,
      call: ({ client }) =>
        client
          .channel(c)
          .reportDelivery('ann', { upToSeq: 2, failed: [{ seq: 1, reason: 'r', attempts: 1 }] }),
    },
  ],
  'ClusterService/UpgradeCluster': [
    {
      prepare: async (world) => atVersionOne(world),
      call: ({ client }) => upgraded(client),
      state: async (world) => versions(world),
    },
    {
      what: 'raised by others meanwhile',
      prepare: async (world) => atVersionOne(world),
      call: ({ client }) => upgraded(client),
      meanwhile: ({ other }) => upgraded(other),
      state: async (world) => versions(world),
    },
  ],
  'SubscriptionService/CreateSubscription': [
    { call: (world) => subscription(world).create({ prefix: c }) },
    {
      what: 'changed meanwhile',
      call: async (world) => (await subscription(world).create({ prefix: c })).name,
      meanwhile: (world) => ofOthers(world).update({ paused: true }),
      state: about,
    },
  ],
  'SubscriptionService/UpdateSubscription': [
    { prepare: made, call: (world) => subscription(world).update({ paused: true }), state: about },
    {
      what: 'of its selector',
      prepare: made,
      call: (world) => subscription(world).update({ prefix: 'd' }),
      state: about,
    },
    {
      what: 'changed meanwhile',
      prepare: made,
      call: async (world) => (await subscription(world).update({ paused: true })).name,
      meanwhile: (world) => ofOthers(world).update({ paused: false }),
      state: about,
    },
  ],
  'SubscriptionService/DeleteSubscription': [
    {
      what: 'with an etag',
      prepare: made,
      call: async (world) => subscription(world).delete({ etag: (await about(world)).etag }),
    },
    {
      what: 'made anew meanwhile',
      prepare: made,
      call: (world) => subscription(world).delete(),
      meanwhile: made,
      state: about,
    },
  ],
  'SubscriptionService/SeekSubscription': [
    {
      what: 'with an etag',
      prepare: made,
      call: async (world) => subscription(world).seek({ etag: (await about(world)).etag }),
      state: about,
    },
    {
      what: 'set elsewhere meanwhile',
      prepare: made,
      call: async (world) => (await subscription(world).seek({})).name,
      meanwhile: (world) => ofOthers(world).seek({ fromBeginning: true }),
      state: about,
    },
  ],
  'SubscriptionService/ReplayDeadLetters': [
    {
      prepare: withDeadLetters,
      call: (world) => subscription(world).replayDeadLetters(),
      state: deadOf,
    },
    {
      what: 'dropping one',
      prepare: withDeadLetters,
      call: (world) => subscription(world).dropDeadLetters([{ channel: c, seq: 1 }]),
      state: deadOf,
    },
  ],
  'SubscriptionService/Acknowledge': [
    {
      isStep: true,
      prepare: withLease,
      call: (world, lease) =>
        subscription(world).acknowledge([{ channel: c, lease: lease as number, seq: 2 }]),
    },
  ],
  'SubscriptionService/NegativeAcknowledge': [
    {
      isStep: true,
      prepare: withLease,
      call: (world, lease) =>
        subscription(world).negativeAcknowledge([{ channel: c, lease: lease as number, delayMs: 60_000 }]),
    },
  ],
  'SubscriptionService/ExtendDeadline': [
    {
      isStep: true,
      prepare: withLease,
      call: (world, lease) => subscription(world).extendDeadline([{ channel: c, lease: lease as number }]),
    },
  ],
};

/** Calls that change nothing; and those whose repeats test/node/members.test.ts and scrub.test.ts look at. */
const others = new Set([
  'MessageService/GetMessage',
  'MessageService/BatchGetMessages',
  'MessageService/ListMessages',
  'ChannelService/GetChannel',
  'ChannelService/ListChannels',
  'ClusterService/GetCluster',
  'ClusterService/GetPartition',
  'ClusterService/ChangeReplicas',
  'DeliveryService/ListDeliveries',
  'EventService/FetchEvents',
  'InboxService/ListReadCursors',
  'InboxService/GetInbox',
  'ReplicaService/ListReplicaChannels',
  'ReplicaService/ReadReplicaEvents',
  'ReplicaService/DigestReplica',
  'ReplicaService/ScrubNode',
  'SubscriptionService/GetSubscription',
  'SubscriptionService/ListSubscriptions',
  'SubscriptionService/ListPending',
  'SubscriptionService/ListDeadLetters',
]);

t.test('every unary method is looked at', async (t) => {
  const unary = everyRpc().filter(({ isStream }) => !isStream);
  const missing = unary
    .map(({ path }) => path.replace('hansard.v1.', ''))
    .filter((method) => !others.has(method) && cases[method] === undefined);
  t.same(missing, []);
});

type Fault = 'unknown' | 'killed';

/** The first answer is lost once: its leader does not know the outcome, or dies, and another one leads. */
class LostAnswer {
  isArmed = false;
  count = 0;

  constructor(
    readonly world: World,
    readonly fault: Fault,
    readonly one: Case,
  ) {
    for (const door of world.doors.nodes) {
      const propose = door.propose.bind(door);
      door.propose = (partition, command, options) =>
        this.#isIt(command)
          ? this.#lose(door, propose(partition, command, options))
          : propose(partition, command, options);
    }
  }

  #isIt(command: Uint8Array): boolean {
    return (
      this.isArmed && (command[0] === SubscriptionCommandKind.stepSubscription) === (this.one.isStep ?? false)
    );
  }

  async #lose(door: Door, applied: Promise<ProposeResult>): Promise<ProposeResult> {
    this.isArmed = false;
    this.count++;
    await applied;
    await this.one.meanwhile?.(this.world);
    const next = this.world.doors.nodes.find((each) => each !== door) as Door;
    this.world.doors.lead(next.identity.nodeId);
    if (this.fault === 'killed') void door.kill();
    throw new HansardError('COMMIT_UNKNOWN', 'its leader is gone');
  }
}

/** As it can be compared between two clusters: without what times and tokens are. */
function plain(value: unknown): unknown {
  return JSON.parse(
    JSON.stringify(value ?? null, (key, field) => {
      if (/^(commitToken|servedBy|uid|channelUid|etag|progress|duplicate|.*TimeUs)$/.test(key))
        return undefined;
      return typeof field === 'bigint' ? `${field}` : field;
    }),
  );
}

async function lived(one: Case, fault: Fault | undefined): Promise<unknown> {
  const ended: (() => unknown)[] = [];
  const { doors, client, writer: other } = await start({ teardown: (fn) => ended.push(fn) }, 2);
  const world = { doors, client, other };
  try {
    const prepared = await one.prepare?.(world);
    const lost = fault === undefined ? undefined : new LostAnswer(world, fault, one);
    if (lost !== undefined) lost.isArmed = true;
    const result = await one.call(world, prepared);
    if (lost === undefined) await one.meanwhile?.(world);
    else if (lost.count !== 1) throw new Error('no answer was lost');
    return plain({ result, state: await one.state?.(world) });
  } finally {
    for (const end of ended) await end();
  }
}

for (const [method, list] of Object.entries(cases)) {
  t.test(method, async (t) => {
    for (const one of list) {
      const expected = await lived(one, undefined);
      // Whatever the answer, what is lost with a node is lost in the same way: once for each method.
      const faults = one === list[0] ? (['unknown', 'killed'] as const) : (['unknown'] as const);
      for (const fault of faults) {
        const found = await lived(one, fault).catch((error) => error);
        t.same(found, expected, `${one.what ?? 'plain'}, ${fault}`);
      }
    }
  });
}
