/** What the door packs from a request's bytes is the command that the plain encoder makes of the same request. */
import { createHash } from 'node:crypto';
import fc from 'fast-check';
import t from 'tap';
import { Checker } from '../../src/api/check.js';
import { packAppend } from '../../src/api/pack-append.js';
import { Rules } from '../../src/api/rules.js';
import { skimAppendHead } from '../../src/api/skim.js';
import { Tokens } from '../../src/api/tokens.js';
import { xxh64 } from '../../src/common/hash.js';
import { partitionOf, partitionOfBytes } from '../../src/common/partitioning.js';
import { loadPublicProtos } from '../../src/common/proto.js';
import { encodeAppend } from '../../src/conversation/append-command.js';
import { type AppendCommand, type AppendCondition, decodeCommand } from '../../src/conversation/command.js';
import type { EventType } from '../../src/conversation/types.js';

const protos = loadPublicProtos();
const encoders = protos as unknown as Record<string, { serialize(value: object): Buffer }>;
const encode = (name: string, value: object) => encoders[`hansard.v1.${name}`]?.serialize(value) as Buffer;
const checker = new Checker();
const rule = new Rules(protos).message('hansard.v1.MessageContent');
const sha256 = (...parts: Uint8Array[]) => {
  const hash = createHash('sha256');
  for (const part of parts) hash.update(part);
  return hash.digest();
};

const optional = <T>(arbitrary: fc.Arbitrary<T>) => fc.option(arbitrary, { nil: undefined });
const id = fc.string({ unit: fc.constantFrom('a', 'Z', '9', 'é', '你', '👍'), maxLength: 20 });
const text = fc.oneof(
  fc.string({ unit: 'grapheme', maxLength: 60 }),
  fc.nat(70_000).map((length) => 'x'.repeat(length)),
);
const message = fc.record({
  type: fc.constantFrom(1, 1, 1, 2, 4, 17),
  text,
  key: optional(id),
  messageId: optional(id),
  subject: optional(id),
  targetSeq: optional(fc.oneof(fc.nat(300), fc.maxSafeNat())),
  checksum: fc.constantFrom('right', 'zero', 'none'),
});
const channelName = fc.oneof(
  fc.string({ unit: fc.constantFrom('a', '{', '}', 'é', '/', '🙂'), minLength: 1, maxLength: 30 }),
  fc.constantFrom('user{42}/a', '{}', '}{', '{a', 'a{}{b}', '{{a}}'),
);
const condition = fc.oneof(
  fc.maxSafeNat().map((seq): AppendCondition => ({ kind: 'expectedHeadSeq', seq })),
  fc.nat(200).map((seq): AppendCondition => ({ kind: 'expectedLastMessageSeq', seq })),
  fc.constant<AppendCondition>({ kind: 'mustNotExist' }),
  fc.constant<AppendCondition>({ kind: 'mustExist' }),
);

function onTheWire(given: AppendCondition): object {
  switch (given.kind) {
    case 'expectedHeadSeq':
      return { expected_head_seq: given.seq };
    case 'expectedLastMessageSeq':
      return { expected_last_message_seq: given.seq };
    case 'mustNotExist':
      return { must_not_exist: true };
    case 'mustExist':
      return { must_exist: true };
  }
}

t.test('byte for byte, whatever a message has', async (t) => {
  fc.assert(
    fc.property(
      fc.record({
        tenant: fc.constantFrom('', 'default', 'acme-2'),
        channel: channelName,
        producer: optional(fc.record({ id: fc.integer({ min: 1 }), firstCounter: fc.integer({ min: 1 }) })),
        condition: optional(condition),
        messages: fc.array(message, { minLength: 1, maxLength: 5 }),
        copies: fc.constantFrom(1, 1, 1, 60),
      }),
      ({ tenant, channel, producer, condition, messages, copies }) => {
        const all = Array.from({ length: copies }, () => messages.map((one) => one)).flat();
        const contents = all.map((one) =>
          one.type <= 3
            ? encode('MessageContent', { role: 1, parts: [{ text: { text: one.text } }] })
            : Buffer.from(one.text, 'utf8'),
        );
        const request = encode('AppendMessagesRequest', {
          tenant,
          channel,
          ...(producer && {
            producer: { producer_id: producer.id, first_counter: producer.firstCounter },
          }),
          ...(condition && { condition: onTheWire(condition) }),
          messages: all.map((one, i) => {
            const content = contents[i] as Buffer;
            return {
              type: one.type,
              key: one.key ?? '',
              message_id: one.messageId ?? '',
              subject: one.subject ?? '',
              target_seq: one.targetSeq ?? 0,
              content_xxh64: one.checksum === 'right' ? xxh64(content).toString() : 0,
              ...(one.type <= 3
                ? { message: { role: 1, parts: [{ text: { text: one.text } }] } }
                : { raw: content }),
            };
          }),
        });
        const head = skimAppendHead(request);
        const packed = packAppend(request, head, checker, rule);
        const decoded = decodeCommand(packed.command, 0, packed.command.length) as AppendCommand;
        const expected = encodeAppend({
          tenant: tenant || 'default',
          channel,
          producer,
          condition,
          events: all.map((one, i) => {
            const content = contents[i] as Buffer;
            // Salts are the door's own: taken from what it made.
            const { contentOffset } = decoded.records[i] as AppendCommand['records'][number];
            const salt = packed.command.subarray(contentOffset, contentOffset + 16);
            return {
              type: one.type as EventType,
              content,
              contentXxh64: xxh64(content),
              salt,
              commitment: sha256(salt, content),
              key: one.key,
              keyDigest: sha256(content).subarray(0, 16),
              messageId: one.messageId,
              subject: one.subject,
              targetSeq: one.targetSeq,
            };
          }),
        });
        t.ok(packed.command.equals(expected), 'equal');
        t.equal(
          packed.allKeyed,
          all.every((one) => (one.key ?? '') !== ''),
        );
        t.equal(
          partitionOfBytes(head.tenant, request, head.channelFrom, head.channelTo, 64),
          partitionOf(tenant, channel, 64),
        );
        const salts = new Set(
          decoded.records.map(({ contentOffset: at }) => packed.command.toString('hex', at, at + 16)),
        );
        t.equal(salts.size, all.length, 'every message has its own salt');
      },
    ),
    { numRuns: 150 },
  );
});

t.test('the token of one append is the token of its one position', async (t) => {
  const tokens = new Tokens('cluster', 3);
  for (const [partition, index] of [
    [0, 1],
    [63, 1],
    [63, 2 ** 40],
    [1023, Number.MAX_SAFE_INTEGER],
  ] as const) {
    const token = tokens.commit(partition, index);
    t.same(token, tokens.commitOf(new Map([[partition, index]])));
    t.same(token, tokens.commit(partition, index));
    t.equal(tokens.merge([token]).get(partition), index);
  }
});
