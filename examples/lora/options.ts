import { parseArgs } from 'node:util';
import type { WeightFormat } from 'rankone';

const FORMATS: readonly WeightFormat[] = ['f32', 'bf16', 'f16', 'int8', 'q8', 'q4', 'nf4'];

export const HELP = `Trains a language model on a novel, freezes it, and teaches it other texts with adapters.

  npm run start:lora -- [options]    or  npx tsx examples/lora/main.ts [options]

  --steps N           of the base model's training (default 1500)
  --adapter-steps N   of each adapter's training (default 600)
  --rank R            of the adapters (default 8; 'javascript' has twice, 'capitals' a fourth of it)
  --ratio X           LoRA+: b learns X times as fast as a (default 1)
  --format NAME       of the frozen weights: ${FORMATS.join(', ')} (default f32)
  --seed N            of weights, batches and sampling (default 1)
  --load FILE         start from what \`npm start -- --save FILE\` has written
  --out DIR           where the adapters go (default examples/lora/out)
  --quick             a small model, few steps, the beginnings of the texts: half a minute
  --help              this text
`;

export interface Options {
  steps: number;
  adapterSteps: number;
  rank: number;
  ratio: number;
  format: WeightFormat;
  seed: number;
  load?: string;
  out: string;
  quick: boolean;
}

/** Throws an error with a readable message for anything that is not an option. */
export function parseOptions(args: string[]): Options | 'help' {
  const { values } = parseArgs({
    args,
    options: {
      steps: { type: 'string' },
      'adapter-steps': { type: 'string' },
      rank: { type: 'string', default: '8' },
      ratio: { type: 'string', default: '1' },
      format: { type: 'string', default: 'f32' },
      seed: { type: 'string', default: '1' },
      load: { type: 'string' },
      out: { type: 'string', default: 'examples/lora/out' },
      quick: { type: 'boolean', default: false },
      help: { type: 'boolean', default: false },
    },
  });
  if (values.help) return 'help';
  const { load, out, quick } = values;
  const format = FORMATS.find((name) => name === values.format);
  if (!format) throw new Error(`--format: expected ${FORMATS.join(', ')}; got ${values.format}`);
  return {
    steps: whole('--steps', values.steps ?? (quick ? '150' : '1500'), 0),
    adapterSteps: whole('--adapter-steps', values['adapter-steps'] ?? (quick ? '60' : '600'), 1),
    rank: whole('--rank', values.rank, 1),
    ratio: positive('--ratio', values.ratio),
    format,
    seed: whole('--seed', values.seed, 0),
    load,
    out,
    quick,
  };
}

function positive(option: string, value: string): number {
  const number = Number(value);
  if (value.trim() === '' || !(number > 0 && Number.isFinite(number)))
    throw new Error(`${option}: expected a number above zero, got ${value}`);
  return number;
}

function whole(option: string, value: string, least: number): number {
  const number = Number(value);
  if (value.trim() === '' || !Number.isSafeInteger(number) || number < least)
    throw new Error(`${option}: expected a whole number from ${least} on, got ${value}`);
  return number;
}
