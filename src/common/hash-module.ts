/**
 * xxHash in WebAssembly over a scratch memory of our own. The usual packages take
 * one view and give one BigInt per call, which costs more than hashing a message
 * of 200 bytes; here a whole entry or request is copied in once, and then hashed
 * and compared in place, by offset. Assembled here, at load (a few milliseconds):
 * what runs is what can be read below.
 */

/** The module's memory: 4 MiB and a page; what is not used of it takes no memory. */
export const scratchPages = 65;

const Type = { i32: 0x7f, i64: 0x7e } as const;
const Op = {
  block: 0x02,
  loop: 0x03,
  if: 0x04,
  else: 0x05,
  end: 0x0b,
  return: 0x0f,
  br: 0x0c,
  brIf: 0x0d,
  call: 0x10,
  get: 0x20,
  set: 0x21,
  load32: 0x28,
  load64: 0x29,
  load8u: 0x2d,
  load16u: 0x2f,
  load32u64: 0x35,
  load8u64: 0x31,
  store64: 0x37,
  const32: 0x41,
  const64: 0x42,
  eqz32: 0x45,
  eq32: 0x46,
  ne32: 0x47,
  ltU32: 0x49,
  gtU32: 0x4b,
  leU32: 0x4d,
  geU32: 0x4f,
  eq64: 0x51,
  add32: 0x6a,
  sub32: 0x6b,
  mul32: 0x6c,
  and32: 0x71,
  xor32: 0x73,
  shrU32: 0x76,
  rotl32: 0x77,
  add64: 0x7c,
  sub64: 0x7d,
  mul64: 0x7e,
  and64: 0x83,
  xor64: 0x85,
  shrU64: 0x88,
  rotl64: 0x89,
  extendU: 0xad,
} as const;
const none = 0x40;

type Code = readonly (number | readonly number[])[];

/** Signed LEB128. */
function signed(value: bigint): number[] {
  const out: number[] = [];
  for (let rest = value; ; ) {
    const byte = Number(rest & 0x7fn);
    rest >>= 7n;
    if ((rest === 0n && byte < 0x40) || (rest === -1n && byte >= 0x40)) return [...out, byte];
    out.push(byte | 0x80);
  }
}

function unsigned(value: number): number[] {
  const out: number[] = [];
  let rest = value;
  for (; rest >= 0x80; rest >>>= 7) out.push((rest & 0x7f) | 0x80);
  return [...out, rest];
}

const c32 = (value: number): number[] => [Op.const32, ...signed(BigInt(value | 0))];
const c64 = (value: bigint): number[] => [Op.const64, ...signed(BigInt.asIntN(64, value))];
const get = (local: number): number[] => [Op.get, local];
const set = (local: number): number[] => [Op.set, local];
const flat = (code: Code): number[] => code.flat();
/** Loads and stores carry alignment (none is promised) and offset. */
const at = (op: number, offset = 0): number[] => [op, 0, ...unsigned(offset)];

const P64 = [
  0x9e37_79b1_85eb_ca87n,
  0xc2b2_ae3d_27d4_eb4fn,
  0x1656_67b1_9e37_79f9n,
  0x85eb_ca77_c2b2_ae63n,
  0x27d4_eb2f_1656_67c5n,
] as const;
const P32 = [0x9e37_79b1, 0x85eb_ca77, 0xc2b2_ae3d, 0x27d4_eb2f, 0x1656_67b1] as const;

