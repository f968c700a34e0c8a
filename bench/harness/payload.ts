/** Messages to load with: chat-like text of a given size, the same in every run. */

const words =
  `the a to and of in is it you that for on this with be not are have we can do but what so if just
your my how was they me all out get there will about would know when like use no up it's need some from think one want
don't or time an i'm then try more which any has yes good them did make who thanks see because got work only does now
right should well also go sure could say file error server running install kernel package version update problem
question answer message channel please help command screen network driver ubuntu system boot driver`.split(
    /\s+/,
  );

/** Small and fast, and the same everywhere: mulberry32. */
export function randomOf(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 0x1_0000_0000;
  };
}

/** `count` different texts of exactly `bytes` bytes. */
export function chatTexts(count: number, bytes: number, seed = 1): string[] {
  const random = randomOf(seed);
  return Array.from({ length: count }, () => {
    let text = '';
    while (text.length < bytes) text += `${words[Math.floor(random() ** 2 * words.length)]} `;
    return text.slice(0, bytes);
  });
}
