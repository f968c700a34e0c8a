/**
 * CPU of the SDK per append, without any network: encoding and checksum, the
 * frame, and the answer's decoding. `node dist/bench/client-encode.js`
 */
import { type Answered, type Call, decodeFrame, encodeFrame } from '../src/client/frames.js';
import { encodeAppend, encodeTarget, methods } from '../src/client/requests.js';
import { readAppendResponse } from '../src/client/responses.js';
import { ProtoReader } from '../src/client/wire-reader.js';
import { producerId } from '../src/conversation/names.js';

const chunks = 400;
const perChunk = 20;
const perFrame = 64;
const prefix = encodeTarget('', 'bench/channel-1');
const text = 'x'.repeat(200);
// AppendMessagesResponse { first_seq, count, commit_token, channel_uid }
const uid = Buffer.from('c0001000000000001');
const response = Buffer.concat([
  Buffer.from([8, 0xe8, 7, 16, 1, 34, 16]),
  Buffer.alloc(16, 7),
  Buffer.from([58, uid.length]),
  uid,
]);

function answers(firstId: number): Buffer {
  const parts: Buffer[] = [];
  for (let i = 0; i < perFrame; i++) {
    const id = firstId + i;
    const idBytes = [8, (id & 0x7f) | 0x80, ((id >> 7) & 0x7f) | 0x80, (id >> 14) & 0x7f];
    const body = Buffer.concat([Buffer.from(idBytes), Buffer.from([42, response.length]), response]);
    parts.push(Buffer.from([10, body.length]), body);
  }
  return Buffer.concat(parts);
}

/** The lowest of many short runs: other processes disturb few of them. */
function measure(name: string, run: (round: number) => void): number {
  let best = Number.POSITIVE_INFINITY;
  for (let chunk = 0; chunk < chunks; chunk++) {
    const before = performance.now();
    for (let i = 0; i < perChunk; i++) run(chunk * perChunk + i);
    best = Math.min(best, ((performance.now() - before) * 1_000) / (perChunk * perFrame));
  }
  console.log(`${name.padEnd(44)} ${best.toFixed(2)} us per append`);
  return best;
}

const calls = (): Call[] =>
  Array.from({ length: perFrame }, (_, i) => {
    const encoded = encodeAppend(prefix, [{ role: 'user', author: 'ann', text }], undefined);
    return {
      ...encoded,
      method: methods.append,
      producerId: producerId(7, 1),
      counter: 1 + i,
      timeoutMs: 5_000,
      patienceMs: 5_000,
      answered() {},
      failed() {},
    };
  });
const made = calls();
const answered = answers(20_000);
let sink = 0;
const reader: Answered = {
  answered(_, bytes, from, to) {
    sink += readAppendResponse(new ProtoReader(bytes, undefined, from, to)).seqs.length;
  },
  failed() {},
};
const encode = measure('encode and checksum (200 bytes of text)', () => {
  sink += calls().length;
});
const frame = measure(`frame of ${perFrame}`, (round) => {
  sink += encodeFrame(made, 20_000 + round).length;
});
const decode = measure('decode the answer', () => {
  decodeFrame(answered, reader);
});
console.log(
  `${'together'.padEnd(44)} ${(encode + frame + decode).toFixed(2)} us per append${sink === 0 ? '?' : ''}`,
);
