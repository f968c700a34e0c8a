/**
 * A gRPC server that reads and forgets, for the transport's own rate: a process
 * of its own, started by upload.ts. It tells its port, then answers each message
 * of its one bidirectional method by its length.
 */
import { widenReceiveWindow } from '../../src/api/receive-window.js';
import { bound, rawServer } from './raw-stream.js';

export const sinkPath = '/hansard.bench.Sink/Take';

async function serve(windowBytes: number): Promise<void> {
  const server = rawServer(sinkPath, 64 * 1024 * 1024, (stream) => {
    stream.on('data', (message: Buffer) => {
      const answer = Buffer.alloc(4);
      answer.writeUInt32LE(message.length);
      stream.write(answer);
    });
    stream.on('end', () => stream.end());
    stream.on('error', () => {});
  });
  widenReceiveWindow(server, windowBytes);
  const port = await bound(server);
  process.send?.(port);
  process.once('disconnect', () => process.exit(0));
}

const windowArgument = process.argv[2];
if (process.send !== undefined && windowArgument !== undefined) await serve(Number(windowArgument));
