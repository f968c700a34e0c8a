/**
 * Every setting of a node, once: name, kind (and so its unit), default, range
 * and reason. The file (`client_address = …`), the environment
 * (HANSARD_CLIENT_ADDRESS) and the flags (--client-address) all follow from
 * the name, and so do `start --help`, `--print-config` and docs/settings.md.
 */
const KiB = 1024;
const MiB = 1024 * KiB;
const GiB = 1024 * MiB;
const second = 1000;
const minute = 60 * second;

export type SettingKind = 'path' | 'address' | 'duration' | 'bytes' | 'count' | 'switch' | 'choice';

interface Common {
  readonly reason: string;
  /** Heading in help and docs. */
  readonly group: 'folder' | 'addresses' | 'consensus' | 'memory and disk' | 'process';
}
export interface TextSetting extends Common {
  readonly kind: 'path' | 'address';
  readonly default: string;
}
export interface NumberSetting extends Common {
  /** Durations are milliseconds, sizes bytes. */
  readonly kind: 'duration' | 'bytes' | 'count';
  readonly default: number;
  readonly min: number;
  readonly max: number;
}
export interface SwitchSetting extends Common {
  readonly kind: 'switch';
  readonly default: boolean;
}
export interface ChoiceSetting<C extends string = string> extends Common {
  readonly kind: 'choice';
  readonly default: C;
  readonly choices: readonly C[];
}
export type SettingInfo = TextSetting | NumberSetting | SwitchSetting | ChoiceSetting;

const table = {
  dir: path('folder', '', 'The folder that `hansard init` made: log, database and identity of this node.'),

  clientAddress: address(
    'addresses',
    '127.0.0.1:4650',
    'Where clients connect (gRPC). Unset: what the folder was made with.',
  ),
  peerAddress: address(
    'addresses',
    '127.0.0.1:4651',
    'Where the other nodes connect. Unset: what the folder was made with.',
  ),
  httpAddress: address(
    'addresses',
    '127.0.0.1:4652',
    'HTTP with /metrics, /healthz and /readyz; `off` for none.',
  ),
  insecure: flag(
    'addresses',
    false,
    'Allows addresses other than loopback. Nothing is encrypted and nobody is asked who they are.',
  ),

  tick: duration(
    'consensus',
    50,
    10,
    1 * second,
    "Raft's unit of time. A busy loop delays heartbeats by tens of ms; shorter ticks make elections out of that.",
  ),
  heartbeat: duration(
    'consensus',
    100,
    10,
    10 * second,
    'How often a leader shows itself where nothing else is sent; at most a quarter of election_timeout.',
  ),
  electionTimeout: duration(
    'consensus',
    1 * second,
    100,
    60 * second,
    'Silence after which followers elect another leader; at least five ticks. A crash is noticed sooner, by its broken streams.',
  ),
  quiesceAfter: duration(
    'consensus',
    2 * second,
    100,
    3600 * second,
    'A partition in which nothing has happened for this long falls quiet: its node vouches for all such partitions in one message, and wakes them when something comes.',
  ),
  leaders: choice(
    'consensus',
    'together',
    ['together', 'spread'],
    'together: the first node leads all that it holds until it has much at one time to do, then others some of it; appends share more, and cost less. spread: each node its share, always, so that fewer channels wait for an election where one is lost. The same on all nodes.',
  ),
  uncommittedPartition: bytes(
    'consensus',
    16 * MiB,
    1 * MiB,
    1 * GiB,
    'Proposed and not yet committed, per partition; beyond it OVERLOADED.',
  ),
  uncommittedNode: bytes(
    'consensus',
    64 * MiB,
    4 * MiB,
    4 * GiB,
    'The same for the whole node: bounds what a stalled majority costs in memory.',
  ),
  tailLimit: bytes(
    'memory and disk',
    384 * MiB,
    4 * MiB,
    16 * GiB,
    'Applied events that are only in memory (and in the log), all partitions together; a full tail stops admission until a checkpoint is through. Where an eighth of the heap that V8 may have is less, the default is that, 64 MiB at least.',
  ),
  checkpointBytes: bytes(
    'memory and disk',
    32 * MiB,
    1 * MiB,
    4 * GiB,
    'Tail bytes of the node at which tails are sealed into LevelDB, or a little earlier or later, as nodes take turns at it; below tail_limit, of which the default is half at most. Where a channel has less than 8 KiB in them, up to eight times as much, about half of tail_limit or 256 MiB at most: sealing costs by the channel.',
  ),
  checkpointAge: duration(
    'memory and disk',
    30 * second,
    1 * second,
    60 * minute,
    'Age at which a tail is sealed whatever its size: bounds what a restart replays.',
  ),
  changeRetention: duration(
    'memory and disk',
    7 * 24 * 60 * minute,
    1 * minute,
    365 * 24 * 60 * minute,
    'How long what changed is listed, about 4 bytes an append: a subscription that was away for longer is refused with TOKEN_TOO_OLD.',
  ),
  logSegment: bytes(
    'memory and disk',
    64 * MiB,
    1 * MiB,
    1 * GiB,
    'One segment of the log, written with zeros before its use.',
  ),
  logMax: bytes(
    'memory and disk',
    1 * GiB,
    8 * MiB,
    1024 * GiB,
    'Size of the log beyond which it is no longer kept for a node that is away (that one gets snapshots); at least four segments.',
  ),
  diskReserve: bytes(
    'memory and disk',
    512 * MiB,
    0,
    1024 * GiB,
    'Free space on the disk below which appends get DISK_FULL while deletions still work: room for segments, checkpoints and compactions under way. 0: no reserve.',
  ),
  scrubPeriod: duration(
    'memory and disk',
    7 * 24 * 60 * minute,
    0,
    365 * 24 * 60 * minute,
    'In this time the scrubber reads log and database once and compares replicas, a little at a time; 0: only on `hansard scrub`.',
  ),
  scrubRate: bytes('memory and disk', 16 * MiB, 1 * MiB, 16 * GiB, 'A second, while the scrubber reads.'),
  snapshotRate: bytes(
    'memory and disk',
    64 * MiB,
    64 * KiB,
    16 * GiB,
    'Snapshots to nodes that fell behind the log, a second, all together, at most: where appends take longer beside them it is less, down to a sixteenth.',
  ),
  dbWriteBuffer: bytes(
    'memory and disk',
    128 * MiB,
    4 * MiB,
    1 * GiB,
    "LevelDB's write buffer: with a larger one small rows are written fewer times, and more is read again at a start.",
  ),
  dbCache: bytes('memory and disk', 32 * MiB, 1 * MiB, 64 * GiB, "LevelDB's own cache of table blocks."),
  storeCache: bytes(
    'memory and disk',
    256 * MiB,
    4 * MiB,
    64 * GiB,
    'Channels, producers and decoded blocks in memory, ready to be answered from: with 256 MiB about 100,000 channels that are talked in, two fifths of it.',
  ),
  entryCache: bytes(
    'memory and disk',
    64 * MiB,
    4 * MiB,
    64 * GiB,
    'Log entries in memory, for applying and for followers that are a little behind.',
  ),

  channelTails: count(
    'process',
    10_000,
    0,
    1_000_000,
    'Streams of TailChannel open at once; beyond it OVERLOADED. One whose reader stands still may hold up to 256 KiB.',
  ),
  clientWindow: bytes(
    'process',
    2 * MiB,
    64 * KiB,
    64 * MiB,
    'What a client may have on its way here, per stream: it caps an upload at about half of it per round trip, and one that is not read may hold as much. Clients on slow lines must be able to send it within 20 s.',
  ),
  diskSlow: duration(
    'process',
    1.5 * second,
    250,
    10 * minute,
    'A write of the log that takes this long: the node hands its leaderships to others, so that appends wait for a disk that stands still for 3 s at most.',
  ),
  diskStall: duration(
    'process',
    30 * second,
    1 * second,
    10 * minute,
    'A write of the log that takes this long ends the process: a node that hangs must not keep its leaderships.',
  ),
  drainTimeout: duration(
    'process',
    2 * second,
    0,
    10 * minute,
    'How long a stopping node may take to hand its leaderships away.',
  ),
  stopTimeout: duration(
    'process',
    15 * second,
    1 * second,
    60 * minute,
    'How long a whole stop may take, sealing included; then the process ends as it is (the log has everything).',
  ),
  logLevel: choice(
    'process',
    'info',
    ['debug', 'info', 'warn', 'error'],
    'The least important line that is logged.',
  ),
  logFormat: choice(
    'process',
    'auto',
    ['auto', 'json', 'pretty'],
    'auto: readable on a terminal, JSON lines elsewhere.',
  ),
} as const satisfies Record<string, SettingInfo>;

