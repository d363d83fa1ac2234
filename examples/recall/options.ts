import { parseArgs } from 'node:util';
import { chosenNames, wholeNumber } from '../common/options.ts';
import { MIXERS, type RecallMixer } from './study.ts';

export const HELP = `How many pairs does a state of fixed size remember? Multi-query associative recall.

  npm run start:recall -- [options]

  --mixers A,B    of ${MIXERS.join(', ')} (default all)
  --widths A,B    of the model and of its state's sides (default 32,48,64; with --full 16,24,32,48,64,128)
  --steps N       of each training (default 1000; with --full 4000)
  --vocabulary N  keys, values and one token between queries (default 256)
  --rates A,B     learning rates; the best one counts (default 0.02; with --full 0.005,0.01,0.02)
  --seed N        of weights and words (default 1)
  --seeds N       trainings at each rate, from that seed on; the best one counts (default 1; with --full 2)
  --out DIR       where plots and figures go (default examples/recall/out)
  --quick         width 16, two mixers, few steps and pairs: seconds
  --full          an hour or more
  --help          this text
`;

export interface Options {
  mixers: RecallMixer[];
  widths: number[];
  pairs: number[];
  vocabulary: number;
  steps: number;
  rates: number[];
  seeds: number[];
  out: string;
  /** Whether what the papers report can be expected: of the plan without changes. */
  complete: boolean;
}

function numbers(option: string, value: string): number[] {
  return value.split(',').map((text) => {
    const number = Number(text);
    if (text.trim() === '' || !(number > 0 && Number.isFinite(number)))
      throw new Error(`${option}: expected numbers above zero, got ${text}`);
    return number;
  });
}

/** Throws an error with a readable message for anything that is not an option. */
export function parseOptions(args: string[]): Options | 'help' {
  const { values } = parseArgs({
    args,
    options: {
      mixers: { type: 'string' },
      widths: { type: 'string' },
      steps: { type: 'string' },
      vocabulary: { type: 'string' },
      rates: { type: 'string' },
      seed: { type: 'string', default: '1' },
      seeds: { type: 'string' },
      out: { type: 'string', default: 'examples/recall/out' },
      quick: { type: 'boolean', default: false },
      full: { type: 'boolean', default: false },
      help: { type: 'boolean', default: false },
    },
  });
  if (values.help) return 'help';
  const { quick, full, out } = values;
  if (quick && full) throw new Error('--quick and --full exclude each other');
  const widths = values.widths ?? (quick ? '16' : full ? '16,24,32,48,64,128' : '32,48,64');
  const rates = values.rates ?? (full ? '0.005,0.01,0.02' : '0.02');
  const seed = wholeNumber('--seed', values.seed, 0);
  const count = wholeNumber('--seeds', values.seeds ?? (full ? '2' : '1'), 1);
  return {
    mixers: chosenNames(
      '--mixers',
      values.mixers ?? (quick ? 'linearAttention,deltaNet' : undefined),
      MIXERS,
    ),
    widths: widths.split(',').map((width) => wholeNumber('--widths', width, 1)),
    vocabulary: wholeNumber('--vocabulary', values.vocabulary ?? (quick ? '128' : '256'), 65),
    pairs: quick ? [2, 4] : [4, 8, 16, 32],
    steps: wholeNumber('--steps', values.steps ?? (quick ? '300' : full ? '4000' : '1000'), 1),
    rates: numbers('--rates', rates),
    seeds: Array.from({ length: count }, (_, i) => seed + i),
    out,
    complete: !quick && values.steps === undefined && values.vocabulary === undefined,
  };
}
