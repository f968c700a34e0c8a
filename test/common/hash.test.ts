/** Checksums in place are those of the reference implementation, whatever lies around them. */
import fc from 'fast-check';
import t from 'tap';
import { areLoadedEntriesSound, entryChecksum } from '../../src/common/entry-checksum.js';
import { xxh32, xxh64, xxh64Seeded } from '../../src/common/hash.js';
import {
  dropScratch,
  isAsciiLoaded,
  loadScratch,
  putXxh64,
  rowMatches,
  xxh32OfNotes,
  xxh64Equals,
} from '../../src/common/hash-scratch.js';

const anyBytes = fc.uint8Array({ maxLength: 400 }).map((bytes) => Buffer.from(bytes));

t.test('xxh64 by offset is that of the package, loaded or not', async (t) => {
  fc.assert(
    fc.property(anyBytes, fc.nat(40), fc.nat(40), fc.boolean(), (content, before, after, isLoaded) => {
      const bytes = Buffer.concat([Buffer.alloc(before + 8, 7), content, Buffer.alloc(after, 9)]);
      bytes.writeBigUInt64LE(xxh64(content), before);
      if (isLoaded) loadScratch(bytes, before, bytes.length);
      else dropScratch();
      const from = before + 8;
      const to = from + content.length;
      const isEqual = xxh64Equals(bytes, from, to, before);
      const target = Buffer.alloc(10);
      putXxh64(bytes, from, to, target, 1);
      return isEqual && target.readBigUInt64LE(1) === xxh64(content);
    }),
  );
  t.pass('equal');
});

t.test('a byte that changed is found, in content or checksum', async (t) => {
  fc.assert(
    fc.property(
      fc.uint8Array({ minLength: 1, maxLength: 300 }),
      fc.nat(),
      fc.nat(7),
      (content, place, bit) => {
        const bytes = Buffer.concat([Buffer.alloc(8), content]);
        bytes.writeBigUInt64LE(xxh64(content), 0);
        const at = place % bytes.length;
        bytes[at] = (bytes[at] as number) ^ (1 << bit);
        loadScratch(bytes, 0, bytes.length);
        return !xxh64Equals(bytes, 8, bytes.length, 0);
      },
    ),
  );
  t.pass('found');
});

t.test('what was not loaded is never taken from what was', async (t) => {
  const one = Buffer.from('12345678the one');
  const other = Buffer.from('12345678another');
  one.writeBigUInt64LE(xxh64(one.subarray(8)), 0);
  other.writeBigUInt64LE(xxh64(one.subarray(8)), 0);
  loadScratch(one, 0, one.length);
  t.equal(xxh64Equals(one, 8, one.length, 0), true);
  t.equal(xxh64Equals(other, 8, other.length, 0), false);
  t.equal(isAsciiLoaded(other, 8, other.length), false, 'not known');
  // More than the memory holds is hashed piece by piece.
  const large = Buffer.alloc(5 * 1024 * 1024, 'x');
  large.writeBigUInt64LE(xxh64(large.subarray(8)), 0);
  loadScratch(large, 0, large.length);
  t.equal(xxh64Equals(large, 8, large.length, 0), true);
  large[large.length - 1] = 0;
  t.equal(xxh64Equals(large, 8, large.length, 0), false);
});

t.test('xxh32 of notes, and ASCII or not', async (t) => {
  fc.assert(
    fc.property(anyBytes, fc.nat(400), (bytes, more) => {
      const notes = Buffer.concat([bytes, Buffer.alloc(more)]);
      const isEqual = xxh32OfNotes(notes, bytes.length) === xxh32(bytes);
      loadScratch(notes, 0, notes.length);
      const isAscii = isAsciiLoaded(notes, 0, bytes.length);
      return isEqual && isAscii === bytes.every((byte) => byte < 0x80);
    }),
  );
  t.pass('equal');
});

t.test('entries of the log are judged in place as they are one by one', async (t) => {
  const anyEntries = fc.array(
    fc.tuple(fc.nat(0xff), fc.integer({ min: 0, max: 2 ** 48 - 1 }), fc.uint8Array({ maxLength: 80 })),
    {
      minLength: 1,
      maxLength: 5,
    },
  );
  // Also where the indexes' low half runs over.
  const anyFirst = fc.oneof(
    fc.nat(),
    fc.integer({ min: 2 ** 32 - 3, max: 2 ** 32 }),
    fc.integer({ min: 2 ** 40, max: 2 ** 52 }),
  );
  fc.assert(
    fc.property(
      anyEntries,
      anyFirst,
      fc.nat(65_535),
      fc.nat(50),
      fc.nat(),
      (entries, first, partition, before, flip) => {
        const parts = entries.map(([type, term, data], i) => {
          const header = Buffer.alloc(16);
          header.writeUInt32LE(entryChecksum(partition, { term, index: first + i, type, data }), 0);
          header.writeUInt32LE(data.length, 4);
          header.writeUIntLE(term, 8, 6);
          header[14] = type;
          return Buffer.concat([header, data]);
        });
        const bytes = Buffer.concat([Buffer.alloc(before), ...parts]);
        const areSound = (from = before, to = bytes.length, at = first, count = entries.length) => {
          loadScratch(bytes, 0, bytes.length);
          return areLoadedEntriesSound(bytes, from, to, partition, at, count);
        };
        if (!areSound()) return false;
        dropScratch();
        if (areLoadedEntriesSound(bytes, before, bytes.length, partition, first, entries.length))
          return false;
        // Elsewhere, more of them than there are, fewer, or cut short.
        if (
          areSound(before, bytes.length, first + 1) ||
          areSound(before, bytes.length, first, entries.length + 1)
        )
          return false;
        if (areSound(before, bytes.length, first, entries.length - 1) || areSound(before, bytes.length - 1))
          return false;
        const at = before + (flip % (bytes.length - before));
        // The zero byte of a header is the batch's to cover.
        const starts = parts.map((_, i) => before + Buffer.concat(parts.slice(0, i)).length);
        if (starts.includes(at - 15)) return true;
        bytes[at] = (bytes[at] as number) ^ 0x10;
        return !areSound();
      },
    ),
  );
  t.pass('equal');
});

t.test('a row of the database is judged in place as it is by the package', async (t) => {
  fc.assert(
    fc.property(anyBytes, anyBytes, fc.nat(255), fc.nat(), (key, body, version, flip) => {
      const row = Buffer.concat([Buffer.of(version), Buffer.alloc(8), body]);
      row.writeBigUInt64LE(xxh64Seeded(body, xxh64Seeded(key, BigInt(version))), 1);
      const loaded = Buffer.from('loaded before');
      loadScratch(loaded, 0, loaded.length);
      if (rowMatches(key, row) !== true || !isAsciiLoaded(loaded, 0, loaded.length)) return false;
      const all = Buffer.concat([key, row]);
      const at = flip % all.length;
      all[at] = (all[at] as number) ^ 0x04;
      return rowMatches(all.subarray(0, key.length), all.subarray(key.length)) === false;
    }),
  );
  t.equal(rowMatches(Buffer.alloc(10), Buffer.alloc(70_000)), undefined, 'too large: not known');
});
