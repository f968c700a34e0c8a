/**
 * `hansard import`. A file is read twice: once for its hash (the producer's
 * name) and to find bad lines before anything is sent, once to send it.
 */
import { createHash } from 'node:crypto';
import { createWriteStream, statSync, type WriteStream } from 'node:fs';
import { join } from 'node:path';
import { Writable } from 'node:stream';
import { finished } from 'node:stream/promises';
import { HansardError, type Reason, reasons } from '../../common/errors.js';
import type { ActionContext } from '../action.js';
import { ExportSections, type ImportedChannel } from '../channel-record.js';
import { ExitCode } from '../exit-codes.js';
import { readManifest } from '../export-manifest.js';
import {
  exportedHint,
  type Ignored,
  type ImportedMessage,
  type ParseOptions,
  parseLine,
} from '../import-line.js';
import { Importer } from '../importer.js';
import { type Line, openLines } from '../json-lines.js';
import { BadLine } from '../line-fields.js';
import { count, durationText, Output } from '../output.js';
import { Progress } from '../progress.js';
import { type ClientOptions, importTarget, openSession } from '../session.js';
import { recreationOf } from '../subscription-record.js';

interface ImportOptions extends ClientOptions {
  readonly name?: string;
  readonly exported?: boolean;
  /** A folder of `export --all`. */
  readonly all?: boolean;
  readonly skipBad?: boolean;
  readonly acks?: string;
  readonly inFlight: number;
  readonly patience: number;
}

/** Bad lines that are shown; all are counted. */
const badLinesShown = 10;

interface Source {
  readonly file: string;
  readonly parse: ParseOptions;
  readonly skipBad: boolean;
}

interface Survey {
  readonly producerName: string;
  readonly totalBytes: number | undefined;
  readonly hash: string | undefined;
}

export async function importFile(context: ActionContext<ImportOptions>): Promise<ExitCode> {
  const { output, options, args } = context;
  if (options.all === true) return importAll(context);
  const file = args[0] ?? '-';
  if (file === '-' && options.name === undefined)
    throw new HansardError(
      'INVALID_ARGUMENT',
      'stdin can be read only once: give the import a name with --name',
      {
        field: '--name',
      },
    );
  const ignored: Ignored = new Map();
  const source: Source = {
    file,
    parse: { exported: options.exported ?? false, ignored },
    skipBad: options.skipBad ?? false,
  };
  const survey = file === '-' ? surveyOfStdin(options) : await surveyFile(source, options, output);
  const session = await openSession({ ...options, timeout: options.patience });
  const acks = options.acks === undefined ? undefined : new AckFile(options.acks);
  try {
    const importer = new Importer(await importTarget(session, options.timeout * 1000), {
      producerName: survey.producerName,
      maxBytesInFlight: options.inFlight * 1024 * 1024,
      onAck: (message, seq, checksum) => acks?.write(message, seq, checksum),
    });
    return await send(source, survey, importer, output);
  } finally {
    await acks?.close();
    await session.close();
  }
}

/** Every tenant of an export of all, one after the other; each goes on where it was if the command is repeated. */
async function importAll(context: ActionContext<ImportOptions>): Promise<ExitCode> {
  const { output, options, args } = context;
  const folder = args[0] ?? '-';
  if (options.name !== undefined || options.acks !== undefined)
    throw new HansardError('INVALID_ARGUMENT', '--all takes neither --name nor --acks', { field: '--all' });
  const { tenants } = await readManifest(folder);
  let worst: ExitCode = ExitCode.ok;
  for (const { tenant, file, subscriptions = [] } of tenants) {
    output.note(`tenant ${tenant}`);
    const { all: _all, ...rest } = options;
    const one = { ...rest, tenant, exported: true };
    const code = await importFile({ output, options: one, args: [join(folder, file)] });
    if (code === ExitCode.interrupted) return code;
    worst = Math.max(worst, code) as ExitCode;
    if (subscriptions.length > 0 && !(await makeSubscriptions(one, subscriptions, output)))
      worst = Math.max(worst, ExitCode.failed) as ExitCode;
  }
  return worst;
}

