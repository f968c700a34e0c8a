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

/** So many messages in every channel that each has a full page. */
export async function fill(system: System, signal: AbortSignal): Promise<void> {
  const load = makeLoad(99);
  const perChannel = pageEvents + 14;
  let channel = 0;
  const worker = async (): Promise<void> => {
    while (channel < channelCount && !signal.aborted) {
      const mine = channel++;
      const texts = Array.from({ length: perChannel }, () => load.next().text);
      if (system.appendBatch !== undefined) await system.appendBatch(mine, texts);
      else if (system.appendFrame !== undefined)
        await system.appendFrame(texts.map((text) => ({ channel: mine, text })));
      else for (const text of texts) await system.append({ channel: mine, text });
    }
  };
  await Promise.all(Array.from({ length: 32 }, worker));
}
