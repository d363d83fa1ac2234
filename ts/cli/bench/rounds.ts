// Timing in turns: every contender has a slice of each round, in an order of its own per round, so that what the machine
// does meanwhile (its clock, its other work) falls on all of them alike.
import { Random } from '#oracle/support/random';
import { deviation, median, quantiles } from './statistics';

export interface Contender {
  name: string;
  /** Nanoseconds of each of so many runs, one after the other. */
  time(runs: number): Promise<number[]>;
}

export interface Rounds {
  /** By contender, in the order given: the samples of every round. */
  samples: number[][][];
  /** By contender that could not go on: why. Its samples do not count. */
  failures: (string | undefined)[];
  /** What `between` gave before the first round and after each. */
  peaks: number[];
}

const ROUNDS = { fewest: 3, most: 7 };
const MOST_RUNS = 20_000;

/**
 * Times the contenders for about `seconds` each, at least `limits.fewest` rounds. The first one must not fail; another one
 * that does drops out.
 * `between` is called before, between and after the rounds.
 */
export async function timeInTurns(
  contenders: readonly Contender[],
  seconds: number,
  between: () => number,
  limits = ROUNDS,
): Promise<Rounds> {
  const failures: (string | undefined)[] = contenders.map(() => undefined);
  const attempt = async (i: number, runs: number): Promise<number[]> => {
    if (i === 0) return contenders[i].time(runs);
    if (failures[i] !== undefined) return [];
    try {
      return await contenders[i].time(runs);
    } catch (error) {
      failures[i] = (error as Error).message;
      return [];
    }
  };

  // Caches, threads and compilers get warm in the first runs; how long one takes is read off a later one.
  const once: number[] = [];
  for (const i of contenders.keys()) {
    await attempt(i, 2);
    const [ns = 1] = await attempt(i, 1);
    once.push(Math.max(ns, 1));
  }
  const budget = 1e9 * seconds;
  const affordable = Math.floor(budget / Math.max(...once));
  const rounds = Math.max(limits.fewest, Math.min(limits.most, affordable));
  const runs = once.map((ns) => Math.min(MOST_RUNS, Math.max(1, Math.ceil(budget / rounds / ns))));

  const random = new Random(1);
  const samples: number[][][] = contenders.map(() => []);
  const peaks = [between()];
  for (let round = 0; round < rounds; round++) {
    for (const i of shuffled([...contenders.keys()], random)) {
      samples[i].push(await attempt(i, runs[i]));
    }
    peaks.push(between());
  }
  return { samples, failures, peaks };
}

function shuffled<T>(items: T[], random: Random): T[] {
  for (let i = items.length - 1; i > 0; i--) {
    const j = random.integer(i + 1);
    [items[i], items[j]] = [items[j], items[i]];
  }
  return items;
}

export interface Ratio {
  /** The median of the rounds' own ratios, so that a machine that gets slower cancels: above 1, the peer takes longer. */
  ratio: number;
  /** The quartiles of those. */
  ratioP25: number;
  ratioP75: number;
}

/** A peer's times as a multiple of ours. */
export function ratioOf(ours: readonly number[][], theirs: readonly number[][]): Ratio {
  const ofRounds = ours.map((samples, round) => median(theirs[round]) / median(samples));
  const [ratioP25, ratio, ratioP75] = quantiles(ofRounds, [0.25, 0.5, 0.75]);
  return { ratio, ratioP25, ratioP75 };
}

/**
 * How far times in units of the peak scatter, relative: the median absolute deviation of single runs, or that of the
 * rounds' medians, each against the better of the peaks on either side of it, whichever is larger.
 */
export function noiseOf(rounds: readonly number[][], peaks: readonly number[]): number {
  const all = rounds.flat();
  const inPeaks = rounds.map((samples, i) => median(samples) * Math.max(peaks[i], peaks[i + 1]));
  return Math.max(deviation(all) / median(all), deviation(inPeaks) / median(inPeaks));
}