/** (place, length, seed i64) → i64. */
function xxh64Body(): number[] {
  const [p, length, seed, end, limit, v1, v2, v3, v4] = [0, 1, 2, 3, 4, 5, 6, 7, 8] as const;
  const h = seed;
  /** On the stack: a lane and eight bytes of input; leaves the lane's next value. */
  const round = flat([c64(P64[1]), [Op.mul64, Op.add64], c64(31n), [Op.rotl64], c64(P64[0]), [Op.mul64]]);
  const stripe = (lane: number, offset: number): number[] =>
    flat([get(lane), get(p), at(Op.load64, offset), round, set(lane)]);
  const merge = (lane: number): number[] =>
    flat([
      get(h),
      c64(0n),
      get(lane),
      round,
      [Op.xor64],
      c64(P64[0]),
      [Op.mul64],
      c64(P64[3]),
      [Op.add64],
      set(h),
    ]);
  const step = (bytes: number): number[] => flat([get(p), c32(bytes), [Op.add32], set(p)]);
  const rotated = (bits: bigint): number[] => flat([c64(bits), [Op.rotl64]]);
  return flat([
    flat([get(p), get(length), [Op.add32], set(end)]),
    flat([get(length), c32(32), [Op.geU32, Op.if, none]]),
    flat([get(end), c32(32), [Op.sub32], set(limit)]),
    flat([get(seed), c64(P64[0] + P64[1]), [Op.add64], set(v1)]),
    flat([get(seed), c64(P64[1]), [Op.add64], set(v2)]),
    flat([get(seed), set(v3)]),
    flat([get(seed), c64(P64[0]), [Op.sub64], set(v4)]),
    [Op.loop, none],
    flat([stripe(v1, 0), stripe(v2, 8), stripe(v3, 16), stripe(v4, 24), step(32)]),
    flat([get(p), get(limit), [Op.leU32, Op.brIf, 0, Op.end]]),
    flat([get(v1), rotated(1n), get(v2), rotated(7n), [Op.add64]]),
    flat([get(v3), rotated(12n), [Op.add64], get(v4), rotated(18n), [Op.add64], set(h)]),
    flat([merge(v1), merge(v2), merge(v3), merge(v4)]),
    flat([[Op.else], get(seed), c64(P64[4]), [Op.add64], set(h), [Op.end]]),
    flat([get(h), get(length), [Op.extendU, Op.add64], set(h)]),
    // Eight bytes at a time.
    [Op.block, none, Op.loop, none],
    flat([get(p), c32(8), [Op.add32], get(end), [Op.gtU32, Op.brIf, 1]]),
    flat([get(h), c64(0n), get(p), at(Op.load64), round, [Op.xor64], rotated(27n)]),
    flat([c64(P64[0]), [Op.mul64], c64(P64[3]), [Op.add64], set(h), step(8), [Op.br, 0, Op.end, Op.end]]),
    // Four.
    flat([get(p), c32(4), [Op.add32], get(end), [Op.leU32, Op.if, none]]),
    flat([get(h), get(p), at(Op.load32u64), c64(P64[0]), [Op.mul64, Op.xor64], rotated(23n)]),
    flat([c64(P64[1]), [Op.mul64], c64(P64[2]), [Op.add64], set(h), step(4), [Op.end]]),
    // The rest, one by one.
    [Op.block, none, Op.loop, none],
    flat([get(p), get(end), [Op.geU32, Op.brIf, 1]]),
    flat([get(h), get(p), at(Op.load8u64), c64(P64[4]), [Op.mul64, Op.xor64], rotated(11n)]),
    flat([c64(P64[0]), [Op.mul64], set(h), step(1), [Op.br, 0, Op.end, Op.end]]),
    flat([get(h), get(h), c64(33n), [Op.shrU64, Op.xor64], c64(P64[1]), [Op.mul64], set(h)]),
    flat([get(h), get(h), c64(29n), [Op.shrU64, Op.xor64], c64(P64[2]), [Op.mul64], set(h)]),
    flat([get(h), get(h), c64(32n), [Op.shrU64, Op.xor64]]),
  ]);
}

/** (place, length, seed) → i32. */
function xxh32Body(): number[] {
  const [p, length, seed, end, limit, v1, v2, v3, v4] = [0, 1, 2, 3, 4, 5, 6, 7, 8] as const;
  const h = seed;
  const rotated = (bits: number): number[] => flat([c32(bits), [Op.rotl32]]);
  const times = (factor: number): number[] => flat([c32(factor), [Op.mul32]]);
  const step = (bytes: number): number[] => flat([get(p), c32(bytes), [Op.add32], set(p)]);
  const stripe = (lane: number, offset: number): number[] =>
    flat([
      get(lane),
      get(p),
      at(Op.load32, offset),
      times(P32[1]),
      [Op.add32],
      rotated(13),
      times(P32[0]),
      set(lane),
    ]);
  const mixed = (shift: number): number[] => flat([get(h), get(h), c32(shift), [Op.shrU32, Op.xor32]]);
  return flat([
    flat([get(p), get(length), [Op.add32], set(end)]),
    flat([get(length), c32(16), [Op.geU32, Op.if, none]]),
    flat([get(end), c32(16), [Op.sub32], set(limit)]),
    flat([get(seed), c32(P32[0] + P32[1]), [Op.add32], set(v1)]),
    flat([get(seed), c32(P32[1]), [Op.add32], set(v2)]),
    flat([get(seed), set(v3)]),
    flat([get(seed), c32(P32[0]), [Op.sub32], set(v4)]),
    [Op.loop, none],
    flat([stripe(v1, 0), stripe(v2, 4), stripe(v3, 8), stripe(v4, 12), step(16)]),
    flat([get(p), get(limit), [Op.leU32, Op.brIf, 0, Op.end]]),
    flat([get(v1), rotated(1), get(v2), rotated(7), [Op.add32]]),
    flat([get(v3), rotated(12), [Op.add32], get(v4), rotated(18), [Op.add32], set(h)]),
    flat([[Op.else], get(seed), c32(P32[4]), [Op.add32], set(h), [Op.end]]),
    flat([get(h), get(length), [Op.add32], set(h)]),
    [Op.block, none, Op.loop, none],
    flat([get(p), c32(4), [Op.add32], get(end), [Op.gtU32, Op.brIf, 1]]),
    flat([get(h), get(p), at(Op.load32), times(P32[2]), [Op.add32], rotated(17), times(P32[3]), set(h)]),
    flat([step(4), [Op.br, 0, Op.end, Op.end]]),
    [Op.block, none, Op.loop, none],
    flat([get(p), get(end), [Op.geU32, Op.brIf, 1]]),
    flat([get(h), get(p), at(Op.load8u), times(P32[4]), [Op.add32], rotated(11), times(P32[0]), set(h)]),
    flat([step(1), [Op.br, 0, Op.end, Op.end]]),
    flat([mixed(15), times(P32[1]), set(h)]),
    flat([mixed(13), times(P32[2]), set(h)]),
    mixed(16),
  ]);
}

