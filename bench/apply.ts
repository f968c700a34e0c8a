/**
 * Cost of applying alone, on the model state: `node dist/bench/apply.js [seconds]`.
 * An entry has 64 appends of one message of 200 bytes, or one append of 64.
 */
import { encodeAppend } from '../src/conversation/append-command.js';
import { applyEntry } from '../src/conversation/apply.js';
import { encodeEntry, encodeOpenProducer, readEntry } from '../src/conversation/command.js';
import { decodeEntry } from '../src/conversation/decoded-entry.js';
import { lookupsOf } from '../src/conversation/lookups.js';
import type { ChannelState, StoredEvent } from '../src/conversation/types.js';
import { madeEvent } from '../test/conversation/make.js';
import { ModelState } from '../test/conversation/model-state.js';

const seconds = Number(process.argv[2] ?? 1);
const perEntry = 64;
const stretches = 12;
const startUs = 1_700_000_000_000_000;

/** The model without its hex copies of events, which would cost more than applying. */
class BenchState extends ModelState {
  last: StoredEvent | undefined;
  override append(_channel: ChannelState, event: StoredEvent): void {
    this.last = event;
  }
}

interface Shape {
  readonly name: string;
  readonly batch: boolean;
  readonly producer: boolean;
  readonly keys: boolean;
}

const shapes: Shape[] = [
  { name: '64 appends of 1', batch: false, producer: false, keys: false },
  { name: '64 appends of 1, producer', batch: false, producer: true, keys: false },
  { name: '64 appends of 1, producer, key', batch: false, producer: true, keys: true },
  { name: '1 append of 64, producer', batch: true, producer: true, keys: false },
];

for (const shape of shapes) {
  const count = Math.ceil(seconds * 2000);
  const entries = makeEntries(shape, count);
  const commands = entries.map((data) => commandsOf(data));
  const encode = measure(commands, (packed) => encodeEntry(packed, startUs, 1));
  const lookups = measure(entries, (data) => lookupsOf(decodeEntry(data)));
  const state = new BenchState();
  applyEntry(state, {
    index: 1,
    term: 1,
    data: encodeEntry([encodeOpenProducer('default', '')], startUs, 1),
  });
  const apply = measure(entries, (data) => {
    const { answers } = applyEntry(state, { index: 1, term: 1, data });
    if (answers[0]?.kind !== 'appended') throw new Error(JSON.stringify(answers[0]));
  });
  const costs = `apply with decoding ${apply.toFixed(2)}, decoding and lookups ${lookups.toFixed(2)}, entry encoded ${encode.toFixed(2)} µs per message`;
  console.log(`${shape.name.padEnd(32)} ${costs}`);
}

function commandsOf(data: Uint8Array): Uint8Array[] {
  const bytes = Buffer.from(data);
  const { bounds } = readEntry(bytes);
  return Array.from({ length: bounds.length / 2 }, (_, i) =>
    bytes.subarray(bounds[2 * i], bounds[2 * i + 1]),
  );
}

function makeEntries({ batch, producer, keys }: Shape, count: number): Uint8Array[] {
  let counter = 0;
  const event = madeEvent('x'.repeat(200), keys ? { key: 'k' } : {});
  const perAppend = batch ? perEntry : 1;
  return Array.from({ length: count }, (_, n) => {
    const commands: Uint8Array[] = [];
    for (let i = 0; i < perEntry; i += perAppend) {
      const events = Array.from({ length: perAppend }, (_, e) =>
        keys ? { ...event, key: `k${n}.${i + e}` } : event,
      );
      const stamp = producer ? { id: 1, firstCounter: counter + 1 } : undefined;
      counter += perAppend;
      commands.push(encodeAppend({ tenant: 'default', channel: `room/${n % 100}`, producer: stamp, events }));
    }
    return encodeEntry(commands, startUs + n, 1);
  });
}

/** µs of CPU per message, of the best of several stretches; the first few warm up. */
function measure<T>(inputs: readonly T[], run: (input: T) => unknown): number {
  let best = Number.POSITIVE_INFINITY;
  for (let stretch = 0; stretch < stretches; stretch++) {
    const each = Math.floor(inputs.length / stretches);
    const start = process.cpuUsage();
    for (let i = stretch * each; i < (stretch + 1) * each; i++) run(inputs[i] as T);
    const { user, system } = process.cpuUsage(start);
    if (stretch > 2) best = Math.min(best, (user + system) / each / perEntry);
  }
  return best;
}
