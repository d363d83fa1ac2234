import { parseArgs } from 'node:util';
import { type CellName, cellNames } from './tokens.ts';

export const HELP = `Splits one sequence over processes: one all-gather of states in the forward, one in the backward.

  npm run start:sequence-parallel -- [options]    or  npx tsx examples/sequence-parallel/main.ts [options]

  --ranks N        processes that share the sequence (default 2)
  --tokens N       of the sequence (default 1048576)
  --segments N     that it is cut into, a multiple of ranks (default ranks); one rank with as many gives the same bits
  --cell NAME      ${cellNames.join(', ')} (default gla)
  --heads N        default 1
  --dim N          K and V (default 64)
  --repeat N       of which the fastest counts (default 3)
  --transport T    mpi, processes (no MPI needed), or auto: mpi where it is (default auto)
  --help           this text
`;

export interface Options {
  ranks: number;
  tokens: number;
  segments: number;
  cell: CellName;
  heads: number;
  dim: number;
  repeat: number;
  transport: 'auto' | 'mpi' | 'processes';
}

/** Throws an error with a readable message for anything that is not an option. */
export function parseOptions(args: string[]): Options | 'help' {
  const { values } = parseArgs({
    args,
    options: {
      ranks: { type: 'string', default: '2' },
      tokens: { type: 'string', default: String(2 ** 20) },
      segments: { type: 'string' },
      cell: { type: 'string', default: 'gla' },
      heads: { type: 'string', default: '1' },
      dim: { type: 'string', default: '64' },
      repeat: { type: 'string', default: '3' },
      transport: { type: 'string', default: 'auto' },
      help: { type: 'boolean', default: false },
    },
  });
  if (values.help) return 'help';
  const cell = cellNames.find((name) => name === values.cell);
  if (!cell) throw new Error(`--cell: expected ${cellNames.join(', ')}; got ${values.cell}`);
  const transport = (['auto', 'mpi', 'processes'] as const).find((x) => x === values.transport);
  if (!transport)
    throw new Error(`--transport: expected auto, mpi or processes; got ${values.transport}`);
  const ranks = whole('--ranks', values.ranks);
  const segments = whole('--segments', values.segments ?? values.ranks);
  if (segments % ranks !== 0)
    throw new Error(`--segments: expected a multiple of ranks = ${ranks}, got ${segments}`);
  return {
    ...{ ranks, segments, cell, transport },
    tokens: whole('--tokens', values.tokens),
    heads: whole('--heads', values.heads),
    dim: whole('--dim', values.dim),
    repeat: whole('--repeat', values.repeat),
  };
}

function whole(option: string, value: string): number {
  const number = Number(value);
  if (value.trim() === '' || !Number.isSafeInteger(number) || number < 1)
    throw new Error(`${option}: expected a whole number from 1 on, got ${value}`);
  return number;
}
