/**
 * Walks a message's bytes by the tables of rules.ts: every text is UTF-8, JSON
 * texts parse, sizes, counts, depth and ranges hold, and no known field has a wire
 * type that a reader would stumble over. Unknown fields are passed over and stay.
 */
import { HansardError } from '../common/errors.js';
import { limits } from '../common/limits.js';
import { WireReader } from '../common/wire.js';
import { invalidArgument, invalidUtf8, isUtf8Range } from './names.js';
import { type FieldRule, Kind, type MessageRule } from './rules.js';

/** Range of google.protobuf.Timestamp: years 1 to 9999. */
const secondsMin = -62_135_596_800;
const secondsMax = 253_402_300_799;
const two64 = 2 ** 64;

export class Checker {
  /** The fields that lead to where the walk is, each with its place (-1: not repeated); read only where it fails. */
  readonly #names: string[] = [];
  readonly #places: number[] = [];
  readonly #readers: WireReader[] = [];
  #depth = 0;
  /** Place of the message in its batch; refs must point before it. */
  #batchPosition = 0;
  /** Set by the walk: the content refers to a place in its batch. */
  usesBatchPosition = false;

  /** Throws INVALID_ARGUMENT, INVALID_UTF8, METADATA_… ; MalformedError on broken bytes. */
  check(rule: MessageRule, bytes: Buffer, from: number, to: number, at?: ContentPlace): void {
    this.#depth = 0;
    this.#names.length = 0;
    this.#places.length = 0;
    this.#batchPosition = at?.batchPosition ?? 0;
    this.usesBatchPosition = false;
    if (at !== undefined) {
      this.#names.push('messages', 'message');
      this.#places.push(at.batchPosition, -1);
    }
    this.#walk(rule, bytes, from, to);
  }

  #walk(rule: MessageRule, bytes: Buffer, from: number, to: number): void {
    if (this.#depth >= limits.nestingDepth) throw invalidArgument(this.#field(), 'nested too deep');
    this.#readers[this.#depth] ??= new WireReader(bytes);
    const reader = (this.#readers[this.#depth++] as WireReader).reset(bytes, from, to);
    const fields = rule.fields;
    let repeats = 0;
    while (reader.next()) {
      const number = reader.field;
      const field = number < fields.length ? fields[number] : undefined;
      if (field === undefined) {
        reader.skip();
        continue;
      }
      if (reader.wire !== field.wire) throw invalidArgument(this.#field(field), `wire type ${reader.wire}`);
      if (field.repeated && ++repeats > rule.elementsMax) {
        throw invalidArgument(this.#field(field), `more than ${rule.elementsMax} elements`);
      }
      switch (field.kind) {
        case Kind.number:
          this.#number(rule, field, reader.varint());
          break;
        case Kind.bounded:
          this.#bounded(rule, field, reader.varint());
          break;
        case Kind.fixed:
          reader.skip();
          break;
        case Kind.message:
          reader.sized();
          this.#names.push(field.name);
          this.#places.push(field.repeated ? repeats - 1 : -1);
          this.#walk(field.message as MessageRule, bytes, reader.start, reader.position);
          this.#names.pop();
          this.#places.pop();
          break;
        default:
          reader.sized();
          this.#sized(field, bytes, reader.start, reader.position);
      }
    }
    this.#depth--;
  }

  #sized(field: FieldRule, bytes: Buffer, from: number, to: number): void {
    const size = to - from;
    if (field.kind === Kind.bytes) {
      if (size > field.max) throw invalidArgument(this.#field(field), `longer than ${field.max} bytes`);
      return;
    }
    if (size > field.max) {
      if (field.kind === Kind.json || field.name === 'arguments') throw this.#jsonTooLarge(field, size);
      throw invalidArgument(this.#field(field), `longer than ${field.max} bytes`);
    }
    if (!isUtf8Range(bytes, from, to)) throw invalidUtf8(this.#field(field));
    // An empty text is an absent one.
    if (field.kind !== Kind.json || size === 0) return;
    try {
      JSON.parse(bytes.toString('utf8', from, to));
    } catch (error) {
      const name = this.#field(field);
      const problem = error instanceof SyntaxError ? error.message : 'does not parse';
      throw new HansardError('METADATA_NOT_JSON', `${name} is not JSON: ${problem}`, {
        field: name,
        problem,
      });
    }
  }

  #number(rule: MessageRule, field: FieldRule, value: number): void {
    if (!rule.isTimestamp) return;
    // Negative numbers come as 64-bit two's complement.
    const signed = value >= 2 ** 63 ? value - two64 : value;
    const fits =
      field.name === 'nanos'
        ? signed >= 0 && signed <= 999_999_999
        : signed >= secondsMin && signed <= secondsMax;
    if (!fits) throw invalidArgument(this.#field(field), 'no valid time');
  }

  #bounded(rule: MessageRule, field: FieldRule, value: number): void {
    if (value > field.max) throw invalidArgument(this.#field(field), `out of range (at most ${field.max})`);
    if (!rule.isRef || field.name !== 'batch_position') return;
    if (value >= this.#batchPosition) {
      throw invalidArgument(this.#field(field), 'must be the place of an earlier message of the batch');
    }
    this.usesBatchPosition = true;
  }

  #jsonTooLarge(field: FieldRule, size: number): HansardError {
    const name = this.#field(field);
    return new HansardError(
      'METADATA_TOO_LARGE',
      `${name} has ${size} bytes, at most ${field.max} are allowed`,
      { field: name, bytes: size, limit_bytes: field.max },
    );
  }

  #field(field?: FieldRule): string {
    const path = this.#names.map((name, i) =>
      (this.#places[i] ?? -1) < 0 ? name : `${name}[${this.#places[i]}]`,
    );
    if (field !== undefined) path.push(field.name);
    return path.join('.') || 'request';
  }
}

/** Where a content stands in its append. */
export interface ContentPlace {
  readonly batchPosition: number;
}