/**
 * Behind the events, and paused at their beginning: how far they had been cannot be told by the seqs and times that events have here,
 * and neither is anything passed over nor done again before somebody says so. Those that are there stay as they are. One that is refused
 * takes no other with it, and makes this false.
 */
async function makeSubscriptions(
  options: ClientOptions,
  records: readonly unknown[],
  output: Output,
): Promise<boolean> {
  const { client, timeoutMs, close } = openSession(options);
  let made = 0;
  let kept = 0;
  const refused: { subscription: string; reason: Reason; message: string }[] = [];
  try {
    for (const [i, record] of records.entries()) {
      let subscription = `number ${i + 1} of the export`;
      try {
        const { name, options: settings } = recreationOf(record);
        subscription = name;
        const place = { fromBeginning: true, paused: true };
        await client.subscription(name).create({ ...settings, ...place, timeoutMs });
        made++;
      } catch (error) {
        // What time or another node may mend is no refusal: the command is to be repeated.
        if (!(error instanceof HansardError) || reasons[error.reason].retry !== 'no') throw error;
        const { reason, message } = error;
        if (reason === 'SUBSCRIPTION_EXISTS') kept++;
        else refused.push({ subscription, reason, message });
      }
    }
  } finally {
    await close();
    for (const { subscription, reason, message } of refused)
      output.warn(`durable subscription ${subscription} was not made: ${message} (${reason})`);
  }
  output.json({
    tenant: options.tenant,
    subscriptions_made: made,
    subscriptions_kept: kept,
    subscriptions_refused: refused,
  });
  output.line(
    `tenant ${options.tenant}: ${count(made)} durable subscriptions made, ${count(kept)} were there${refused.length === 0 ? '' : `, ${count(refused.length)} were refused`}`,
  );
  if (made > 0)
    output.note(
      'they are paused at the beginning: `hansard subscriptions seek NAME` passes over what is loaded, then `update NAME --resume-delivery`',
    );
  return refused.length === 0;
}

/** The same without a word, for what loads a file of its own. `messages` counts those that were there before, too. */
export async function importSummary(
  file: string,
  endpoint: string,
): Promise<{ channels: number; messages: number }> {
  let text = '';
  const stdout = new Writable({
    write(chunk: Buffer, _encoding, done) {
      text += chunk.toString('utf8');
      done();
    },
  });
  const output = new Output({ json: true, stdout });
  const patience = 60;
  const options = { endpoint, tenant: 'default', timeout: 10, patience, inFlight: 4, json: true };
  await importFile({ output, options, args: [file] });
  const { channels, added, before } = JSON.parse(text) as Record<'channels' | 'added' | 'before', number>;
  return { channels, messages: added + before };
}

function surveyOfStdin(options: ImportOptions): Survey {
  return { producerName: producerNameOf(options.name ?? ''), totalBytes: undefined, hash: undefined };
}

/** The hash is of the unpacked content, so that packing a file anew does not make it another. */
async function surveyFile(source: Source, options: ImportOptions, output: Output): Promise<Survey> {
  const totalBytes = sizeOf(source.file);
  const hash = createHash('sha256');
  const lines = openLines(source.file, (chunk) => hash.update(chunk));
  let messages = 0;
  const sections = new ExportSections();
  const bad: BadLine[] = [];
  let badCount = 0;
  const noteBad = (work: () => void): void => {
    try {
      work();
    } catch (error) {
      if (!(error instanceof BadLine)) throw error;
      if (error.problem === exportedHint)
        throw new HansardError('INVALID_ARGUMENT', `${source.file}: ${error.message}`, {
          field: '--exported',
        });
      badCount++;
      if (bad.length < badLinesShown) bad.push(error);
    }
  };
  const progress = new Progress({
    stream: output.stderr,
    label: 'checking ',
    enabled: !output.isJson,
    read: () => ({ bytes: lines.bytesRead, totalBytes, messages }),
  });
  try {
    for await (const chunk of lines.lines())
      for (const line of chunk)
        noteBad(() => {
          const parsed = checked(line, source, sections);
          if (parsed !== undefined && isMessage(parsed)) messages++;
        });
    noteBad(() => sections.end());
  } finally {
    progress.stop();
  }
  source.parse.ignored.clear();
  if (badCount > 0) reportBad(source, bad, badCount, output);
  const digest = hash.digest('hex');
  return { producerName: producerNameOf(options.name ?? digest), totalBytes, hash: digest };
}

