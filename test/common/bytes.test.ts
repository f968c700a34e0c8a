import fc from 'fast-check';
import t from 'tap';
import { ByteReader, ByteWriter, MalformedError } from '../../src/common/bytes.js';

t.test('what a writer writes, a reader reads', async (t) => {
  fc.assert(
    fc.property(
      fc.array(
        fc.tuple(
          fc.nat({ max: 255 }),
          fc.maxSafeNat(),
          fc.uint8Array({ maxLength: 300 }),
          fc.string({ unit: 'grapheme' }),
        ),
      ),
      (rows) => {
        const writer = new ByteWriter(1);
        for (const [byte, number, bytes, text] of rows) {
          writer.u8(byte).u64(number).uvarint(number).sized(bytes).string(text);
        }
        const reader = new ByteReader(writer.finish());
        for (const [byte, number, bytes, text] of rows) {
          if (reader.u8() !== byte || reader.u64() !== number || reader.uvarint() !== number) return false;
          if (Buffer.compare(reader.sized(), bytes) !== 0 || reader.string() !== text) return false;
        }
        reader.end();
        return true;
      },
    ),
  );
  t.pass('round trip');
});

t.test('damaged bytes end in MalformedError, never in a read past the end', async (t) => {
  const cases: [string, Uint8Array, (r: ByteReader) => unknown][] = [
    ['cut number', Uint8Array.of(1, 2, 3), (r) => r.u32()],
    ['endless varint', new Uint8Array(12).fill(0xff), (r) => r.uvarint()],
    ['length beyond the end', Uint8Array.of(200, 1, 0), (r) => r.sized()],
    ['lone continuation byte in a text', Uint8Array.of(1, 0x80), (r) => r.string()],
    ['number beyond 2^53', new Uint8Array(8).fill(0xff), (r) => r.u64()],
  ];
  for (const [name, bytes, read] of cases) t.throws(() => read(new ByteReader(bytes)), MalformedError, name);
});
