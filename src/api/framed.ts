/**
 * A message that goes to many streams, or is large. grpc-js frames what it sends anew for each of
 * them: a buffer, a copy, a stream in between. Here it is framed once and handed to
 * the HTTP/2 stream beneath the call, which takes a fifth to a quarter of what
 * a delivered event costs (`npm run bench -- fan-out`).
 *
 * The field that leads there is not public in grpc-js (seen in 1.14). Where a version lacks it, messages go
 * the public way as before; test/api/tail.test.ts fails then, which looks whether it is in use.
 */
import type { ServerHttp2Stream } from 'node:http2';
import { Metadata, type ServerDuplexStream } from '@grpc/grpc-js';
import type { Response } from './calls.js';

/** Of a gRPC message: a byte that says whether it is compressed, and its length. */
export const messageHeadBytes = 5;

export class OutMessage {
  readonly bytes: Buffer;
  #framed: Buffer | undefined;

  constructor(bytes: Buffer) {
    this.bytes = bytes;
  }

  /** Of bytes that have room for the head before them: they are copied no more. */
  static behindRoom(bytes: Buffer): OutMessage {
    const message = new OutMessage(bytes.subarray(messageHeadBytes));
    message.#framed = withHead(bytes);
    return message;
  }

  get framed(): Buffer {
    if (this.#framed === undefined) {
      this.#framed = withHead(Buffer.allocUnsafe(messageHeadBytes + this.bytes.length));
      this.bytes.copy(this.#framed, messageHeadBytes);
    }
    return this.#framed;
  }
}

/** A response of its own, ready for the stream. */
export function framedResponse(response: Response): Buffer {
  const framed = Buffer.allocUnsafe(messageHeadBytes + response.length);
  if (response instanceof Uint8Array) framed.set(response, messageHeadBytes);
  else response.writeTo(framed, messageHeadBytes);
  return withHead(framed);
}

function withHead(framed: Buffer): Buffer {
  framed[0] = 0;
  framed.writeUInt32BE(framed.length - messageHeadBytes, 1);
  return framed;
}

/** Writes the messages of one call, all of them: the two ways must not be mixed. */
export class FramedWriter {
  readonly #call: ServerDuplexStream<Buffer, Buffer>;
  readonly #stream: ServerHttp2Stream | undefined;
  #hasBegun = false;

  constructor(call: ServerDuplexStream<Buffer, Buffer>) {
    this.#call = call;
    const inner = (call as { call?: { stream?: ServerHttp2Stream } }).call?.stream;
    if (typeof inner?.respond === 'function') this.#stream = inner;
  }

  get isDirect(): boolean {
    return this.#stream !== undefined;
  }

  /** As `write` of a stream: false means that no more should be written until it has drained. */
  write(message: OutMessage, onWritten: () => void): boolean {
    const stream = this.#stream;
    if (stream === undefined) return this.#call.write(message.bytes, onWritten);
    // The call has ended beneath (its deadline, its connection) and will say so in a moment.
    if (stream.destroyed || stream.closed || stream.writableEnded) return false;
    if (!this.#hasBegun) this.#call.sendMetadata(new Metadata());
    this.#hasBegun = true;
    return stream.write(message.framed, onWritten);
  }
}
