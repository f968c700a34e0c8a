/**
 * Reads in the background what nobody may read for years, so that damage is found
 * while other replicas can still mend it: the log's segments, LevelDB's files, every
 * row; then, where this node leads, it compares the replicas of each partition. A
 * pass takes one step after the other (a file kind, a partition), spread over the
 * period; a step itself works at a settled rate. How far it came outlives the process.
 */
import { ByteReader, ByteWriter, MalformedError } from '../common/bytes.js';
import type { Clock, Timer } from '../common/env.js';
import { HansardError } from '../common/errors.js';
import type { NodeId, PartitionId, TimeUs } from '../common/ids.js';
import type { Logger } from '../common/logger.js';
import { Pace, PaceStopped } from '../store/pace.js';
import type { PartitionStore } from '../store/types.js';
import type { LogExtent } from '../wal/types.js';
import { type Comparison, type DigestRounds, judge } from './digest-rounds.js';
import { scrubDatabase } from './scrub-database.js';
import type { ScrubFiles } from './scrub-files.js';
import { scrubLog } from './scrub-log.js';

export const findingKinds = ['identity', 'log', 'database', 'row', 'digest'] as const;
export type FindingKind = (typeof findingKinds)[number];

export interface ScrubFinding {
  readonly kind: FindingKind;
  /** Undefined: of no partition alone. */
  readonly partition: PartitionId | undefined;
  /** For people: file and byte, or row, and what is wrong. */
  readonly problem: string;
  readonly atUs: TimeUs;
}

export interface ScrubPass {
  readonly startedUs: TimeUs;
  /** 0 while it goes on. */
  readonly endedUs: TimeUs;
  /** Of `steps`. */
  readonly step: number;
  readonly steps: number;
  readonly bytes: number;
  readonly findings: number;
  /** Partitions that this node led and compared; those for which no index could be agreed on. */
  readonly compared: number;
  readonly notCompared: number;
}

export interface ScrubStatus {
  /** `off`: no period is set, and nobody asked. */
  readonly state: 'off' | 'waiting' | 'working';
  /** The one under way, else the last one of this life. */
  readonly pass: ScrubPass | undefined;
  /** When the last pass ended, also of an earlier life; 0: none did. */
  readonly lastEndedUs: TimeUs;
  /** Of this life, all passes. */
  readonly bytes: number;
  readonly findingsByKind: Readonly<Record<FindingKind, number>>;
  /** The newest ones. */
  readonly findings: readonly ScrubFinding[];
}

export interface ScrubberContext {
  readonly nodeId: NodeId;
  readonly clock: Clock;
  readonly logger: Logger;
  /** 0: no pass begins by itself. */
  readonly periodMs: number;
  readonly bytesPerSecond: number;
  readonly files: ScrubFiles | undefined;
  readonly rounds: DigestRounds;
  /** Those that can be read. */
  stores(): readonly PartitionStore[];
  leads(partition: PartitionId): boolean;
  /** Members of a partition that this node leads. */
  replicaCount(partition: PartitionId): number;
  extent(): LogExtent;
  /** Part of the partition's state here is not what was written. */
  damaged(partition: PartitionId, why: string): void;
  /** The same on another node, which differs from a majority. */
  tell(node: NodeId, partition: PartitionId, why: string): Promise<void>;
  /** So are rows of the database that belong to no partition. */
  recordsDamaged(): void;
  /** What the log still holds of these (undefined: of all) is better sealed soon. */
  logDamaged(partitions: readonly PartitionId[] | undefined): void;
  load(): Uint8Array | undefined;
  save(bytes: Uint8Array): Promise<void>;
  fatal(error: unknown): void;
}

/** Newest findings that are kept to be shown. */
const findingsKept = 100;
/** A pass that is due begins so long after the start: the node has other things to do then. */
const settleMs = 60_000;
/** Between two looks whether the next step is due. */
const lookMsMax = 60_000;

