import fc from 'fast-check';
import t from 'tap';
import { MalformedError } from '../../src/common/bytes.js';
import { HansardError, type Reason, reasons } from '../../src/common/errors.js';
import { loadPublicProtos } from '../../src/common/proto.js';
import { decodeStatus, encodeStatus } from '../../src/common/status.js';
import { timestampSize, varintSize, WireReader, writeTimestamp, writeVarint } from '../../src/common/wire.js';

type Codec = { serialize(value: object): Buffer; deserialize(bytes: Buffer): Record<string, unknown> };
const protos = loadPublicProtos() as unknown as Record<string, Codec>;

t.test('every error comes back from its status as it was', async (t) => {
  for (const reason of Object.keys(reasons) as Reason[]) {
    const error = new HansardError(reason, `what happened: ${reason}`, { channel: '#ubuntu', expected: 3 });
    const back = decodeStatus(encodeStatus(error));
    t.match(back, { reason, code: error.code, message: error.message }, reason);
    t.strictSame(back?.fields, { channel: '#ubuntu', expected: '3' });
  }
  const later = new HansardError('OVERLOADED', 'queue full', {}, { retryDelayMs: 1_250 });
  t.equal(decodeStatus(encodeStatus(later))?.retryDelayMs, 1_250);
  const status = protos['google.rpc.Status']?.deserialize(encodeStatus(later)) as {
    code: number;
    details: { type_url: string; value: Buffer }[];
  };
  t.equal(status.code, 8, 'a protobuf library reads the same');
  t.strictSame(protos['google.rpc.RetryInfo']?.deserialize(status.details[1]?.value as Buffer), {
    retry_delay: { seconds: '1', nanos: 250_000_000 },
  });
});

t.test(
  'an error can hold anything: long texts and lone surrogates reach the other side as text',
  async (t) => {
    const error = new HansardError('INVALID_NAME', `\ud800${'x'.repeat(5_000)}`, {
      field: 'y'.repeat(5_000),
    });
    const back = decodeStatus(encodeStatus(error));
    t.ok(back && back.message.length <= 1_024);
    t.doesNotThrow(() => encodeURI(back?.message ?? ''));
    t.ok(encodeStatus(error).length < 4_096, 'fits a header');
  },
);

t.test('garbage is no status', async (t) => {
  t.equal(decodeStatus(Buffer.from([0xff, 0xff, 0xff])), undefined);
  t.equal(decodeStatus(Buffer.alloc(0)), undefined);
});

t.test('the wire walker: numbers come back, garbage ends in MalformedError', async (t) => {
  fc.assert(
    fc.property(fc.maxSafeNat(), (value) => {
      const buffer = Buffer.alloc(10);
      const end = writeVarint(buffer, 0, value);
      return end === varintSize(value) && new WireReader(buffer, 0, end).varint() === value;
    }),
  );
  fc.assert(
    fc.property(fc.integer({ min: 0, max: 4e15 }), (timeUs) => {
      const buffer = Buffer.alloc(timestampSize(timeUs));
      if (writeTimestamp(buffer, 0, timeUs) !== buffer.length) return false;
      const back = protos['google.protobuf.Timestamp']?.deserialize(buffer) as {
        seconds: string;
        nanos: number;
      };
      return Number(back.seconds) * 1e6 + back.nanos / 1000 === timeUs;
    }),
  );
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 60 }), (bytes) => {
      const reader = new WireReader(Buffer.from(bytes));
      try {
        while (reader.next()) reader.skip();
      } catch (error) {
        return error instanceof MalformedError;
      }
      return reader.position === bytes.length;
    }),
    { numRuns: 2_000 },
  );
  const groups = new WireReader(Buffer.alloc(100_000, 0x0b));
  t.throws(() => groups.next() && groups.skip(), MalformedError, 'endless groups do not end the stack');
});