/** (place, length) → 1 where no byte is above 0x7f. */
function asciiBody(): number[] {
  const [p, end] = [0, 1] as const;
  const step = (bytes: number): number[] => flat([get(p), c32(bytes), [Op.add32], set(p)]);
  return flat([
    flat([get(p), get(end), [Op.add32], set(end)]),
    [Op.block, none, Op.loop, none],
    flat([get(p), c32(8), [Op.add32], get(end), [Op.gtU32, Op.brIf, 1]]),
    flat([get(p), at(Op.load64), c64(0x8080_8080_8080_8080n), [Op.and64], c64(0n), [Op.eq64, Op.eqz32]]),
    flat([[Op.if, none], c32(0), [0x0f, Op.end], step(8), [Op.br, 0, Op.end, Op.end]]),
    [Op.block, none, Op.loop, none],
    flat([get(p), get(end), [Op.geU32, Op.brIf, 1]]),
    flat([get(p), at(Op.load8u), c32(0x80), [Op.and32, Op.if, none], c32(0), [0x0f, Op.end]]),
    flat([step(1), [Op.br, 0, Op.end, Op.end]]),
    c32(1),
  ]);
}

/** (seed, word) → i32: as entry-checksum.ts mixes an entry's place into a seed. */
const mixBody = flat([
  flat([get(0), c32(5), [Op.mul32], get(1), [Op.xor32], set(0)]),
  flat([get(0), get(0), c32(16), [Op.shrU32, Op.xor32], c32(0x85eb_ca6b), [Op.mul32], set(0)]),
  flat([get(0), get(0), c32(13), [Op.shrU32, Op.xor32], c32(0xc2b2_ae35), [Op.mul32], set(0)]),
  flat([get(0), get(0), c32(16), [Op.shrU32, Op.xor32]]),
]);

/**
 * (place, end, seed of the partition, first index low and high, count) → 1 where the entries of the log that lie
 * there (checksum u32, size u32, term u48, kind u8, zero u8, bytes) fill it and match their checksums.
 */
function entriesBody(): number[] {
  const [p, end, seed, low, high, count, size, h] = [0, 1, 2, 3, 4, 5, 6, 7] as const;
  const header = 16;
  const mixed = (word: number[]): number[] => flat([get(h), word, [Op.call, 5], set(h)]);
  const refuseIf = (condition: number[]): number[] =>
    flat([condition, [Op.if, none], c32(0), [Op.return, Op.end]]);
  return flat([
    [Op.block, none, Op.loop, none],
    flat([get(count), [Op.eqz32, Op.brIf, 1]]),
    refuseIf(flat([get(end), get(p), [Op.sub32], c32(header), [Op.ltU32]])),
    flat([get(p), at(Op.load32, 4), set(size)]),
    refuseIf(flat([get(size), get(end), get(p), [Op.sub32], c32(header), [Op.sub32, Op.gtU32]])),
    flat([get(seed), get(p), at(Op.load32, 8), [Op.call, 5], set(h)]),
    mixed(flat([get(p), at(Op.load16u, 12)])),
    mixed(get(low)),
    mixed(get(high)),
    mixed(flat([get(p), at(Op.load8u, 14)])),
    refuseIf(
      flat([
        flat([get(p), c32(header), [Op.add32], get(size), get(h), [Op.call, 1]]),
        flat([get(p), at(Op.load32), [Op.ne32]]),
      ]),
    ),
    flat([get(p), get(size), [Op.add32], c32(header), [Op.add32], set(p)]),
    flat([get(low), c32(1), [Op.add32], set(low)]),
    flat([get(low), [Op.eqz32, Op.if, none], get(high), c32(1), [Op.add32], set(high), [Op.end]]),
    flat([get(count), c32(1), [Op.sub32], set(count)]),
    [Op.br, 0, Op.end, Op.end],
    flat([get(p), get(end), [Op.eq32]]),
  ]);
}

