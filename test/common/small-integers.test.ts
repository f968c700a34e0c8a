/**
 * Terms, indexes and counters stay what V8 keeps in place of a pointer: one that is boxed once makes every field boxed that it
 * is ever stored in, of each message and entry (src/raft/quorum.ts, `ofHalves`).
 */
import { setFlagsFromString } from 'node:v8';
import t from 'tap';
import { ByteReader, ByteWriter, ofHalves, readU48 } from '../../src/common/bytes.js';
import { majorityCommitted } from '../../src/raft/quorum.js';
import { MessageType, message } from '../../src/raft/types.js';
import { readU64BE, writeU64BE } from '../../src/store/keys.js';

/** Undefined: this Node can't tell. */
function smiTeller(): ((value: number) => boolean) | undefined {
  setFlagsFromString('--allow-natives-syntax');
  try {
    return new Function('value', 'return %IsSmi(value)') as (value: number) => boolean;
  } catch {
    return undefined;
  } finally {
    setFlagsFromString('--no-allow-natives-syntax');
  }
}

const isSmall = smiTeller();
const skip = isSmall === undefined ? 'this Node has no %IsSmi' : false;
const largeRound = 2 ** 41 + 5;

t.test('numbers that are read', { skip }, (t) => {
  const bytes = new ByteWriter()
    .u64(7)
    .u64(2 ** 40)
    .uvarint(300)
    .finish();
  const reader = new ByteReader(bytes);
  t.ok(isSmall?.(reader.u64()), 'eight bytes');
  t.equal(reader.u64(), 2 ** 40, 'large ones are what they were');
  t.ok(isSmall?.(reader.uvarint()), 'a varint');
  t.ok(isSmall?.(ofHalves(7, 0)));
  t.equal(ofHalves(3, 2), 2 * 2 ** 32 + 3);
  const six = Buffer.from([9, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6]);
  t.ok(isSmall?.(readU48(six, 0)), 'six bytes');
  t.equal(readU48(six, 6), six.readUIntLE(6, 6));
  const key = Buffer.alloc(8);
  writeU64BE(key, 12, 0);
  t.ok(isSmall?.(readU64BE(key, 0)), 'of a key');
  writeU64BE(key, largeRound, 0);
  t.equal(readU64BE(key, 0), largeRound);
  t.end();
});

t.test('a commit index, also after rounds that were large', { skip }, (t) => {
  const acks = new Map([
    [1, 10],
    [2, 12],
    [3, 11],
  ]);
  const rounds = { acked: () => largeRound };
  t.equal(majorityCommitted([1, 2, 3], rounds, []), largeRound);
  const index = majorityCommitted([1, 2, 3], { acked: (id) => acks.get(id) });
  t.equal(index, 11);
  t.ok(isSmall?.(index));
  t.end();
});

t.test("a message's context, also after one that was large", { skip }, (t) => {
  message(MessageType.MsgReadIndex, 1).context = largeRound;
  const heartbeat = message(MessageType.MsgHeartbeat, 2);
  heartbeat.context = 4;
  t.ok(isSmall?.(heartbeat.context));
  t.end();
});
