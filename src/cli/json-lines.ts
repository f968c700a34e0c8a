/** Lines of a file or stream, gzip undone, with bounded memory; and places inside a line's JSON. */
import { createReadStream } from 'node:fs';
import { type Readable, Transform } from 'node:stream';
import { createGunzip } from 'node:zlib';
import { HansardError } from '../common/errors.js';

/** A message of 1 MiB whose every byte is written as a \u escape has 6 MiB. */
export const maxLineBytes = 8 * 1024 * 1024;

const readChunkBytes = 256 * 1024;

export interface Line {
  /** From 1. */
  readonly number: number;
  /** Without the newline; valid until the next line is asked for. */
  readonly bytes: Buffer;
  /** The line was longer than `maxLineBytes`; `bytes` holds its beginning. */
  readonly tooLong: boolean;
}

export interface LineSource {
  lines(): AsyncGenerator<Line[]>;
  /** Bytes read of the file as stored (packed ones where it is packed). */
  readonly bytesRead: number;
}

/** `-` is stdin. A name that ends in .gz is unpacked. `onBytes` sees all unpacked bytes in order. */
export function openLines(name: string, onBytes: (chunk: Buffer) => void = () => {}): LineSource {
  let bytesRead = 0;
  return {
    get bytesRead() {
      return bytesRead;
    },
    async *lines() {
      const raw: Readable =
        name === '-' ? process.stdin : createReadStream(name, { highWaterMark: readChunkBytes });
      raw.on('error', () => {});
      const counted = new Transform({
        transform(chunk: Buffer, _encoding, done) {
          bytesRead += chunk.length;
          done(null, chunk);
        },
      });
      raw.on('error', (error) => counted.destroy(error));
      raw.pipe(counted);
      let stream: Readable = counted;
      if (name.endsWith('.gz')) {
        const gunzip = createGunzip({ chunkSize: readChunkBytes });
        counted.on('error', (error) => gunzip.destroy(error));
        stream = counted.pipe(gunzip);
      }
      try {
        yield* splitLines(stream, onBytes);
      } catch (error) {
        throw readError(name, error);
      } finally {
        raw.unpipe(counted);
        if (name !== '-') raw.destroy();
        counted.destroy();
        stream.destroy();
      }
    },
  };
}

/** All complete lines of a chunk together: a turn of the loop per line would cost more than its parsing. */
async function* splitLines(
  stream: AsyncIterable<unknown>,
  onBytes: (chunk: Buffer) => void,
): AsyncGenerator<Line[]> {
  let rest: Buffer[] = [];
  let restBytes = 0;
  let number = 0;
  const lineOf = (bytes: Buffer): Line => {
    number++;
    const end = bytes.length > 0 && bytes[bytes.length - 1] === 0x0d ? bytes.length - 1 : bytes.length;
    return { number, bytes: bytes.subarray(0, end), tooLong: bytes.length > maxLineBytes };
  };
  for await (const chunk of stream as AsyncIterable<Buffer>) {
    onBytes(chunk);
    const lines: Line[] = [];
    let from = 0;
    for (;;) {
      const newline = chunk.indexOf(0x0a, from);
      if (newline < 0) break;
      const piece = chunk.subarray(from, newline);
      lines.push(lineOf(rest.length === 0 ? piece : Buffer.concat([...rest, piece])));
      rest = [];
      restBytes = 0;
      from = newline + 1;
    }
    if (from < chunk.length && restBytes <= maxLineBytes) {
      rest.push(chunk.subarray(from));
      restBytes += chunk.length - from;
    }
    if (lines.length > 0) yield lines;
  }
  if (rest.length > 0) yield [lineOf(Buffer.concat(rest))];
}

function readError(name: string, error: unknown): unknown {
  if (error instanceof HansardError || !(error instanceof Error)) return error;
  const code = (error as NodeJS.ErrnoException).code ?? '';
  if (code === 'ENOENT')
    return new HansardError('INVALID_ARGUMENT', `there is no file ${name}`, {
      field: 'FILE',
      problem: 'not found',
    });
  if (code === 'EISDIR' || code === 'EACCES' || code.startsWith('Z_'))
    return new HansardError('INVALID_ARGUMENT', `${name} can not be read: ${error.message}`, {
      field: 'FILE',
      problem: code,
    });
  return error;
}

/**
 * The text of a top-level member's value, as written: JSON.parse and back would
 * turn 1.0 into 1 and round numbers beyond 2^53. `text` is known to be one valid
 * JSON object; of repeated keys the last counts, as in JSON.parse.
 */
export function memberText(text: string, key: string): string | undefined {
  let found: string | undefined;
  let at = text.indexOf('{') + 1;
  for (;;) {
    at = skipBlank(text, at);
    if (text[at] !== '"') return found;
    const keyEnd = stringEnd(text, at);
    const name: unknown = JSON.parse(text.slice(at, keyEnd));
    at = skipBlank(text, skipBlank(text, keyEnd) + 1);
    const end = valueEnd(text, at);
    if (name === key) found = text.slice(at, end).trimEnd();
    at = skipBlank(text, end);
    if (text[at] !== ',') return found;
    at++;
  }
}

function skipBlank(text: string, from: number): number {
  let at = from;
  while (at < text.length && ' \t\r\n'.includes(text[at] ?? '')) at++;
  return at;
}

/** Just behind the closing quote. */
function stringEnd(text: string, from: number): number {
  for (let at = from + 1; at < text.length; at++) {
    if (text[at] === '\\') at++;
    else if (text[at] === '"') return at + 1;
  }
  return text.length;
}

function valueEnd(text: string, from: number): number {
  let depth = 0;
  for (let at = from; at < text.length; ) {
    const c = text[at];
    if (c === '"') {
      at = stringEnd(text, at);
      if (depth === 0) return at;
      continue;
    }
    if (c === '{' || c === '[') depth++;
    else if (c === '}' || c === ']') {
      if (depth === 0) return at;
      depth--;
      if (depth === 0) return at + 1;
    } else if (c === ',' && depth === 0) return at;
    at++;
  }
  return text.length;
}
