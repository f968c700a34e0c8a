/** Speaks with a peers' port as nobody in particular. */
import { once } from 'node:events';
import { connect } from 'node:net';
import { encodeRecord, preface, RecordKind, RecordReader } from '../../src/transport/tcp-records.js';

/** Says `bytes` and gathers what comes back until the end. */
export async function say(
  address: string,
  bytes: Buffer,
): Promise<{ opened: boolean; records: [number, string][] }> {
  const [host, port] = [address.split(':')[0], Number(address.split(':')[1])];
  const socket = connect(port, host);
  socket.on('error', () => {});
  socket.write(bytes);
  const heard = { opened: false, records: [] as [number, string][] };
  const reader = new RecordReader(1 << 20, {
    onPreface: () => {
      heard.opened = true;
    },
    onRecord: (kind, payload) => heard.records.push([kind, payload.toString('utf8')]) > 0,
  });
  socket.on('data', (chunk) => reader.take(chunk));
  await once(socket, 'close');
  return heard;
}
/** What a dialler says first. */
export const greeting = (hello: Uint8Array): Buffer =>
  Buffer.concat([preface, encodeRecord(RecordKind.hello, hello)]);