export type SettingName = keyof typeof table;
export const settingsTable: Readonly<Record<SettingName, SettingInfo>> = Object.freeze(table);
export const settingNames = Object.keys(table) as SettingName[];

type ValueOf<I> = I extends { choices: readonly (infer C)[] }
  ? C
  : I extends { default: infer D }
    ? D
    : never;
/** Checked values; addresses are host:port (httpAddress may be `off`), durations ms, sizes bytes. */
export type Settings = { readonly [K in SettingName]: ValueOf<(typeof table)[K]> };

type Group = Common['group'];
function path(group: Group, def: string, reason: string) {
  return { kind: 'path', group, default: def, reason } as const;
}
function address(group: Group, def: string, reason: string) {
  return { kind: 'address', group, default: def, reason } as const;
}
function flag(group: Group, def: boolean, reason: string) {
  return { kind: 'switch', group, default: def, reason } as const;
}
function duration(group: Group, def: number, min: number, max: number, reason: string) {
  return { kind: 'duration', group, default: def, min, max, reason } as const;
}
function bytes(group: Group, def: number, min: number, max: number, reason: string) {
  return { kind: 'bytes', group, default: def, min, max, reason } as const;
}
function count(group: Group, def: number, min: number, max: number, reason: string) {
  return { kind: 'count', group, default: def, min, max, reason } as const;
}
function choice<const C extends string>(
  group: Group,
  def: NoInfer<C>,
  choices: readonly C[],
  reason: string,
) {
  return { kind: 'choice', group, default: def, choices, reason } as const;
}
