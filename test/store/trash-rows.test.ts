/** Rows of channels that are sealed or may come back, and of a partition that lists them: their bytes, for ever. */
import t from 'tap';
import { ByteReader, ByteWriter } from '../../src/common/bytes.js';
import { initialMembership } from '../../src/common/membership.js';
import { initialMeta } from '../../src/conversation/settings.js';
import {
  channelRowVersion,
  type PartitionRecord,
  partitionRowVersion,
  readChannel,
  readPartition,
  type SealedChannel,
  writeChannel,
  writePartition,
} from '../../src/store/state-codec.js';

const goldenChannel =
  '070764656661756c74016311633030303130303030303030303030303700000101610162000100000000000000020000000000000003000000000000000606020307010000040105ac02e803000000000000d007000000000000';
const goldenPartition =
  '03000100000009020101000000000000000000000000000000000000000001010103800800c0ae3b2800000000a0e3d08c00000000020101050000000000000001000002000002000101010009010764656661756c740163d007000000000000';

t.test('a channel row of version 4', async (t) => {
  const channel: SealedChannel = {
    state: {
      id: 7,
      tenant: 'default',
      name: 'c',
      uid: 'c0001000000000007',
      title: '',
      labels: [['a', 'b']],
      class: '',
      participants: [],
      createTimeUs: 1,
      updateTimeUs: 2,
      activityTimeUs: 3,
      baseSeq: 4,
      headSeq: 6,
      lastMessageSeq: 6,
      messageCount: 2,
      revision: 3,
      sealedTimeUs: 1_000,
      deletedTimeUs: 2_000,
    },
    deleted: false,
    openFirstSeq: 7,
    blockCount: 1,
    smallBlocks: [{ firstSeq: 5, weight: 300 }],
    openUnit: undefined,
  };
  t.equal(channelRowVersion(channel), 4);
  const writer = new ByteWriter();
  writeChannel(writer, channel);
  const bytes = Buffer.from(writer.finish());
  t.equal(bytes.toString('hex'), goldenChannel);
  t.same(readChannel(new ByteReader(bytes), 4), channel);
  // The same channel, neither sealed nor deleted, is a row of an earlier version.
  const { sealedTimeUs: _sealed, deletedTimeUs: _deleted, ...state } = channel.state;
  t.equal(channelRowVersion({ ...channel, state }), 3);
});

t.test('a partition row that lists what may come back', async (t) => {
  const confState = { voters: [1], votersOutgoing: [], learners: [], learnersNext: [], autoLeave: false };
  const trash = [{ tenant: 'default', name: 'c', deletedTimeUs: 2_000 }];
  const meta = initialMeta(3);
  const record = {
    partition: 3,
    generation: 1,
    appliedIndex: 9,
    appliedTerm: 2,
    confState,
    membership: initialMembership(confState),
    meta: { ...meta, settings: { ...meta.settings, applyVersion: 3 }, channelCount: 1, trash },
    producerCount: 0,
    eventCount: 2,
    termCount: 1,
    endedCount: 0,
    firstCheckpoint: 1,
    lastCheckpoint: 1,
    lastDigest: 5n,
    nextRun: 1,
    changesFrom: 0,
    changesTo: 9,
    runs: [],
    retired: [],
  } as unknown as PartitionRecord;
  const version = partitionRowVersion(record);
  t.ok(version >= 5);
  const writer = new ByteWriter();
  writePartition(writer, record);
  const bytes = Buffer.from(writer.finish());
  t.equal(bytes.toString('hex'), goldenPartition);
  t.match(readPartition(new ByteReader(bytes), version), { meta: { trash, channelCount: 1 } });
});