/** (place, length, into): the digest, little-endian. */
const putBody = flat([get(2), get(0), get(1), c64(0n), [Op.call, 0], at(Op.store64)]);
/** (place, length, expected place) → 1 where the eight bytes there are the digest. */
const equalsBody = flat([get(0), get(1), c64(0n), [Op.call, 0], get(2), at(Op.load64), [Op.eq64]]);

/** (key's place, its length, row's place, its length) → 1 where the row (version u8, checksum u64, body) matches both. */
const rowBody = flat([
  flat([get(2), c32(9), [Op.add32], get(3), c32(9), [Op.sub32]]),
  flat([get(0), get(1), get(2), at(Op.load8u64), [Op.call, 0], [Op.call, 0]]),
  flat([get(2), at(Op.load64, 1), [Op.eq64]]),
]);

interface FunctionOf {
  readonly name: string;
  readonly takes: readonly number[];
  readonly gives: readonly number[];
  /** Further locals by type, with their counts. */
  readonly locals: readonly (readonly [number, number])[];
  readonly body: readonly number[];
}

const { i32, i64 } = Type;
const functions: readonly FunctionOf[] = [
  {
    name: 'xxh64',
    takes: [i32, i32, i64],
    gives: [i64],
    locals: [
      [2, i32],
      [4, i64],
    ],
    body: xxh64Body(),
  },
  { name: 'xxh32', takes: [i32, i32, i32], gives: [i32], locals: [[6, i32]], body: xxh32Body() },
  { name: 'putXxh64', takes: [i32, i32, i32], gives: [], locals: [], body: putBody },
  { name: 'xxh64Equals', takes: [i32, i32, i32], gives: [i32], locals: [], body: equalsBody },
  { name: 'isAscii', takes: [i32, i32], gives: [i32], locals: [], body: asciiBody() },
  { name: 'mix', takes: [i32, i32], gives: [i32], locals: [], body: mixBody },
  {
    name: 'entries',
    takes: [i32, i32, i32, i32, i32, i32],
    gives: [i32],
    locals: [[2, i32]],
    body: entriesBody(),
  },
  { name: 'isRowSound', takes: [i32, i32, i32, i32], gives: [i32], locals: [], body: rowBody },
];

const sized = (bytes: readonly number[]): number[] => [...unsigned(bytes.length), ...bytes];
const section = (id: number, items: readonly (readonly number[])[]): number[] => [
  id,
  ...sized([...unsigned(items.length), ...items.flat()]),
];
const named = (name: string, kind: number, index: number): number[] => [
  ...sized([...name].map((char) => char.charCodeAt(0))),
  kind,
  index,
];

function assemble(): Uint8Array {
  const bodies = functions.map(({ locals, body }) =>
    sized([...unsigned(locals.length), ...locals.flat(), ...body, Op.end]),
  );
  return Uint8Array.from([
    ...[0x00, 0x61, 0x73, 0x6d, 0x01, 0x00, 0x00, 0x00],
    ...section(
      1,
      functions.map(({ takes, gives }) => [0x60, ...sized(takes), ...sized(gives)]),
    ),
    ...section(
      3,
      functions.map((_, i) => [i]),
    ),
    // Bounded: it never grows, so that views of it stay valid.
    ...section(5, [[0x01, scratchPages, scratchPages]]),
    ...section(7, [named('memory', 2, 0), ...functions.map(({ name }, i) => named(name, 0, i))]),
    ...section(10, bodies),
  ]);
}

export interface HashModule {
  readonly memory: { readonly buffer: ArrayBuffer };
  xxh64(place: number, length: number, seed: bigint): bigint;
  xxh32(place: number, length: number, seed: number): number;
  putXxh64(place: number, length: number, into: number): void;
  xxh64Equals(place: number, length: number, expectedPlace: number): number;
  isAscii(place: number, length: number): number;
  isRowSound(keyPlace: number, keyLength: number, rowPlace: number, rowLength: number): number;
  entries(place: number, end: number, seed: number, low: number, high: number, count: number): number;
}

/** Every runtime has it; the library of types that we compile with does not. */
declare const WebAssembly: {
  Module: new (bytes: Uint8Array) => object;
  Instance: new (module: object) => { readonly exports: object };
};

export function hashModule(): HashModule {
  return new WebAssembly.Instance(new WebAssembly.Module(assemble())).exports as HashModule;
}
