import { parseArgs } from 'node:util';
import { chosenNames, wholeNumber } from '../common/options.ts';
import { ARM_NAMES, TASK_NAMES, type TaskName } from './problems.ts';
import { SETTINGS, type Settings } from './study.ts';

export const HELP = `Which mixers keep track of a state? Trains small models on words of up to 40 letters and tests them on 256.

  npm run start:state-tracking -- [options]

  --tasks A,B     of ${TASK_NAMES.join(', ')} (default parity,mod5,S3; with --full all)
  --mixers A,B    of ${ARM_NAMES.join(', ')} (default all)
  --layers A,B    1, 2 or both (default both; without --full, n = 3 and 4 in one layer alone)
  --steps N       of each training (default 1000 for parity and mod5, 1500 for S3; with --full 1500 and 8000)
  --seed N        of weights and words (default 1)
  --seeds N       trainings of each model, from that seed on; the best one counts (default 1; with --full 3)
  --convolution   with the short convolution of the papers' layers
  --head-dim N    of the heads, width 64 in all (default 8)
  --beta-rate N   beta's weights learn N times as fast as the others (default 4)
  --out DIR       where plots and figures go (default examples/state-tracking/out)
  --quick         parity with three mixers in one layer, 200 steps: seconds
  --full          hours
  --help          this text
`;

export interface Options {
  tasks: TaskName[];
  mixers: string[];
  layers: number[];
  /** Of each training of a task. */
  steps: Record<TaskName, number>;
  seeds: number[];
  /** Of the models. */
  changes: Pick<Settings, 'convolution' | 'headDim' | 'strengthRate'>;
  out: string;
  full: boolean;
  /** Whether what the papers report can be expected: of the plan without changes. */
  complete: boolean;
}

const DEFAULT_TASKS = 'parity,mod5,S3';
const QUICK_MIXERS = 'gla,deltaNet,deltaNet2';

/** Throws an error with a readable message for anything that is not an option. */
export function parseOptions(args: string[]): Options | 'help' {
  const { values } = parseArgs({
    args,
    options: {
      tasks: { type: 'string' },
      mixers: { type: 'string' },
      layers: { type: 'string' },
      steps: { type: 'string' },
      seed: { type: 'string', default: '1' },
      seeds: { type: 'string' },
      convolution: { type: 'boolean', default: SETTINGS.convolution },
      'head-dim': { type: 'string', default: `${SETTINGS.headDim}` },
      'beta-rate': { type: 'string', default: `${SETTINGS.strengthRate}` },
      out: { type: 'string', default: 'examples/state-tracking/out' },
      quick: { type: 'boolean', default: false },
      full: { type: 'boolean', default: false },
      help: { type: 'boolean', default: false },
    },
  });
  if (values.help) return 'help';
  const { quick, full, out } = values;
  if (quick && full) throw new Error('--quick and --full exclude each other');
  const tasks = values.tasks ?? (quick ? 'parity' : full ? undefined : DEFAULT_TASKS);
  const mixers = values.mixers ?? (quick ? QUICK_MIXERS : undefined);
  const layers = values.layers ?? (quick ? '1' : undefined);
  const all = values.steps === undefined ? undefined : wholeNumber('--steps', values.steps, 1);
  const [easy, hard] = quick ? [200, 200] : full ? [1500, 8000] : [1000, 1500];
  const stepsOf = (task: TaskName) => all ?? (task === 'parity' || task === 'mod5' ? easy : hard);
  const seed = wholeNumber('--seed', values.seed, 0);
  const changes = {
    convolution: values.convolution,
    headDim: wholeNumber('--head-dim', values['head-dim'], 1),
    strengthRate: wholeNumber('--beta-rate', values['beta-rate'], 1),
  };
  const same = JSON.stringify({ ...SETTINGS, ...changes }) === JSON.stringify(SETTINGS);
  const count = wholeNumber('--seeds', values.seeds ?? (full ? '3' : '1'), 1);
  return {
    tasks: chosenNames('--tasks', tasks, TASK_NAMES),
    mixers: chosenNames('--mixers', mixers, ARM_NAMES),
    layers: chosenNames('--layers', layers, ['1', '2']).map(Number),
    steps: Object.fromEntries(TASK_NAMES.map((t) => [t, stepsOf(t)])) as Record<TaskName, number>,
    seeds: Array.from({ length: count }, (_, i) => seed + i),
    changes,
    out,
    full,
    complete: !quick && all === undefined && same,
  };
}