/** Steps before the partitions. */
const fileSteps = 2;

export class Scrubber {
  readonly #context: ScrubberContext;
  #timer: Timer | undefined;
  #pace: Pace | undefined;
  #working: Promise<void> | undefined;
  #pass: ScrubPass | undefined;
  /** Somebody waits for the pass: no waits between steps. */
  #isUrgent = false;
  #urgentRate: number | undefined;
  #lastEndedUs: TimeUs = 0;
  #nextStepMs = 0;
  #bytes = 0;
  readonly #byKind: Record<FindingKind, number> = { identity: 0, log: 0, database: 0, row: 0, digest: 0 };
  readonly #findings: ScrubFinding[] = [];
  /** What was told in this pass: a table's damage is met by every pass until the table is gone. */
  readonly #told = new Set<string>();
  #stopped = false;

  constructor(context: ScrubberContext) {
    this.#context = context;
    this.#load();
  }

  start(): void {
    const { clock, periodMs } = this.#context;
    if (periodMs === 0) return;
    this.#nextStepMs = clock.monotonicMs() + settleMs;
    if (this.#pass === undefined && this.#lastEndedUs > 0) {
      const dueMs = (this.#lastEndedUs - clock.nowUs()) / 1000 + periodMs;
      this.#nextStepMs = clock.monotonicMs() + Math.min(Math.max(dueMs, settleMs), periodMs);
    }
    this.#schedule();
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    this.#timer?.cancel();
    this.#pace?.stop();
    this.#context.rounds.stop();
    await this.#working;
  }

  /** A whole pass from its beginning, now; without effect while such a one is under way. `bytesPerSecond`: 0 no limit, undefined the setting's. */
  scrubNow(bytesPerSecond?: number): void {
    if (this.#stopped || this.#isUrgent) return;
    this.#isUrgent = true;
    this.#urgentRate = bytesPerSecond;
    // One that goes on by and by gives way; its rest is in the new one.
    this.#pace?.stop();
    const before = this.#working ?? Promise.resolve();
    this.#pass = undefined;
    this.#working = before.then(() => this.#whole()).catch((error: unknown) => this.#context.fatal(error));
  }

  status(): ScrubStatus {
    const { periodMs } = this.#context;
    return {
      state: this.#isUrgent || this.#pace !== undefined ? 'working' : periodMs === 0 ? 'off' : 'waiting',
      pass: this.#pass,
      lastEndedUs: this.#lastEndedUs,
      bytes: this.#bytes + (this.#pace?.bytes ?? 0),
      findingsByKind: { ...this.#byKind },
      findings: [...this.#findings],
    };
  }

  // ---- when

  #schedule(): void {
    const { clock } = this.#context;
    const waitMs = Math.max(0, this.#nextStepMs - clock.monotonicMs());
    this.#timer = clock.after(Math.min(waitMs, lookMsMax), () => {
      if (this.#stopped) return;
      if (this.#isUrgent || clock.monotonicMs() < this.#nextStepMs) return this.#schedule();
      this.#working = this.#step()
        .then(() => {
          this.#working = undefined;
          if (!this.#stopped) this.#schedule();
        })
        .catch((error: unknown) => this.#context.fatal(error));
    });
  }

  async #whole(): Promise<void> {
    try {
      do await this.#step();
      while (!this.#stopped && this.#pass?.endedUs === 0);
    } finally {
      this.#isUrgent = false;
      this.#working = undefined;
    }
  }

  /** The next step of the pass; the first one of a new pass where none is under way. */
  async #step(): Promise<void> {
    const { clock, periodMs, bytesPerSecond } = this.#context;
    let pass = this.#pass;
    if (pass === undefined || pass.endedUs > 0) pass = this.#begin();
    const pace = new Pace(clock, this.#isUrgent ? (this.#urgentRate ?? bytesPerSecond) : bytesPerSecond);
    this.#pace = pace;
    try {
      await this.#work(pass.step, pace);
    } catch (error) {
      if (error instanceof PaceStopped) return;
      // A file that can't be read, a database that says no: told, and the pass goes on.
      if (!(error instanceof HansardError) && (error as NodeJS.ErrnoException).code === undefined)
        return this.#context.fatal(error);
      this.#find('database', undefined, error instanceof Error ? error.message : String(error));
    } finally {
      this.#pace = undefined;
      this.#bytes += pace.bytes;
    }
    if (this.#pass === undefined || this.#stopped) return;
    const step = this.#pass.step + 1;
    const isLast = step >= this.#pass.steps;
    this.#change({ step, bytes: this.#pass.bytes + pace.bytes, endedUs: isLast ? clock.nowUs() : 0 });
    if (isLast) this.#end();
    this.#nextStepMs = clock.monotonicMs() + periodMs / (this.#pass.steps + 1);
    await this.#save();
  }

  #begin(): ScrubPass {
    this.#told.clear();
    const steps = fileSteps + this.#partitions().length;
    const nothing = { endedUs: 0, step: 0, bytes: 0, findings: 0, compared: 0, notCompared: 0 };
    this.#pass = { ...nothing, startedUs: this.#context.clock.nowUs(), steps };
    return this.#pass;
  }

  #end(): void {
    const pass = this.#pass as ScrubPass;
    this.#lastEndedUs = pass.endedUs;
    this.#context.logger.info({ ...pass }, 'scrubbed');
  }

  #change(changes: Partial<ScrubPass>): void {
    if (this.#pass !== undefined) this.#pass = { ...this.#pass, ...changes };
  }

  // ---- what

  #partitions(): readonly PartitionStore[] {
    return this.#context.stores();
  }

  async #work(step: number, pace: Pace): Promise<void> {
    const { files, extent } = this.#context;
    if (step < fileSteps) {
      if (files === undefined) return;
      if (step === 0) {
        await this.#identity(files);
        await scrubLog(files, extent, pace, (damage) => {
          const { segment, offset, problem, partitions } = damage;
          this.#find('log', undefined, `segment ${segment}, byte ${offset}: ${problem}`, () =>
            this.#context.logDamaged(partitions),
          );
        });
        return;
      }
      await scrubDatabase(files, pace, ({ file, offset, problem, partitions, records }) => {
        const where = `${file}, byte ${offset}: ${problem}`;
        this.#find('database', undefined, where, () => {
          if (records) this.#context.recordsDamaged();
          const all = this.#partitions().map(({ partition }) => partition);
          for (const partition of partitions ?? all) this.#context.damaged(partition, where);
        });
      });
      return;
    }
    const store = this.#partitions()[step - fileSteps];
    if (store === undefined) return;
    await this.#rows(store, pace);
    if (this.#context.leads(store.partition)) await this.#compare(store.partition);
  }

  async #identity(files: ScrubFiles): Promise<void> {
    try {
      await files.checkIdentity();
    } catch (error) {
      if (!(error instanceof HansardError)) throw error;
      this.#find('identity', undefined, error.message);
    }
  }

