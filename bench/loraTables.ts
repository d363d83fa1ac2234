/**
 * node --import tsx bench/loraTables.ts [FILE] [--write]
 *
 * The tables of docs/benchmarks.md on the fused LoRA product, from the file that `npm run bench:lora` writes; --write puts
 * them there. A `!` is a target missed.
 */
import path from 'node:path';
import type { CaseResult, Relation } from '../ts/cli/bench/schema';
import { readReport } from '../ts/cli/bench/schema';
import { percent } from '../ts/cli/bench/text';
import { duration, significant } from '../ts/cli/table';
import { markdown, publish } from './document.ts';

const write = process.argv.includes('--write');
const file =
  process.argv.slice(2).find((word) => !word.startsWith('--')) ??
  path.join(__dirname, 'results/lora.json');
const { cases, peers, machine, created } = readReport(file);

/** `lora/nf4` and `bf16/lora/nf4` are rows, top2 a column. */
const rows = [...new Set(cases.map(({ op }) => op.replace('/top2', '')))];

interface Wanted {
  pass?: string;
  M: number;
  r?: number;
  E?: number;
  top2?: boolean;
}

function find(row: string, { pass = 'forward', M, r = 0, E = 0, top2 }: Wanted) {
  const op = top2 ? `${row}/top2` : row;
  return cases.find(
    (one) =>
      one.op === op &&
      one.pass === pass &&
      one.shape.M === M &&
      one.shape.r === r &&
      one.shape.E === E,
  );
}

const missed = (reached: boolean): string => (reached ? '' : ' !');

function over(one: CaseResult | undefined, to: Relation['to']): string {
  const relation = one?.relations?.find((found) => found.to === to);
  if (!relation) return '';
  const target =
    to === 'base'
      ? one!.targets?.overBase
      : to === 'one adapter'
        ? one!.targets?.overOne
        : undefined;
  return relation.ratio.toFixed(3) + missed(!target || relation.ratio <= target);
}

function peer(one: CaseResult | undefined, name: string): string {
  const found = one?.peers.find((own) => own.name === name);
  const target = one?.targets?.peers?.[name];
  return found ? significant(found.ratio) + missed(!target || found.ratio >= target) : '';
}

function share(one: CaseResult | undefined, of: 'shareOfPeak' | 'shareOfBandwidth'): string {
  const value = one?.[of];
  const target = one?.targets?.[of];
  return value === undefined ? '' : percent(value) + missed(!target || value >= target);
}

const printed: string[] = [];

type Column = [head: string, cell: (row: string) => string];

function add(title: string, columns: Column[]): void {
  const lines = rows
    .map((row) => [row, ...columns.map(([, cell]) => cell(row))])
    .filter(([, ...cells]) => cells.some((cell) => cell !== ''));
  const filled = columns.map((_, i) => lines.some((line) => line[i + 1] !== ''));
  const kept = (cells: string[]): string[] => cells.filter((_, i) => i === 0 || filled[i - 1]);
  const head = ['base', ...columns.map(([name]) => name)];
  printed.push(`${title}\n`, markdown(kept(head), lines.map(kept)), '');
}

const ranks = [8, 16, 64];
const names = ['openblas', 'onnxruntime', 'ggml'];

function overBase(wanted: Wanted, own = ranks): Column[] {
  return own.map((r) => [`r = ${r}`, (row) => over(find(row, { ...wanted, r, E: 1 }), 'base')]);
}

function beside(wanted: Wanted): Column[] {
  const fused = { ...wanted, r: 16, E: 1 };
  return [
    ['r = 16 over unfused', (row) => over(find(row, fused), 'unfused')],
    ['ggml, r = 16', (row) => peer(find(row, fused), 'ggml')],
  ];
}

const base = (wanted: Wanted): Column[] => [
  ['base alone', (row) => durationOf(find(row, wanted))],
  ...names.map((name): Column => [name, (row) => peer(find(row, wanted), name)]),
];

function durationOf(one: CaseResult | undefined): string {
  return one ? duration(one.medianNs) : '';
}

const prefill = { M: 512 };
const versions = peers.map(({ version }) => version).join('; ');
printed.push(`${machine.processor}, ${created.slice(0, 10)}; ${versions}.\n`);
add('512 rows, 4096 x 4096:', [
  [
    'base alone, GF/s',
    (row) => significant(find(row, prefill)?.gflops ?? Number.NaN).replace('NaN', ''),
  ],
  ['of peak', (row) => share(find(row, prefill), 'shareOfPeak')],
  ...base(prefill).slice(1),
  ...overBase(prefill),
  ...beside(prefill),
]);
add(
  'Several adapters, r = 16, as a multiple of one; top-2 of 8 with gates over the base product:',
  [
    ['8 x 64 rows', (row) => over(find(row, { ...prefill, r: 16, E: 8 }), 'one adapter')],
    ['64 x 8 rows', (row) => over(find(row, { ...prefill, r: 16, E: 64 }), 'one adapter')],
    ['64 x 8 rows over base', (row) => over(find(row, { ...prefill, r: 16, E: 64 }), 'base')],
    ['top-2 of 8', (row) => over(find(row, { ...prefill, r: 16, E: 8, top2: true }), 'base')],
  ],
);
for (const M of [1, 8, 64]) {
  const several = M === 8 ? 8 : 1000;
  add(`Decode, ${M} ${M === 1 ? 'row' : 'rows'}, weights and adapters from memory:`, [
    ...base({ M }),
    ['of read bandwidth', (row) => (M > 8 ? '' : share(find(row, { M }), 'shareOfBandwidth'))],
    ...overBase({ M }),
    [
      'with r = 16',
      (row) => (M > 8 ? '' : share(find(row, { M, r: 16, E: 1 }), 'shareOfBandwidth')),
    ],
    ...beside({ M }),
    ...(M === 64
      ? [['8 adapters', (row) => over(find(row, { M, r: 16, E: 8 }), 'base')] satisfies Column]
      : []),
    ...(M > 1
      ? [
          [
            `each row its own${several === 1000 ? ' of 1000' : ''}`,
            (row) => over(find(row, { M, r: 16, E: several }), 'base'),
          ] satisfies Column,
        ]
      : []),
    ['top-2 of 8', (row) => over(find(row, { M, r: 16, E: 8, top2: true }), 'base')],
  ]);
}
const step = { ...prefill, pass: 'forward-backward' };
add("Forward and backward, 512 rows, over the base product's forward and dx:", [
  ['base alone', (row) => durationOf(find(row, step))],
  ...overBase(step, [16, 64]),
  ['64 x 8 rows, r = 16', (row) => over(find(row, { ...step, r: 16, E: 64 }), 'base')],
  ['top-2 of 8, r = 16', (row) => over(find(row, { ...step, r: 16, E: 8, top2: true }), 'base')],
  ['r = 16 over unfused', (row) => over(find(row, { ...step, r: 16, E: 1 }), 'unfused')],
]);

publish('lora', printed.join('\n'), write);
