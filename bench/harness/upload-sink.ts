/**
 * A gRPC server that reads and forgets, for the transport's own rate: a process
 * of its own, started by upload.ts. It tells its port, then answers each message
 * of its one bidirectional method by its length.
 */
import { Server, ServerCredentials, type ServerDuplexStream } from '@grpc/grpc-js';
import { widenReceiveWindow } from '../../src/api/receive-window.js';

export const sinkPath = '/hansard.bench.Sink/Take';

const same = (bytes: Buffer): Buffer => bytes;

async function serve(windowBytes: number): Promise<void> {
  const server = new Server({ 'grpc.max_receive_message_length': 64 * 1024 * 1024 });
  server.addService(
    {
      Take: {
        path: sinkPath,
        requestStream: true,
        responseStream: true,
        requestSerialize: same,
        requestDeserialize: same,
        responseSerialize: same,
        responseDeserialize: same,
      },
    },
    {
      Take: (stream: ServerDuplexStream<Buffer, Buffer>) => {
        stream.on('data', (message: Buffer) => {
          const answer = Buffer.alloc(4);
          answer.writeUInt32LE(message.length);
          stream.write(answer);
        });
        stream.on('end', () => stream.end());
        stream.on('error', () => {});
      },
    },
  );
  widenReceiveWindow(server, windowBytes);
  const port = await new Promise<number>((resolve, reject) =>
    server.bindAsync('127.0.0.1:0', ServerCredentials.createInsecure(), (error, bound) =>
      error === null ? resolve(bound) : reject(error),
    ),
  );
  process.send?.(port);
  process.once('disconnect', () => process.exit(0));
}

const windowArgument = process.argv[2];
if (process.send !== undefined && windowArgument !== undefined) await serve(Number(windowArgument));
