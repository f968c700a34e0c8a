/** Units of events: what was written is read, whatever its contents; what claims more than it holds is refused. */
import t from 'tap';
import { ByteReader, ByteWriter, MalformedError } from '../../src/common/bytes.js';
import { xxh64 } from '../../src/common/hash.js';
import type { StoredEvent } from '../../src/conversation/types.js';
import { Codec, readUnit, writeUnit } from '../../src/store/block.js';

function eventsOf(contents: readonly Buffer[]): StoredEvent[] {
  return contents.map((content, n) => {
    const bytes = Buffer.concat([Buffer.from(`header ${n}`), content]);
    const headerLength = bytes.length - content.length;
    return {
      seq: 7 + n,
      commitTimeUs: 1_700_000_000_000_000 + n * n,
      producerId: n % 3,
      producerCounter: n % 3 === 0 ? 0 : 100 + n,
      bytes,
      headerOffset: 0,
      headerLength,
      contentBytes: bytes,
      contentOffset: headerLength,
      contentLength: content.length,
    };
  });
}

const plain = (event: StoredEvent) => [
  event.seq,
  event.commitTimeUs,
  event.producerId,
  event.producerCounter,
  Buffer.from(event.bytes)
    .subarray(event.headerOffset, event.headerOffset + event.headerLength)
    .toString('latin1'),
  Buffer.from(event.contentBytes)
    .subarray(event.contentOffset, event.contentOffset + event.contentLength)
    .toString('latin1'),
];

/** Of the content section: behind the header section's envelope and bytes. */
function contentSectionAt(unit: Buffer): number {
  return 17 + unit.readUInt32LE(5);
}

t.test('units read back, compressed and not', async (t) => {
  const noise = Buffer.from(Array.from({ length: 5_000 }, (_, i) => (i * 7919 * (i + 1)) >> 5));
  const cases: [string, Buffer[]][] = [
    [
      'text',
      Array.from({ length: 20 }, (_, n) => Buffer.from(`message ${n} says it again and again `.repeat(7))),
    ],
    ['empty', [Buffer.alloc(0), Buffer.alloc(0)]],
    ['one byte again and again', [Buffer.alloc(100_000, 7)]],
    ['noise', [noise, noise.subarray(1)]],
    ['just below what is compressed', [Buffer.alloc(255)]],
  ];
  for (const [what, contents] of cases) {
    for (const compress of [false, true]) {
      const writer = new ByteWriter();
      writeUnit(writer, eventsOf(contents), compress);
      const reader = new ByteReader(Buffer.from(writer.finish()));
      t.same(readUnit(reader).map(plain), eventsOf(contents).map(plain), `${what}, ${compress}`);
      reader.end();
    }
  }
});

t.test('a section whose lengths disagree is malformed, and nothing is allocated for it', async (t) => {
  const writer = new ByteWriter();
  writeUnit(writer, eventsOf([Buffer.alloc(4_000, 'text ')]), true);
  const unit = Buffer.from(writer.finish());
  const at = contentSectionAt(unit);
  t.equal(unit[at], Codec.lz4, 'compressed');
  const changed = (change: (copy: Buffer) => void) => {
    const copy = Buffer.from(unit);
    change(copy);
    return () => readUnit(new ByteReader(copy));
  };
  const dataAt = at + 17;
  for (const length of [0, 3_999, 4_001, 0xffff_ffff]) {
    t.throws(
      changed((copy) => copy.writeUInt32LE(length, dataAt)),
      MalformedError,
      `lz4's own length ${length}`,
    );
    t.throws(
      changed((copy) => copy.writeUInt32LE(length, at + 1)),
      MalformedError,
      `length ${length}`,
    );
    const both = changed((copy) => {
      copy.writeUInt32LE(length, dataAt);
      copy.writeUInt32LE(length, at + 1);
    });
    t.throws(both, MalformedError, `both ${length}`);
  }
  t.throws(
    changed((copy) => copy.writeUInt32LE(2, at + 5)),
    MalformedError,
    'cut',
  );
  t.throws(
    changed((copy) => copy.writeUInt8(2, at)),
    MalformedError,
    'a codec that nobody has',
  );
  for (let i = dataAt + 4; i < unit.length; i++) {
    t.throws(
      changed((copy) => copy.writeUInt8((copy[i] as number) ^ 0x10, i)),
      MalformedError,
      `byte ${i}`,
    );
  }
  // Offsets that reach before the beginning, as lz4 alone would see them.
  const hostile = Buffer.of(4, 0, 0, 0, 0x00, 0xff, 0xff);
  const section = new ByteWriter()
    .u8(Codec.lz4)
    .u32(4)
    .u32(hostile.length)
    .u64big(xxh64(Buffer.alloc(4)));
  const bytes = Buffer.concat([unit.subarray(0, at), section.bytes(hostile).finish()]);
  t.throws(() => readUnit(new ByteReader(bytes)), MalformedError);
});
