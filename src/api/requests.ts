/** The requests that are decoded to objects: all but AppendMessages. Checked by the tables first. */
import type { PackageDefinition } from '@grpc/proto-loader';
import { assert, HansardError } from '../common/errors.js';
import { Checker } from './check.js';
import { type MessageRule, Rules } from './rules.js';

type Decode = (bytes: Buffer) => object;
type Encode = (value: object) => Buffer;

export class Codecs {
  readonly rules: Rules;
  readonly checker = new Checker();
  readonly #protos: PackageDefinition;

  constructor(protos: PackageDefinition) {
    this.#protos = protos;
    this.rules = new Rules(protos);
  }

  /** A decoder of requests of that type; throws what Checker throws. The type `T` is the caller's word for it. */
  decoder<T extends object>(name: string): (bytes: Buffer) => T {
    const rule: MessageRule = this.rules.message(name);
    const decode = this.#codec(name).deserialize;
    return (bytes) => {
      this.checker.check(rule, bytes, 0, bytes.length);
      try {
        return decode(bytes) as T;
      } catch (error) {
        // The walk leaves nothing that a decoder stumbles over; should it, then it is the request's fault.
        throw new HansardError(
          'INVALID_ARGUMENT',
          `the request is no valid ${name}`,
          { field: 'request' },
          { cause: error },
        );
      }
    };
  }

  /** A decoder of what another node of the cluster has encoded: not checked. */
  answerDecoder<T extends object>(name: string): (bytes: Uint8Array) => T {
    const decode = this.#codec(name).deserialize;
    return (bytes) => decode(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)) as T;
  }

  encoder(name: string): Encode {
    return this.#codec(name).serialize;
  }

  #codec(name: string): { serialize: Encode; deserialize: Decode } {
    const definition = this.#protos[name];
    assert(definition !== undefined && 'deserialize' in definition, `no message ${name} in the protos`);
    return definition as unknown as { serialize: Encode; deserialize: Decode };
  }
}

/** Decimal string of a uint64 that the check has bounded to 2^53. */
export function toNumber(long: string | number | undefined): number {
  return long === undefined ? 0 : Number(long);
}

/** Timestamp in whole microseconds, rounded up (the first event at or after it). */
export function toTimeUs(time: { seconds: string; nanos: number }): number {
  return Number(time.seconds) * 1e6 + Math.ceil(time.nanos / 1000);
}

/** Timestamp as proto-loader encodes it. */
export function toTimestamp(timeUs: number): { seconds: number; nanos: number } {
  const seconds = Math.floor(timeUs / 1e6);
  return { seconds, nanos: (timeUs - seconds * 1e6) * 1000 };
}
