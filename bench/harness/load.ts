/** What is sent: texts and channels, the same in every run. */
import { chatTexts, randomOf } from './payload.js';
import type { Item, System } from './system.js';

export const payloadBytes = 200;
export const channelCount = 1_000;
export const pageEvents = 50;
const distinctTexts = 4_096;
/** Texts of all sizes together take at most this much memory. */
const textBytesMax = 16 << 20;

export interface Load {
  next(): Item;
}

export interface LoadOptions {
  /** Numbers of channels begin here: workloads of their own kind have channels of their own. */
  readonly firstChannel?: number;
  readonly channels?: number;
  /** Channel k is chosen as often as 1/k says; else all alike. */
  readonly zipf?: boolean;
  readonly bytes?: number;
}

const textsBySize = new Map<number, readonly string[]>();

function textsOf(bytes: number): readonly string[] {
  let texts = textsBySize.get(bytes);
  if (texts === undefined) {
    texts = chatTexts(Math.max(16, Math.min(distinctTexts, Math.floor(textBytesMax / bytes))), bytes);
    textsBySize.set(bytes, texts);
  }
  return texts;
}

export function makeLoad(seed: number, options: LoadOptions = {}): Load {
  const { firstChannel = 0, channels = channelCount, zipf = false, bytes = payloadBytes } = options;
  const random = randomOf(seed);
  const texts = textsOf(bytes);
  const pick = zipf ? zipfOf(channels, random) : () => Math.floor(random() * channels);
  return {
    next: () => ({
      channel: firstChannel + pick(),
      text: texts[Math.floor(random() * texts.length)] as string,
    }),
  };
}

/** 0 most often, then 1 half as often, 2 a third …: by the sums of 1/k. */
export function zipfOf(count: number, random: () => number): () => number {
  const sums = new Float64Array(count);
  let sum = 0;
  for (let i = 0; i < count; i++) {
    sum += 1 / (i + 1);
    sums[i] = sum;
  }
  return () => {
    const wanted = random() * sum;
    let [low, high] = [0, count - 1];
    while (low < high) {
      const middle = (low + high) >> 1;
      if ((sums[middle] as number) > wanted) high = middle;
      else low = middle + 1;
    }
    return low;
  };
}

/** Calls in flight while filling, with calls that hold a message or few, and such as hold 64. */
const smallInFlight = 256;
const largeInFlight = 32;

export interface Filling {
  readonly firstChannel?: number;
  readonly channels?: number;
  /** By default so many that each channel has a full page. */
  readonly perChannel?: number;
  /** Told after each call. */
  readonly progress?: (messages: number) => void;
}

/** The same number of messages in every channel, up to 64 in a call. */
export async function fill(system: System, signal: AbortSignal, filling: Filling = {}): Promise<void> {
  const { firstChannel = 0, channels = channelCount, perChannel = pageEvents + 14 } = filling;
  const load = makeLoad(99);
  const perCall = 64;
  // Channel by channel in turn, as they would grow.
  const calls = channels * Math.ceil(perChannel / perCall);
  let [next, messages] = [0, 0];
  const worker = async (): Promise<void> => {
    while (next < calls && !signal.aborted) {
      const call = next++;
      const channel = firstChannel + (call % channels);
      const count = Math.min(perCall, perChannel - perCall * Math.floor(call / channels));
      const texts = Array.from({ length: count }, () => load.next().text);
      if (system.appendBatch !== undefined) await system.appendBatch(channel, texts);
      else if (system.appendFrame !== undefined)
        await system.appendFrame(texts.map((text) => ({ channel, text })));
      else for (const text of texts) await system.append({ channel, text });
      messages += count;
      filling.progress?.(messages);
    }
  };
  await Promise.all(Array.from({ length: perChannel < perCall ? smallInFlight : largeInFlight }, worker));
}
