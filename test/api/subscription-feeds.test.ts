/** Pages that a durable subscription reads ahead: whatever happens meanwhile, no place passes over what nobody took. */
import t from 'tap';
import { writePlace } from '../../src/api/feed-place.js';
import { Services } from '../../src/api/services.js';
import { SubscriptionFeeds } from '../../src/api/subscription-feeds.js';
import { ByteWriter } from '../../src/common/bytes.js';
import { HansardError } from '../../src/common/errors.js';
import type { PartitionId } from '../../src/common/ids.js';
import { loadPublicProtos } from '../../src/common/proto.js';
import type { SubscriptionState } from '../../src/conversation/subscription-state.js';
import type { ReadBarrierOptions, ReadView } from '../../src/node/types.js';
import { FakeNode } from './fake-node.js';
import { Harness, text } from './harness.js';

/** Reads of each partition wait until they are let go, or fail. */
class Gated extends FakeNode {
  readonly reads = new Map<PartitionId, { letGo(): void; fail(error: unknown): void }>();
  isGated = false;

  override async readBarrier(p: PartitionId, options: ReadBarrierOptions): Promise<ReadView> {
    if (this.isGated)
      await new Promise<void>((letGo, fail) => {
        this.reads.set(p, { letGo, fail });
      });
    return super.readBarrier(p, options);
  }
}

const settled = async (): Promise<void> => {
  for (let i = 0; i < 20; i++) await new Promise((resolve) => setImmediate(resolve));
};

t.test(
  'a page that is read while another feed fails is taken, or its place is not written down',
  async (t) => {
    const node = new Gated();
    const harness = await Harness.start(node);
    t.teardown(() => harness.stop());
    const channel = 'a';
    await harness.append({ channel, messages: [text('one'), text('two')] });
    const here = node.partitionOf('default', channel);
    const other = (here + 1) % node.partitionCount;

    const start = new ByteWriter(8);
    writePlace(start, { index: 0, events: 0 });
    const place = start.finish();
    const state = {
      tenant: 'default',
      selector: { channels: [], prefix: '', label: undefined, types: [] },
      fromTimeUs: 0,
      places: new Map([
        [here, place],
        [other, place],
      ]),
    } as unknown as SubscriptionState;
    node.isGated = true;
    const feeds = new SubscriptionFeeds(new Services(node, loadPublicProtos()), state, () => {});
    t.teardown(() => feeds.end());
    t.same(feeds.take(100), [], 'both are being read');
    await settled();
    node.reads.get(other)?.fail(new HansardError('TOKEN_TOO_OLD', 'its changes are gone'));
    await settled();
    t.ok(feeds.failure !== undefined);
    node.reads.get(here)?.letGo();
    await settled();
    t.same([...feeds.moved()], [], 'nobody took what was read');
    const taken = feeds.take(100);
    t.same(
      taken.map(({ partition, channels }) => [
        partition,
        channels.flatMap((one) => one.events).map(({ seq }) => seq),
      ]),
      [[here, [1, 2]]],
      'what was read before the failure was told is still worked off',
    );
  },
);