function reportBad(source: Source, bad: readonly BadLine[], badCount: number, output: Output): void {
  for (const line of bad) output.warn(`${source.file}: ${line.message}`);
  if (badCount > bad.length) output.warn(`… and ${badCount - bad.length} more bad lines`);
  if (source.skipBad) return;
  throw new HansardError(
    'INVALID_ARGUMENT',
    `${source.file}: ${badCount} bad line${badCount === 1 ? '' : 's'}, the first is ${bad[0]?.message}; nothing was imported. Mend them, or leave them out with --skip-bad`,
    { field: 'FILE', line: bad[0]?.line ?? 0, bad_lines: badCount },
  );
}

async function send(source: Source, survey: Survey, importer: Importer, output: Output): Promise<ExitCode> {
  const hash = createHash('sha256');
  const lines = openLines(source.file, (chunk) => hash.update(chunk));
  const progress = new Progress({
    stream: output.stderr,
    label: 'importing',
    enabled: !output.isJson,
    read: () => ({
      bytes: lines.bytesRead,
      totalBytes: survey.totalBytes,
      messages: importer.added + importer.before + importer.repeated + importer.refused,
    }),
  });
  let interrupted = false;
  const onSignal = (): void => {
    interrupted = true;
  };
  process.once('SIGINT', onSignal);
  let skipped = 0;
  try {
    skipped = await sendLines(source, lines, importer, () => interrupted);
    await importer.finish();
    if (!interrupted) await importer.sealChannels();
  } catch (error) {
    await importer.settle();
    progress.stop();
    output.note(
      `${count(importer.added)} messages were added before this; run the same command again to go on`,
    );
    throw error instanceof BadLine
      ? new HansardError('INVALID_ARGUMENT', `${source.file}: ${error.message}`, {
          field: 'FILE',
          line: error.line,
        })
      : error;
  } finally {
    process.off('SIGINT', onSignal);
    progress.stop();
  }
  if (!interrupted && survey.hash !== undefined && hash.digest('hex') !== survey.hash)
    throw new HansardError(
      'INVALID_ARGUMENT',
      `${source.file} changed while it was imported; import a copy that stays as it is`,
      {
        field: 'FILE',
      },
    );
  report(source, survey, importer, { skipped, seconds: progress.seconds, interrupted }, output);
  if (interrupted) return ExitCode.interrupted;
  return importer.refused > 0 ? ExitCode.conflict : ExitCode.ok;
}

/** Returns how many lines were left out. */
async function sendLines(
  source: Source,
  lines: ReturnType<typeof openLines>,
  importer: Importer,
  isInterrupted: () => boolean,
): Promise<number> {
  let skipped = 0;
  const sections = new ExportSections();
  for await (const chunk of lines.lines()) {
    for (const line of chunk) {
      if (isInterrupted()) return skipped;
      let parsed: ImportedMessage | ImportedChannel | undefined;
      try {
        parsed = checked(line, source, sections);
      } catch (error) {
        if (!(error instanceof BadLine) || !source.skipBad) throw error;
        skipped++;
      }
      if (parsed === undefined) continue;
      if (isMessage(parsed)) await importer.add(parsed);
      else await importer.addChannel(parsed);
    }
  }
  sections.end();
  return skipped;
}

