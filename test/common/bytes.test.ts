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

t.test('a name that is read again is the same text, whatever was read at its place meanwhile', async (t) => {
  // Few bytes, so that names meet in one slot, and some that are no text.
  const byte = fc.constantFrom(0x61, 0x62, 0xc3, 0xa9, 0xe4, 0xff, 0x00);
  const raw = fc.uint8Array({ maxLength: 70 });
  fc.assert(
    fc.property(fc.array(fc.oneof(fc.array(byte, { maxLength: 9 }), raw), { maxLength: 60 }), (texts) => {
      const writer = new ByteWriter(1);
      for (const text of texts) writer.sized(Uint8Array.from(text));
      const bytes = writer.finish();
      const read = (how: 'name' | 'string') => {
        const reader = new ByteReader(bytes);
        return texts.map(() => {
          try {
            return reader[how]();
          } catch (error) {
            if (error instanceof MalformedError) return undefined;
            throw error;
          }
        });
      };
      t.strictSame(read('name'), read('string'));
      t.strictSame(read('name'), read('string'), 'also from what is kept');
    }),
  );
  // Alike but for bytes in the middle: one slot for both.
  const alike = ['room/1/123456', 'room/2/123456', 'room/1/123456'];
  const writer = new ByteWriter(1);
  for (const name of alike) writer.string(name);
  const reader = new ByteReader(writer.finish());
  t.strictSame([reader.name(), reader.name(), reader.name()], alike);
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
