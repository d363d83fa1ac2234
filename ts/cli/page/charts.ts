// What the plots of the page show, as plain data: the page's script draws it, and its tables say it again.
import type { Ceilings } from '../bench/ceilings';
import type { BenchReport, CaseResult } from '../bench/schema';
import { keyText } from '../bench/schema';
import type { Pass } from '../operation';
import { allPasses, shapeText } from '../operation';
import { significant } from '../table';

export interface Point {
  x: number;
  y: number;
  /** What it is of. */
  name: string;
}

export interface Series {
  label: string;
  points: Point[];
}

/** What a series or bar is shown by: the page has a choice of them. */
export interface Choice {
  /** As the rooflines are titled; of what goes over threads the instruction set alone. */
  where: string;
  pass: Pass;
}

export type ChosenSeries = Series & Choice;

/** Of one instruction set on one number of threads. */
export interface Roofline {
  /** `avx512, 2 threads` */
  where: string;
  isa: string;
  /** Lines from left to right: flops per byte, GF/s. */
  ceilings: Series[];
  /** The cases by pass. */
  passes: Series[];
}

/** One case beside other libraries. */
export interface Bar extends Choice {
  label: string;
  /** By peer, in their order: how many times as long it takes, null where it did not run. */
  ratios: (number | null)[];
}

export interface Charts {
  rooflines: Roofline[];
  /** ns per token and head over tokens. */
  tokens: ChosenSeries[];
  /** Speed over that on the fewest threads, over threads. */
  threads: ChosenSeries[];
  peers: string[];
  bars: Bar[];
}

export function chartsOf({ ceilings, cases, peers }: BenchReport): Charts {
  const ran = peers
    .map(({ name }) => name)
    .filter((name) => cases.some((one) => one.peers.some((peer) => peer.name === name)));
  const label = labelsOf(cases);
  return {
    rooflines: ceilings.map((one) => rooflineOf(one, cases, label)),
    tokens: tokenSeries(cases, label),
    threads: threadSeries(cases, label),
    peers: ran,
    bars: cases
      .filter((one) => one.peers.length > 0)
      .map((one) => ({
        ...choiceOf(one),
        label: label(one),
        ratios: ran.map((name) => one.peers.find((peer) => peer.name === name)?.ratio ?? null),
      })),
  };
}

/** `avx512, 2 threads` */
export function whereText({ isa, threads }: Pick<CaseResult, 'isa' | 'threads'>): string {
  return `${isa}, ${threads} thread${threads > 1 ? 's' : ''}`;
}

function choiceOf(one: CaseResult): Choice {
  return { where: whereText(one), pass: one.pass };
}

/** `withoutT`: T is the axis. */
type Label = (one: CaseResult, withoutT?: boolean) => string;
/** Names of cases within one instruction set and number of threads, without what all of them have in common. */
export function labelsOf(cases: readonly CaseResult[]): Label {
  const differ = (value: (one: CaseResult) => unknown): boolean =>
    new Set(cases.map(value)).size > 1;
  const dtypes = differ(({ dtype }) => dtype);
  const modes = differ(({ mode }) => mode ?? 'auto');
  const sizes = differ(({ shape: { T: _T, ...sizes } }) => shapeText(sizes));
  const long = cases.filter(({ shape, pass }) => 'T' in shape && pass !== 'decode');
  const lengths = new Set(long.map(({ shape }) => shape.T)).size > 1;
  return ({ op, pass, mode, model, dtype, shape }, withoutT = false) => {
    const withT = lengths && !withoutT && pass !== 'decode';
    const shown = Object.entries(shape).filter(([axis]) => (axis === 'T' ? withT : sizes));
    const words = [model ?? op, pass, modes ? (mode ?? '') : '', dtypes ? dtype : ''];
    return [words.filter(Boolean).join(' '), shapeText(Object.fromEntries(shown))]
      .filter(Boolean)
      .join(', ');
  };
}

export function intensityOf({ flops, bytes }: CaseResult): number | undefined {
  return flops === undefined ? undefined : flops / bytes;
}

function rooflineOf(own: Ceilings, cases: readonly CaseResult[], label: Label): Roofline {
  const { isa, threads, peaks, bandwidths } = own;
  const here = cases.filter((one) => one.isa === isa && one.threads === threads && one.flops);
  const ofPasses = allPasses
    .map((pass) => ({
      label: pass,
      points: here
        .filter((one) => one.pass === pass)
        .map((one) => ({ x: intensityOf(one)!, y: one.gflops!, name: label(one) })),
    }))
    .filter(({ points }) => points.length > 0);
  const top = Math.max(...Object.values(peaks));
  const speeds = bandwidths.map(({ level, read, update }) => ({
    level,
    speed: Math.max(read, update),
  }));
  const ridges = speeds.map(({ speed }) => top / speed);
  const xs = [...ridges, ...ofPasses.flatMap(({ points }) => points.map(({ x }) => x))];
  const left = 10 ** Math.floor(Math.log10(Math.min(...xs) / 1.5));
  const right = 10 ** Math.ceil(Math.log10(Math.max(...xs) * 1.5));
  const lines = speeds.map(({ level, speed }) => {
    const label = `${level} ${significant(speed)} GB/s`;
    const points = [left, top / speed].map((x) => ({ x, y: x * speed, name: label }));
    return { label, points };
  });
  const roofs = Object.entries(peaks).map(([kind, gflops]) => {
    const label = `${kind} peak ${significant(gflops)} GF/s`;
    return { label, points: [left, right].map((x) => ({ x, y: gflops, name: label })) };
  });
  return { where: whereText(own), isa, ceilings: [...roofs, ...lines], passes: ofPasses };
}

/** Results that differ in nothing but one number, where there are several. */
function families(
  cases: readonly CaseResult[],
  numberOf: (one: CaseResult) => number,
  nameOf: (one: CaseResult) => string,
): CaseResult[][] {
  const groups = new Map<string, CaseResult[]>();
  for (const one of cases) groups.set(nameOf(one), [...(groups.get(nameOf(one)) ?? []), one]);
  return [...groups.values()]
    .filter((members) => new Set(members.map(numberOf)).size > 1)
    .map((members) => members.sort((a, b) => numberOf(a) - numberOf(b)));
}

function tokenSeries(cases: readonly CaseResult[], label: Label): ChosenSeries[] {
  const timed = cases.filter((one) => one.nsPerTokenHead !== undefined && one.pass !== 'decode');
  const key = (one: CaseResult): string => keyText({ ...one, shape: { ...one.shape, T: 0 } });
  return families(timed, ({ shape }) => shape.T, key).map((members) => {
    const name = label(members[0], true);
    const points = members.map((one) => ({ x: one.shape.T, y: one.nsPerTokenHead!, name }));
    return { ...choiceOf(members[0]), label: name, points };
  });
}

function threadSeries(cases: readonly CaseResult[], label: Label): ChosenSeries[] {
  const key = (one: CaseResult): string => keyText({ ...one, threads: 0 });
  return families(cases, ({ threads }) => threads, key).map((members) => {
    const [{ isa, pass, medianNs }] = members;
    const name = label(members[0]);
    const points = members.map((one) => ({ x: one.threads, y: medianNs / one.medianNs, name }));
    return { where: isa, pass, label: name, points };
  });
}
