// A report as text for the terminal.
import { headline } from '../info';
import { shapeText } from '../operation';
import { duration, significant, table } from '../table';
import type { Ceilings } from './ceilings';
import type { Change, Comparison } from './compare';
import type { BenchReport, CaseResult, PeerResult, Relation } from './schema';
import { relationNames } from './schema';
import { skipText } from './skipped';

interface Column {
  head: string;
  cell(one: CaseResult): string;
  /** Where all cases agree it stands above the table. */
  common?: boolean;
  left?: boolean;
}

const text = (x: number | undefined, digits = 3): string =>
  x === undefined ? '' : significant(x, digits);
export const percent = (x: number | undefined): string =>
  x === undefined ? '' : `${(100 * x).toFixed(1)}%`;

const columns: readonly Column[] = [
  { head: 'operation', cell: ({ op }) => op, left: true },
  { head: 'model', cell: ({ model }) => model ?? '', left: true, common: true },
  { head: 'pass', cell: ({ pass }) => pass, left: true },
  { head: 'mode', cell: ({ mode }) => mode ?? '', left: true },
  { head: 'dtype', cell: ({ dtype }) => dtype, left: true, common: true },
  { head: 'isa', cell: ({ isa }) => isa, left: true, common: true },
  { head: 'threads', cell: ({ threads }) => String(threads), left: true, common: true },
  { head: 'shape', cell: ({ shape }) => shapeText(shape), left: true },
  { head: 'median', cell: ({ medianNs }) => duration(medianNs) },
  { head: 'p25 .. p75', cell: ({ p25Ns, p75Ns }) => `${duration(p25Ns)} .. ${duration(p75Ns)}` },
  { head: 'ns/token/head', cell: ({ nsPerTokenHead }) => text(nsPerTokenHead) },
  { head: 'GF/s', cell: ({ gflops }) => text(gflops) },
  {
    head: 'of peak',
    cell: ({ shareOfPeak, targets }) =>
      withAim(percent(shareOfPeak), atLeast(shareOfPeak, targets?.shareOfPeak)),
  },
  { head: 'GB/s', cell: ({ gbPerSecond }) => text(gbPerSecond) },
  {
    head: 'of its level',
    cell: ({ shareOfBandwidth, level, targets }) =>
      withAim(
        `${percent(shareOfBandwidth)} ${level}`,
        atLeast(shareOfBandwidth, targets?.shareOfBandwidth),
      ),
  },
  ...relationNames.map(
    (to): Column => ({ head: `over ${to}`, cell: (one) => relationText(one, to), common: true }),
  ),
];

interface Aim {
  text: string;
  reached: boolean;
}

/** A share that is meant to be so large. */
export function atLeast(share: number | undefined, target: number | undefined): Aim | undefined {
  if (share === undefined || target === undefined) return undefined;
  return { text: `>=${Math.round(100 * target)}%`, reached: share >= target };
}

/** What was measured with what it is meant to be. */
function withAim(measured: string, aim: Aim | undefined): string {
  return aim ? `${measured} ${aim.text}${aim.reached ? ' ' : '!'}` : measured;
}

/** The ratio of a case to something else of the engine's, with its quartiles and its target. */
export function relationText(one: CaseResult, to: Relation['to']): string {
  const found = one.relations?.find((relation) => relation.to === to);
  if (!found) return '';
  const [ratio, low, high] = [found.ratio, found.ratioP25, found.ratioP75].map((x) => x.toFixed(3));
  const target =
    to === 'base' ? one.targets?.overBase : to === 'one adapter' ? one.targets?.overOne : undefined;
  const aim = target && { text: `<=${target}`, reached: found.ratio <= target };
  return withAim(`${ratio} (${low} .. ${high})`, aim || undefined);
}

function peerText(peer: PeerResult, target: number | undefined): string {
  const [ratio, low, high] = [peer.ratio, peer.ratioP25, peer.ratioP75].map((x) => significant(x));
  const aim = target && { text: `>=${target}`, reached: peer.ratio >= target };
  return withAim(`${ratio} (${low} .. ${high})`, aim || undefined);
}

