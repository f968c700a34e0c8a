/** Deleting gives space back, without anything else being written. Real LevelDB. */
import { randomBytes } from 'node:crypto';
import { mkdtempSync, readdirSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t from 'tap';
import { silentLogger } from '../../src/common/logger.js';
import { encodeDeleteChannel } from '../../src/conversation/command.js';
import { realClock } from '../../src/node/real-env.js';
import { levelKvFactory } from '../../src/store/level-kv.js';
import { formatStore, openStore } from '../../src/store/store.js';
import { madeAppend, madeEntry, madeEvent } from '../conversation/make.js';
import { until } from '../support/until.js';
import { applyTo } from './help.js';

const MiB = 1024 * 1024;

t.test('the space of a deleted channel comes back by itself', async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'hansard-give-back-'));
  t.teardown(() => rmSync(folder, { recursive: true, force: true }));
  const ids = { clusterId: 'cluster', storeId: 'store' };
  const kv = await levelKvFactory({ writeBufferBytes: 4 * MiB, tableBytes: 2 * MiB }).open(folder, {
    create: true,
  });
  const confState = { voters: [1], votersOutgoing: [], learners: [], learnersNext: [], autoLeave: false };
  await formatStore({ kv, ...ids, partitions: [{ partition: 0, confState }] });
  const store = await openStore({ kv, ...ids, clock: realClock, logger: silentLogger });
  const partition = store.partition(0);
  // LevelDB may remove a file between the two calls.
  const size = () =>
    readdirSync(folder).reduce(
      (sum, name) => sum + (statSync(join(folder, name), { throwIfNoEntry: false })?.size ?? 0),
      0,
    );
  // Nothing that compresses.
  const noise = () => randomBytes(15_000).toString('base64');
  for (let n = 0; n < 60; n++) {
    const events = Array.from({ length: 25 }, () => madeEvent(noise()));
    applyTo(partition, madeEntry([madeAppend(n % 4 === 0 ? 'kept' : 'large', events)]));
    if (n % 10 === 9) await partition.checkpoint();
  }
  const before = size();
  t.ok(before > 20 * MiB, `${before} bytes are written`);
  const deletion = {
    tenant: 'default',
    channel: 'large',
    requestId: '',
    allowMissing: false,
    permanent: true,
  };
  applyTo(partition, madeEntry([encodeDeleteChannel(deletion)]));
  for (let i = 0; i < 5 && partition.dirtySinceMs !== undefined; i++) await partition.checkpoint();
  await until(`half of ${before} bytes is given back`, () => size() < before / 2);
  const kept = await partition.channelByName('default', 'kept');
  t.equal(kept?.headSeq, 375);
  await partition.digest();
  await store.close();
});