  async #rows(store: PartitionStore, pace: Pace): Promise<void> {
    const { partition } = store;
    const mark = (problem: string): void =>
      this.#find('row', partition, problem, () => this.#context.damaged(partition, problem));
    try {
      await store.sweepRows(pace, ({ key, problem }) => mark(`row ${key}: ${problem}`));
    } catch (error) {
      if (!(error instanceof HansardError)) throw error;
      // Gone, or set aside, meanwhile: not this pass's business.
      if (error.reason === 'STORE_DAMAGED') mark(error.message);
    }
  }

  /** Its own digest reads all again, and counts: what is missing shows here. */
  async #compare(partition: PartitionId): Promise<void> {
    const first = await this.#context.rounds.compare(partition);
    if (first === undefined) return this.#change({ notCompared: (this.#pass?.notCompared ?? 0) + 1 });
    const replicas = this.#context.replicaCount(partition);
    this.#change({ compared: (this.#pass?.compared ?? 0) + 1 });
    if (judge(first, replicas).differing.length === 0) return;
    // Once more, so that no defect of the comparison costs anybody a snapshot.
    const again = await this.#context.rounds.compare(partition);
    if (again === undefined) return;
    await this.#differ(partition, again, replicas);
  }

  async #differ(partition: PartitionId, comparison: Comparison, replicas: number): Promise<void> {
    const { differing, expected } = judge(comparison, replicas);
    const { index } = comparison;
    for (const node of differing) {
      const answer = comparison.answers.get(node);
      const digest = answer?.kind === 'digest' ? answer.digest : '';
      const against = expected === undefined ? 'no two replicas agree' : `a majority has ${expected}`;
      const problem = `node ${node} has digest ${digest} at index ${index}, ${against}`;
      this.#find('digest', partition, problem, () => {
        if (expected === undefined) return;
        if (node === this.#context.nodeId) return this.#context.damaged(partition, problem);
        this.#context.tell(node, partition, problem).catch((error: unknown) => {
          // It was reached a moment ago; the next pass tells again.
          this.#context.logger.warn({ node, partition, err: error }, 'a replica that differs was not told');
        });
      });
    }
  }

  /** Met while something else was read (a digest that a leader asked for). */
  found(kind: FindingKind, partition: PartitionId, problem: string): void {
    this.#find(kind, partition, problem);
  }

  #find(kind: FindingKind, partition: PartitionId | undefined, problem: string, then?: () => void): void {
    const name = `${kind} ${partition ?? ''} ${problem}`;
    if (this.#told.has(name)) return;
    // A pass over rubble ends, too.
    if (this.#told.size < 100 * findingsKept) this.#told.add(name);
    const finding = { kind, partition, problem, atUs: this.#context.clock.nowUs() };
    this.#byKind[kind]++;
    this.#findings.push(finding);
    if (this.#findings.length > findingsKept) this.#findings.shift();
    this.#change({ findings: (this.#pass?.findings ?? 0) + 1 });
    this.#context.logger.error({ kind, partition, problem }, 'the scrubber found damage');
    then?.();
  }

  // ---- how far it came

  #load(): void {
    const bytes = this.#context.load();
    if (bytes === undefined) return;
    try {
      const reader = new ByteReader(bytes);
      if (reader.u8() !== factVersion) return;
      this.#lastEndedUs = reader.u64();
      const startedUs = reader.u64();
      const [step, steps, read, findings] = [
        reader.uvarint(),
        reader.uvarint(),
        reader.u64(),
        reader.uvarint(),
      ];
      // The partitions may be others by now: then it is a new pass.
      if (startedUs > 0 && steps === fileSteps + this.#partitions().length) {
        const rest = { endedUs: 0, compared: 0, notCompared: 0 };
        this.#pass = { ...rest, startedUs, step, steps, bytes: read, findings };
      }
    } catch (error) {
      // It only says where to go on.
      if (!(error instanceof MalformedError)) throw error;
    }
  }

  async #save(): Promise<void> {
    const pass = this.#pass?.endedUs === 0 ? this.#pass : undefined;
    const writer = new ByteWriter(40)
      .u8(factVersion)
      .u64(this.#lastEndedUs)
      .u64(pass?.startedUs ?? 0);
    writer.uvarint(pass?.step ?? 0).uvarint(pass?.steps ?? 0);
    writer.u64(pass?.bytes ?? 0).uvarint(pass?.findings ?? 0);
    // An urgent one has steps of milliseconds; its end is what is kept.
    if (this.#stopped || (this.#isUrgent && pass !== undefined)) return;
    await this.#context.save(writer.finish()).catch((error: unknown) => this.#context.fatal(error));
  }
}

const factVersion = 1;
