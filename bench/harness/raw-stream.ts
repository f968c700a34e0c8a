/** A gRPC server of one bidirectional stream of bytes as they are: the other end of a measurement, without Hansard behind it. */
import { Server, ServerCredentials, type ServerDuplexStream } from '@grpc/grpc-js';

export type RawStream = ServerDuplexStream<Buffer, Buffer>;

const same = (bytes: Buffer): Buffer => bytes;

/** `path`: of the method, as on the wire. */
export function rawServer(path: string, messageBytesMax: number, serve: (stream: RawStream) => void): Server {
  const server = new Server({ 'grpc.max_receive_message_length': messageBytesMax });
  server.addService(
    {
      Serve: {
        path,
        requestStream: true,
        responseStream: true,
        requestSerialize: same,
        requestDeserialize: same,
        responseSerialize: same,
        responseDeserialize: same,
      },
    },
    { Serve: serve },
  );
  return server;
}

/** Its port, a free one of this machine's. */
export function bound(server: Server): Promise<number> {
  return new Promise((resolve, reject) =>
    server.bindAsync('127.0.0.1:0', ServerCredentials.createInsecure(), (error, port) =>
      error === null ? resolve(port) : reject(error),
    ),
  );
}
