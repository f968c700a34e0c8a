/**
 * How converters lose nothing: what the typed parts can not carry (fields of a
 * newer version, texts over a limit, odd shapes) is kept beside them as the
 * difference between the original and what the parts alone would give back.
 */
import type { CustomPart, Json, Part } from '../types.js';

export type JsonObject = { readonly [key: string]: Json };

/** What must be set and removed on the object that the parts give back. */
interface Remainder {
  readonly set?: JsonObject;
  readonly remove?: readonly string[];
}

/** A custom part with the difference; undefined where there is none. */
export function remainder(kind: string, original: JsonObject, back: JsonObject): CustomPart | undefined {
  const set: Record<string, Json> = {};
  for (const [key, value] of Object.entries(original))
    if (!isEqual(value, own(back, key))) put(set, key, value);
  const remove = Object.keys(back).filter((key) => !Object.hasOwn(original, key));
  if (Object.keys(set).length === 0 && remove.length === 0) return undefined;
  const rest: Remainder = {
    ...(Object.keys(set).length > 0 ? { set } : {}),
    ...(remove.length > 0 ? { remove } : {}),
  };
  return { type: 'custom', kind, json: JSON.stringify(rest) };
}

export function isRemainder(part: Part | undefined, kind: string): part is CustomPart {
  return part?.type === 'custom' && part.kind === kind && part.json !== undefined;
}

export function withRemainder(back: JsonObject, part: CustomPart): JsonObject {
  const { set, remove } = JSON.parse(part.json as string) as Remainder;
  const result: Record<string, Json> = {};
  for (const [key, value] of Object.entries(back)) if (!remove?.includes(key)) put(result, key, value);
  for (const [key, value] of Object.entries(set ?? {})) put(result, key, value);
  return result;
}

/** The value as JSON has it: what is undefined or a function is gone, a Date is a text. */
export function asJson(value: unknown): Json {
  return JSON.parse(JSON.stringify(value)) as Json;
}

export function isObject(value: Json | undefined): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

export function own(object: JsonObject, key: string): Json | undefined {
  return Object.hasOwn(object, key) ? object[key] : undefined;
}

/** The field where it is a text. */
export function text(object: JsonObject, key: string): string | undefined {
  const value = own(object, key);
  return typeof value === 'string' ? value : undefined;
}

/** JSON text of the value if it is there and fits; else the remainder carries it. */
export function jsonText(value: Json | undefined, maxBytes = Number.POSITIVE_INFINITY): string | undefined {
  if (value === undefined) return undefined;
  const json = JSON.stringify(value);
  return Buffer.byteLength(json) <= maxBytes ? json : undefined;
}

/** Fields that are not undefined: for objects with optional fields. */
export function present<T extends object>(fields: { [K in keyof T]: T[K] | undefined }): T {
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined)) as T;
}

export function isEqual(a: Json | undefined, b: Json | undefined): boolean {
  if (a === b) return true;
  if (typeof a !== 'object' || typeof b !== 'object' || a === null || b === null) return false;
  if (Array.isArray(a) || Array.isArray(b)) {
    if (!Array.isArray(a) || !Array.isArray(b) || a.length !== b.length) return false;
    return a.every((each, i) => isEqual(each as Json, b[i] as Json));
  }
  const keys = Object.keys(a);
  if (keys.length !== Object.keys(b).length) return false;
  return keys.every(
    (key) => Object.hasOwn(b, key) && isEqual((a as JsonObject)[key], (b as JsonObject)[key]),
  );
}

/** `__proto__` is a key like any other. */
function put(into: Record<string, Json>, key: string, value: Json): void {
  Object.defineProperty(into, key, { value, enumerable: true, writable: true, configurable: true });
}
