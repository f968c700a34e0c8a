/** Formats a store in argv[2], applies and seals for ever, and prints each index that is sealed; to be killed. */
import { silentLogger } from '../../src/common/logger.js';
import { levelKvFactory } from '../../src/store/level-kv.js';
import { formatStore, openStore } from '../../src/store/store.js';
import { applyTo, confState, entryNumber, ids, TurnClock } from './help.js';

const kv = await levelKvFactory().open(process.argv[2] ?? '', { create: true });
await formatStore({ kv, ...ids, partitions: [{ partition: 0, confState }] });
const store = await openStore({ kv, ...ids, clock: new TurnClock(), logger: silentLogger });
const partition = store.partition(0);
// Bounded, should nobody come to kill it.
const endMs = Date.now() + 180_000;
while (Date.now() < endMs) {
  for (let i = 0; i < 20; i++) applyTo(partition, entryNumber(partition.appliedIndex + 1));
  await partition.checkpoint();
  process.stdout.write(`${partition.sealedIndex}\n`);
}
