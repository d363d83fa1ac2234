// The tables of the page. Every number that a plot shows stands in one of them.
import type { BenchReport, CaseResult } from '../bench/schema';
import { relationNames } from '../bench/schema';
import { percent, relationText } from '../bench/text';
import { shapeText } from '../operation';
import { duration, significant } from '../table';
import type { Charts, ChosenSeries } from './charts';
import { intensityOf, labelsOf, whereText } from './charts';
import type { Cell, Table } from './html';

const plain = (text: string): Cell => ({ text });

function number(value: number | undefined, text: (x: number) => string = significant): Cell {
  return value === undefined ? { text: '' } : { text: text(value), value };
}

interface Column {
  head: string;
  cell(one: CaseResult): Cell;
  /** Where all cases agree it stands in the caption. */
  common?: boolean;
}

const columns: readonly Column[] = [
  { head: 'operation', cell: ({ op }) => plain(op) },
  { head: 'model', cell: ({ model }) => plain(model ?? ''), common: true },
  { head: 'pass', cell: ({ pass }) => plain(pass) },
  { head: 'mode', cell: ({ mode }) => plain(mode ?? ''), common: true },
  { head: 'type', cell: ({ dtype }) => plain(dtype), common: true },
  { head: 'shape', cell: ({ shape }) => plain(shapeText(shape)) },
  { head: 'instructions', cell: ({ isa }) => plain(isa), common: true },
  { head: 'threads', cell: ({ threads }) => number(threads, String), common: true },
  { head: 'median', cell: ({ medianNs }) => number(medianNs, duration) },
  { head: 'p25', cell: ({ p25Ns }) => number(p25Ns, duration) },
  { head: 'p75', cell: ({ p75Ns }) => number(p75Ns, duration) },
  { head: 'noise', cell: ({ noise }) => number(noise, percent) },
  { head: 'ns/token/head', cell: ({ nsPerTokenHead }) => number(nsPerTokenHead) },
  { head: 'flops/byte', cell: (one) => number(intensityOf(one)) },
  { head: 'GF/s', cell: ({ gflops }) => number(gflops) },
  { head: 'of peak', cell: ({ shareOfPeak }) => number(shareOfPeak, percent) },
  { head: 'GB/s', cell: ({ gbPerSecond }) => number(gbPerSecond) },
  { head: 'level', cell: ({ level }) => plain(level) },
  { head: 'of its level', cell: ({ shareOfBandwidth }) => number(shareOfBandwidth, percent) },
];

export function casesTable({ cases }: BenchReport): Table {
  const filled = columns
    .map(({ head, cell, common }) => {
      const cells = cases.map(cell);
      const texts = new Set(cells.map(({ text }) => text));
      return { head, cells, texts, hidden: common && texts.size === 1 };
    })
    .filter(({ texts }) => [...texts].some(Boolean));
  const shared = filled.filter(({ hidden }) => hidden);
  const shown = filled.filter(({ hidden }) => !hidden);
  const agreed = shared.map(({ head, texts }) => `${head} ${[...texts][0]}`).join(', ');
  return {
    id: 'cases',
    caption: `All cases${agreed && `, ${agreed}`}; a heading sorts`,
    head: shown.map(({ head }) => head),
    rows: cases.map((_, i) => shown.map(({ cells }) => cells[i])),
    sortable: true,
  };
}

export function peersTable({ cases }: BenchReport, { peers: ran }: Charts): Table {
  const label = labelsOf(cases);
  return {
    id: 'peers',
    caption: 'How many times as long as rankone (quartiles over rounds); a heading sorts',
    head: ['case', 'on', ...ran],
    rows: cases
      .filter((one) => one.peers.length > 0)
      .map((one) => [
        plain(label(one)),
        plain(whereText(one)),
        ...ran.map((name) => {
          const peer = one.peers.find((found) => found.name === name);
          const range = peer && [peer.ratioP25, peer.ratioP75].map((x) => significant(x));
          return number(peer?.ratio, (x) => `${significant(x)} (${range!.join(' .. ')})`);
        }),
      ]),
    sortable: true,
  };
}

/** What adapters cost: the fused LoRA product beside its base product and its other forms. */
export function relationsTable({ cases }: BenchReport): Table {
  const label = labelsOf(cases);
  return {
    id: 'relations',
    caption:
      'Time of the fused LoRA product as a multiple of others of the engine, in the same turns (quartiles over rounds), and its target, with ! where that is missed; a heading sorts',
    head: ['case', 'on', ...relationNames.map((to) => `over ${to}`)],
    rows: cases
      .filter(({ relations }) => relations)
      .map((one) => [
        plain(label(one)),
        plain(whereText(one)),
        ...relationNames.map((to): Cell => {
          const value = one.relations!.find((relation) => relation.to === to)?.ratio;
          return value === undefined ? plain('') : { text: relationText(one, to), value };
        }),
      ]),
    sortable: true,
  };
}

/** One row per series, one column per place. */
function seriesTable(id: string, caption: string, over: string, series: ChosenSeries[]): Table {
  const places = [...new Set(series.flatMap(({ points }) => points.map(({ x }) => x)))].sort(
    (a, b) => a - b,
  );
  return {
    id,
    caption,
    head: ['case', 'on', ...places.map((x) => `${over} ${x}`)],
    rows: series.map(({ label, where, points }) => [
      plain(label),
      plain(where),
      ...places.map((x) => number(points.find((point) => point.x === x)?.y)),
    ]),
    sortable: true,
  };
}

export function scalingTables({ tokens, threads }: Charts): { tokens: Table; threads: Table } {
  return {
    tokens: seriesTable('tokens', 'Nanoseconds per token and head', 'T =', tokens),
    threads: seriesTable('threads', 'Speed over that on the fewest threads', 'threads', threads),
  };
}

export function ceilingsTable({ ceilings }: BenchReport): Table {
  const levels = [...new Set(ceilings.flatMap((one) => one.bandwidths.map(({ level }) => level)))];
  return {
    id: 'ceilings',
    caption:
      'Measured ceilings: GF/s of multiply-adds in registers, GB/s read and updated in place',
    head: [
      'where',
      'f32 peak',
      'bf16 peak',
      'int8 peak',
      ...levels.flatMap((level) => [`${level} read`, `${level} updated`]),
    ],
    rows: ceilings.map(({ peaks, bandwidths, ...where }) => [
      plain(whereText(where)),
      number(peaks.f32),
      number(peaks.bf16),
      number(peaks.int8),
      ...levels.flatMap((level) => {
        const found = bandwidths.find((one) => one.level === level);
        return [number(found?.read), number(found?.update)];
      }),
    ]),
  };
}

export function comparisonTable({ comparison }: BenchReport): Table {
  return {
    id: 'comparison',
    caption: 'Share of the peak, new over old: above 1 is faster',
    head: ['case', 'ratio', 'of the fastest call', 'noise', 'verdict'],
    rows: (comparison?.changes ?? []).map(({ name, ratio, fastest, limit, verdict }) => [
      plain(name),
      number(ratio, (x) => x.toFixed(3)),
      number(fastest, (x) => x.toFixed(3)),
      number(limit, percent),
      { text: verdict, kind: verdict },
    ]),
    sortable: true,
  };
}