/** Throws BadLine, also where an export's lines don't follow each other; with --skip-bad they need not. */
function checked(
  line: Line,
  { parse, skipBad }: Source,
  sections: ExportSections,
): ImportedMessage | ImportedChannel | undefined {
  const parsed = parseLine(line, parse);
  if (parsed === undefined || skipBad) return parsed;
  if (!isMessage(parsed)) sections.channel(parsed);
  else if (parsed.exported !== undefined) sections.event(parsed.line, parsed.channel, parsed.exported.seq);
  return parsed;
}

function isMessage(parsed: ImportedMessage | ImportedChannel): parsed is ImportedMessage {
  return 'message' in parsed;
}

function report(
  source: Source,
  survey: Survey,
  importer: Importer,
  run: { skipped: number; seconds: number; interrupted: boolean },
  output: Output,
): void {
  const { added, before, repeated, refused } = importer;
  const rate = run.seconds > 0 ? added / run.seconds : 0;
  output.json({
    file: source.file,
    producer: survey.producerName,
    channels: importer.channels,
    added,
    before,
    repeated_by_key: repeated,
    refused,
    refusals: importer.refusals,
    channels_kept: importer.kept,
    channels_not_sealed: importer.unsealed,
    channels_renumbered: importer.renumbered,
    stale_references: importer.staleReferences,
    skipped_lines: run.skipped,
    ignored_fields: Object.fromEntries(source.parse.ignored),
    seconds: Number(run.seconds.toFixed(3)),
    interrupted: run.interrupted,
  });
  const parts = [`${count(added)} added`, `${count(before)} were there before`];
  if (repeated > 0) parts.push(`${count(repeated)} repeats by key`);
  if (refused > 0) parts.push(`${count(refused)} refused`);
  if (run.skipped > 0) parts.push(`${count(run.skipped)} bad lines left out`);
  output.line(
    `${source.file}: ${parts.join(', ')}; ${count(importer.channels)} channels, ${durationText(run.seconds)}${added > 0 ? `, ${count(rate)} messages/s` : ''}`,
  );
  for (const [field, times] of source.parse.ignored)
    output.warn(`the field "${field}" has no place in a message and was ignored (${count(times)} times)`);
  if (importer.kept > 0)
    output.warn(
      `${count(importer.kept)} channels were there with other titles, labels or participants, and keep them`,
    );
  if (importer.unsealed > 0)
    output.warn(
      `${count(importer.unsealed)} channels were sealed where they were exported and are not here: they are gone, or have other events`,
    );
  if (importer.renumbered > 0)
    output.warn(
      `${count(importer.renumbered)} channels begin with another seq here: their events have new numbers`,
    );
  if (importer.staleReferences > 0)
    output.warn(`${count(importer.staleReferences)} messages of those refer to others by the old numbers`);
  for (const r of importer.refusals)
    output.warn(`line ${r.line}, channel ${r.channel}: ${r.message} (${r.reason})`);
  if (run.interrupted) output.note('interrupted; run the same command again to go on');
}

function producerNameOf(name: string): string {
  return `import:${name}`;
}

function sizeOf(file: string): number | undefined {
  // Whatever is wrong with the file, reading it says so better.
  return statSync(file, { throwIfNoEntry: false })?.size;
}

/** Acknowledgements as JSON Lines, each written as it arrives; a resumed import adds to the file. */
class AckFile {
  readonly #stream: WriteStream;
  #failure: unknown;
  constructor(name: string) {
    this.#stream = createWriteStream(name, { flags: 'a' });
    this.#stream.on('error', (error) => {
      this.#failure ??= error;
    });
  }
  write(message: ImportedMessage, seq: number, checksum: bigint): void {
    if (this.#failure !== undefined) throw this.#failure;
    const content_xxh64 = checksum.toString(16).padStart(16, '0');
    this.#stream.write(
      `${JSON.stringify({ channel: message.channel, seq, content_xxh64, line: message.line })}\n`,
    );
  }
  async close(): Promise<void> {
    this.#stream.end();
    await finished(this.#stream);
  }
}
