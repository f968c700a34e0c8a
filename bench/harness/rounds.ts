/**
 * The order of measurements: row by row, within a row round by round, within a
 * round every system once, in an order that changes. What is compared lies
 * close in time, so what drifts with the machine cancels in a round's ratios.
 */
import type { Sample } from './sample.js';

export interface Rounds<S, W> {
  readonly systems: readonly S[];
  readonly workloads: readonly W[];
  readonly rounds: number;
  /** A round with more stolen time than this in any of its samples is thrown away … */
  readonly maxStealPercent: number;
  /** … and measured again, at most so often; the last attempt stays whatever it met. */
  readonly retries: number;
}

export interface Row {
  readonly workload: string;
  /** Rounds that were thrown away. */
  readonly repeated: number;
  /** Rounds that stayed though their steal was above the limit. */
  readonly aboveLimit: number;
}

export interface Measured {
  readonly samples: Sample[];
  readonly discarded: Sample[];
  readonly rows: Row[];
}

/** Fills `into` as it goes, so that what was measured before a failure is not lost. */
export async function measureRounds<S, W extends { readonly name: string }>(
  { systems, workloads, rounds, maxStealPercent, retries }: Rounds<S, W>,
  /** Undefined: the system has no such workload. */
  measure: (system: S, workload: W, round: number) => Promise<Sample | undefined>,
  /** Before a round is repeated: bursts of stolen time pass. */
  waitOut: (workload: W, stealPercent: number) => Promise<void>,
  into: Measured,
): Promise<void> {
  for (const [index, workload] of workloads.entries()) {
    let repeated = 0;
    let aboveLimit = 0;
    for (let round = 0; round < rounds; round++) {
      for (let attempt = 0; ; attempt++) {
        const isLast = attempt >= retries;
        const found: Sample[] = [];
        let worst = 0;
        for (const system of orderOf(systems, round, index)) {
          const sample = await measure(system, workload, round);
          if (sample === undefined) continue;
          found.push(sample);
          worst = Math.max(worst, sample.stealPercent);
          // The rest of a round that will be thrown away is not measured.
          if (worst > maxStealPercent && !isLast) break;
        }
        if (worst <= maxStealPercent || isLast) {
          into.samples.push(...found);
          if (worst > maxStealPercent) aboveLimit++;
          break;
        }
        into.discarded.push(...found);
        repeated++;
        await waitOut(workload, worst);
      }
    }
    into.rows.push({ workload: workload.name, repeated, aboveLimit });
  }
}

/** Each goes first in turn, and has its other neighbour before it in every second round. */
export function orderOf<S>(systems: readonly S[], round: number, row: number): S[] {
  const count = systems.length;
  const first = (round + row) % count;
  const direction = round % 2 === 0 ? 1 : count - 1;
  return systems.map((_, i) => systems[(first + direction * i) % count] as S);
}
