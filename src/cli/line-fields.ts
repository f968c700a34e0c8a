/** Fields of a line of JSON, taken with care: whatever is not as it should be is a BadLine. */
import { limits } from '../common/limits.js';

export class BadLine extends Error {
  override readonly name = 'BadLine';
  constructor(
    readonly line: number,
    readonly problem: string,
  ) {
    super(`line ${line}: ${problem}`);
  }
}

export type Fields = Readonly<Record<string, unknown>>;
export type Bad = (problem: string) => never;

// In Node since 20, in TypeScript's library only from es2024.
export const isWellFormed = (String.prototype as unknown as { isWellFormed(this: string): boolean })
  .isWellFormed;

/** null is the same as absent. */
export function stringField(fields: Fields, name: string, bad: Bad): string | undefined {
  const value = Object.hasOwn(fields, name) ? fields[name] : undefined;
  if (value === undefined || value === null) return undefined;
  if (typeof value !== 'string') return bad(`${name} is not a string`);
  if (!isWellFormed.call(value)) return bad(`${name} holds a lone surrogate`);
  return value;
}

export function wholeNumber(fields: Fields, name: string, min: number, bad: Bad): number | undefined {
  const value = fields[name];
  if (value === undefined || value === null) return undefined;
  if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < min)
    return bad(`${name} is no whole number from ${min}`);
  return value;
}

export function checkChannel(channel: string, bad: Bad): void {
  const length = Buffer.byteLength(channel);
  if (length === 0) bad('channel is empty');
  if (length > limits.channelNameBytes) bad(`channel is longer than ${limits.channelNameBytes} bytes`);
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for
  if (/[\u0000-\u001f\u007f-\u009f]/.test(channel)) bad('channel holds a control character');
}
