/** Whole numbers of one to eight bytes, seven bits each, the lowest first: protobuf's form, and our own formats'. */

/** Bytes of a non-negative safe integer as a varint. */
export function varintSize(value: number): number {
  if (value < 0x80) return 1;
  if (value < 0x4000) return 2;
  if (value < 0x20_0000) return 3;
  if (value < 0x1000_0000) return 4;
  let size = 5;
  for (let rest = Math.floor(value / 0x8_0000_0000); rest > 0; rest = Math.floor(rest / 0x80)) size++;
  return size;
}

/** Returns the place after what it wrote. */
export function writeVarint(target: Uint8Array, at: number, value: number): number {
  let place = at;
  let rest = value;
  // Four bytes at a time in 32-bit arithmetic, a third of the cost of floats.
  while (rest >= 0x1000_0000) {
    const low = rest % 0x1000_0000;
    target[place++] = low | 0x80;
    target[place++] = (low >>> 7) | 0x80;
    target[place++] = (low >>> 14) | 0x80;
    target[place++] = (low >>> 21) | 0x80;
    rest = (rest - low) / 0x1000_0000;
  }
  let bits = rest | 0;
  while (bits >= 0x80) {
    target[place++] = bits | 0x80;
    bits >>>= 7;
  }
  target[place++] = bits;
  return place;
}
