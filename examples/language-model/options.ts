import { parseArgs } from 'node:util';
import { type MixerName, mixerNames } from '../common/mixers/index.ts';
import type { Budget } from '../common/train.ts';

function inLines(names: readonly string[]): string {
  const lines = [];
  for (let i = 0; i < names.length; i += 4) lines.push(names.slice(i, i + 4).join(' | '));
  return lines.join(` |\n${' '.repeat(18)}`);
}

export const HELP = `Trains a byte-level language model on a novel and lets it write.

  npm start -- [options]        or  node --import tsx examples/language-model/main.ts [options]

  --mixer NAME    ${inLines(mixerNames)}
                  (default gatedDeltaNet)
  --seconds N     train for N seconds (default 90)
  --steps N       train for N steps instead: the same losses, bit by bit, for the same
                  seed, at any number of threads
  --seed N        of weights, batches and sampling (default 1)
  --text FILE     learn this file instead of Moby Dick
  --save FILE     write the weights at the end (safetensors)
  --load FILE     start from saved weights; trains only if --seconds or --steps is given
  --prompt TEXT   what the model goes on from
  --help          this text
`;

export interface Options {
  /** Absent: what the checkpoint says, or the default. */
  mixer?: MixerName;
  budget: Budget;
  seed: number;
  text?: string;
  save?: string;
  load?: string;
  prompt?: string;
}

/** Throws an error with a readable message for anything that is not an option. */
export function parseOptions(args: string[]): Options | 'help' {
  const { values } = parseArgs({
    args,
    options: {
      mixer: { type: 'string' },
      seconds: { type: 'string' },
      steps: { type: 'string' },
      seed: { type: 'string', default: '1' },
      text: { type: 'string' },
      save: { type: 'string' },
      load: { type: 'string' },
      prompt: { type: 'string' },
      help: { type: 'boolean', default: false },
    },
  });
  if (values.help) return 'help';
  const mixer = mixerNames.find((name) => name === values.mixer);
  if (values.mixer !== undefined && !mixer) {
    throw new Error(`--mixer: expected ${mixerNames.join(', ')}; got ${values.mixer}`);
  }
  if (values.seconds !== undefined && values.steps !== undefined) {
    throw new Error('--seconds and --steps exclude each other');
  }
  const { text, save, load, prompt } = values;
  const unset = load === undefined ? 90 : 0;
  const budget =
    values.steps !== undefined
      ? { steps: numberOf('--steps', values.steps, true) }
      : { seconds: numberOf('--seconds', values.seconds ?? String(unset), false) };
  const seed = numberOf('--seed', values.seed, true);
  return { mixer, budget, seed, text, save, load, prompt };
}

function numberOf(option: string, value: string, whole: boolean): number {
  const number = Number(value);
  const legal = value.trim() !== '' && number >= 0 && Number.isFinite(number);
  if (!legal || (whole && !Number.isSafeInteger(number))) {
    throw new Error(`${option}: expected ${whole ? 'a whole number' : 'a number'}, got ${value}`);
  }
  return number;
}
