/** `hansard export`: every channel and every event as a line of JSON. */
import { createWriteStream, renameSync, rmSync, statSync } from 'node:fs';
import type { Writable } from 'node:stream';
import { finished } from 'node:stream/promises';
import { createGzip } from 'node:zlib';
import { HansardError } from '../../common/errors.js';
import type { ActionContext } from '../action.js';
import { channelLine } from '../channel-record.js';
import { exportLine } from '../export-line.js';
import { exportPages } from '../exporter.js';
import { count, durationText, type Output, writeAll } from '../output.js';
import { Progress } from '../progress.js';
import { type ClientOptions, exportSource, openSession } from '../session.js';

export interface ExportCommandOptions extends ClientOptions {
  readonly channel?: string;
  readonly prefix?: string;
  readonly full?: boolean;
  /** All tenants, into a folder. */
  readonly all?: boolean;
}

export async function exportEvents({
  output,
  options,
  args,
}: ActionContext<ExportCommandOptions>): Promise<undefined> {
  const file = args[0] ?? '-';
  const { channels, events, seconds } = await exportTo(file, options, output);
  // The result itself may be on stdout; what is said of it goes to stderr.
  if (file === '-') return;
  output.json({ file, channels, events, seconds: Number(seconds.toFixed(3)) });
  output.line(`${file}: ${count(events)} events of ${count(channels)} channels, ${durationText(seconds)}`);
}

export interface Exported {
  readonly channels: number;
  readonly events: number;
  readonly seconds: number;
}

/** One tenant's channels, all or those that are asked for. */
export async function exportTo(
  file: string,
  options: ExportCommandOptions,
  output: Output,
): Promise<Exported> {
  const session = openSession(options);
  const sink = openSink(file, output);
  let events = 0;
  let channels = 0;
  let bytes = 0;
  const progress = new Progress({
    stream: output.stderr,
    label: 'exporting',
    enabled: file !== '-' && !output.isJson,
    read: () => ({ bytes, totalBytes: undefined, messages: events }),
  });
  try {
    const source = exportSource(session);
    const names =
      options.channel === undefined
        ? source.channels(options.prefix ?? '')
        : [await session.client.channel(options.channel).info()];
    for await (const { channel, headSeq, isFirst, events: read } of exportPages(source, names)) {
      if (isFirst) channels++;
      const lines = read.map((event) => exportLine(channel.name, event, { full: options.full ?? false }));
      const text = `${isFirst ? channelLine(channel, headSeq) : ''}${lines.join('')}`;
      await sink.write(text);
      events += read.length;
      bytes += text.length;
    }
    await sink.close();
  } catch (error) {
    await sink.abandon();
    throw error;
  } finally {
    progress.stop();
    await session.close();
  }
  return { channels, events, seconds: progress.seconds };
}

interface Sink {
  write(text: string): Promise<void>;
  /** All is written: only now does the file take the place of one that was there, perhaps the last good backup. */
  close(): Promise<void>;
  abandon(): Promise<void>;
}

function openSink(file: string, output: Output): Sink {
  if (file === '-')
    return { write: (text) => writeAll(output.stdout, text), close: async () => {}, abandon: async () => {} };
  const path = isReplaced(file) ? `${file}.partial` : file;
  const target = createWriteStream(path);
  const gzip = file.endsWith('.gz') ? createGzip() : undefined;
  gzip?.pipe(target);
  const into: Writable = gzip ?? target;
  let failure: unknown;
  target.on('error', (error) => {
    failure = error;
    // Whoever waits for room must learn that none will come.
    gzip?.destroy(error);
  });
  gzip?.on('error', () => {});
  const check = (): void => {
    if (failure !== undefined)
      throw new HansardError(
        'INVALID_ARGUMENT',
        `${file} can not be written: ${(failure as Error).message}`,
        {
          field: 'FILE',
        },
      );
  };
  return {
    async write(text) {
      check();
      await writeAll(into, text).catch((error: unknown) => {
        failure ??= error;
      });
      check();
    },
    async close() {
      into.end();
      await finished(target).catch(() => {});
      check();
      if (path !== file) renameSync(path, file);
    },
    async abandon() {
      into.destroy();
      target.destroy();
      // Not opened after it was removed.
      await finished(target).catch(() => {});
      if (path !== file) rmSync(path, { force: true });
    },
  };
}

/** What is no file (a pipe, a device) is written as it is. */
function isReplaced(file: string): boolean {
  return statSync(file, { throwIfNoEntry: false })?.isFile() ?? true;
}