const PEERS = ' Peers: how many times as long they take, and the quartiles of that.';
const RELATIONS =
  ' Over base, one adapter, unfused: the time as a multiple of theirs, in the same turns. Behind a figure its target, with ! where that is missed.';

/** What `rankone bench` prints. */
export function reportText(report: BenchReport): string {
  const { machine, cases, ceilings, failures, skipped, comparison } = report;
  return [
    headline({ ...machine, ...commonOf(ceilings) }),
    ...ceilings.map(ceilingsText),
    `Minimum flops and bytes.${cases.some(({ peers }) => peers.length > 0) ? PEERS : ''}${cases.some(({ relations }) => relations) ? RELATIONS : ''}`,
    '',
    ...(cases.length > 0 ? [casesTable(report)] : []),
    ...failures.map((failure) => `FAIL ${failure}`),
    ...(skipped.length > 0 ? ['', ...skipped.map((skip) => `skipped ${skipText(skip)}`)] : []),
    ...(comparison ? ['', ...comparisonText(comparison)] : []),
  ].join('\n');
}

/** The instruction set and threads that all results have, for the headline. */
function commonOf(ceilings: readonly Ceilings[]): { isa?: string; threads?: number } {
  const isas = new Set(ceilings.map(({ isa }) => isa));
  const threads = ceilings.map((one) => one.threads);
  return {
    ...(isas.size > 0 && { isa: [...isas].join(' ') }),
    ...(threads.length > 0 && { threads: Math.max(...threads) }),
  };
}

function ceilingsText({ isa, threads, peaks, bandwidths }: Ceilings): string {
  const peak = Object.entries(peaks).map(([kind, gflops]) => `${kind} ${significant(gflops)} GF/s`);
  const levels = bandwidths.map(
    ({ level, read, update }) => `${level} ${significant(read)} (${significant(update)})`,
  );
  return `${isa}, ${threads} thread${threads > 1 ? 's' : ''}: peak ${peak.join(', ')}; GB/s read (updated) ${levels.join(', ')}`;
}

function casesTable({ cases, peers }: BenchReport): string {
  const shown = columns.filter(({ cell, common }) => {
    const values = new Set(cases.map(cell));
    return !(common && values.size === 1) && !(values.size === 1 && values.has(''));
  });
  const ofPeers = peers
    .filter(({ name }) => cases.some((one) => one.peers.some((peer) => peer.name === name)))
    .map(
      ({ name }): Column => ({
        head: name,
        cell: (one) => {
          const peer = one.peers.find((found) => found.name === name);
          return peer ? peerText(peer, one.targets?.peers?.[name]) : '-';
        },
      }),
    );
  const all = [...shown, ...ofPeers];
  const lines = cases.map((one) => all.map(({ cell }) => cell(one)));
  const left = all.filter((column) => column.left).length;
  return table([all.map(({ head }) => head), ...lines], left);
}

export function changeText({ name, ratio, fastest, limit, verdict }: Change): string {
  const change = `${ratio.toFixed(3)} of the old share of the peak (${fastest.toFixed(3)} of the fastest call), noise ${percent(limit)}`;
  return `${name}: ${change}${verdict === 'same' ? '' : `, ${verdict.toUpperCase()}`}`;
}

function comparisonText({ created, changes, onlyOld, onlyNew, warnings }: Comparison): string[] {
  const slower = changes.filter(({ verdict }) => verdict === 'slower').length;
  const faster = changes.filter(({ verdict }) => verdict === 'faster').length;
  return [
    `Against the run of ${created}:`,
    ...warnings.map((warning) => `note: ${warning}`),
    ...changes.map(changeText),
    ...onlyOld.map((name) => `${name}: only in the old run`),
    ...onlyNew.map((name) => `${name}: only in this run`),
    `${changes.length} compared: ${slower} slower, ${faster} faster`,
  ];
}
