/**
 * node --import tsx bench/operationTables.ts [FILE] [--write]
 *
 * The table of docs/benchmarks.md on the operations beside the grid, products and adapters, from a file of
 * `rankone bench --json`; --write puts it there.
 */
import path from 'node:path';
import type { CaseResult } from '../ts/cli/bench/schema';
import { readReport } from '../ts/cli/bench/schema';
import { percent } from '../ts/cli/bench/text';
import { shapeText } from '../ts/cli/operation';
import { duration, significant } from '../ts/cli/table';
import { markdown, publish } from './document.ts';

const write = process.argv.includes('--write');
const file =
  process.argv.slice(2).find((word) => !word.startsWith('--')) ??
  path.join(__dirname, 'results/operations.json');
const { cases, peers, machine, created } = readReport(file);

/** Of the multiply-add peak or of the bandwidth of the level that holds the data: the one that is nearer. */
function share(one: CaseResult): string {
  const { shareOfPeak = 0, shareOfBandwidth, level } = one;
  return shareOfPeak > shareOfBandwidth
    ? `${percent(shareOfPeak)} of peak`
    : `${percent(shareOfBandwidth)} of ${level}`;
}

function cellsOf(forward: CaseResult, backward: CaseResult | undefined): string[] {
  const times = (peer: string, one: CaseResult | undefined): string => {
    const found = one?.peers.find(({ name }) => name === peer);
    return found ? significant(found.ratio) : '-';
  };
  return [
    `\`${forward.op}\``,
    shapeText(forward.shape),
    duration(forward.medianNs),
    share(forward),
    backward ? `${duration(backward.medianNs)} (${share(backward)})` : '-',
    backward ? `${(backward.medianNs / forward.medianNs).toFixed(1)}x` : '-',
    ...peers.map(({ name }) => {
      const found = [times(name, forward), times(name, backward)];
      return found.every((x) => x === '-') ? '' : found.join(', ');
    }),
  ];
}

const rows = cases
  .filter(({ pass }) => pass === 'forward')
  .map((forward) => {
    const same = ({ op, pass, shape }: CaseResult): boolean =>
      op === forward.op && pass === 'backward' && shapeText(shape) === shapeText(forward.shape);
    return cellsOf(forward, cases.find(same));
  });
const names = peers.map(({ name }) => name);
const kept = names.filter((_, i) => rows.some((row) => row[6 + i] !== ''));
const keep = (cells: string[]): string[] =>
  cells.filter((_, i) => i < 6 || kept.includes(names[i - 6]));
const head = ['operation', 'shape', 'forward', 'that is', 'backward', 'to forward', ...names];
const versions = peers.map(({ version }) => version).join('; ');
const title = `${machine.processor}, ${created.slice(0, 10)}${versions && `; ${versions}`}.`;
publish('operation', `${title}\n\n${markdown(keep(head), rows.map(keep))}\n`, write);
