import { parseArgs } from 'node:util';

export const HELP = `Trains a softmax-attention language model, replaces its attention by linear forms, and recovers what that costs.

  npm run start:linearise -- [options]    or  npx tsx examples/linearise/main.ts [options]

  --steps N            of the softmax model's training (default 2000)
  --transfer-steps N   of attention transfer (default 400)
  --lora-steps N       of the recovery with LoRA (default 400)
  --rank R             of the LoRA factors on q, k, v and out (default 8)
  --window W           tokens that stay under softmax in LoLCATs and Liger (default 8)
  --methods LIST       of hedgehog,lolcats,liger (default all)
  --seed N             of weights and batches (default 1)
  --text FILE          learn this file instead of Moby Dick
  --save FILE          write the softmax model's weights (safetensors)
  --load FILE          start from such a model, or one of \`npm start -- --mixer attention --save FILE\`
  --out DIR            where the JSON and the plots go (default examples/linearise/out)
  --quick              a small model and few steps: half a minute
  --full               a larger model, windows of 512 bytes, contexts up to 32768: hours
  --help               this text
`;

export const METHODS = ['hedgehog', 'lolcats', 'liger'] as const;
export type Method = (typeof METHODS)[number];

/** What `--quick`, `--full` and neither set; the counts of steps may be said otherwise. */
export interface Scale {
  width: number;
  layers: number;
  headDim: number;
  hidden: number;
  batch: number;
  /** Bytes that the models read at once in training. */
  length: number;
  window: number;
  steps: number;
  transferSteps: number;
  loraSteps: number;
  /** Bytes of held-out text that bits per byte are measured on. */
  measured: number;
  /** Lengths at which decoding is timed. */
  contexts: readonly number[];
  /** Tokens that are timed at each. */
  decoded: number;
}

const DEFAULT: Scale = {
  width: 128,
  layers: 3,
  headDim: 32,
  hidden: 352,
  batch: 4,
  length: 256,
  window: 8,
  steps: 2000,
  transferSteps: 400,
  loraSteps: 400,
  measured: 1 << 16,
  contexts: [256, 512, 1024, 2048, 4096, 8192],
  decoded: 48,
};

const QUICK: Scale = {
  ...DEFAULT,
  width: 48,
  layers: 2,
  headDim: 16,
  hidden: 96,
  length: 64,
  window: 4,
  steps: 200,
  transferSteps: 40,
  loraSteps: 60,
  measured: 1 << 12,
  contexts: [64, 256],
  decoded: 8,
};

const FULL: Scale = {
  ...DEFAULT,
  width: 256,
  layers: 4,
  hidden: 704,
  batch: 8,
  length: 512,
  window: 16,
  steps: 12000,
  transferSteps: 1000,
  loraSteps: 2000,
  measured: 1 << 20,
  contexts: [...DEFAULT.contexts, 16384, 32768],
};

export interface Options {
  scale: Scale;
  rank: number;
  methods: readonly Method[];
  seed: number;
  text?: string;
  save?: string;
  load?: string;
  out: string;
}

/** Throws an error with a readable message for anything that is not an option. */
export function parseOptions(args: string[]): Options | 'help' {
  const { values } = parseArgs({
    args,
    options: {
      steps: { type: 'string' },
      'transfer-steps': { type: 'string' },
      'lora-steps': { type: 'string' },
      rank: { type: 'string', default: '8' },
      window: { type: 'string' },
      methods: { type: 'string', default: METHODS.join() },
      seed: { type: 'string', default: '1' },
      text: { type: 'string' },
      save: { type: 'string' },
      load: { type: 'string' },
      out: { type: 'string', default: 'examples/linearise/out' },
      quick: { type: 'boolean', default: false },
      full: { type: 'boolean', default: false },
      help: { type: 'boolean', default: false },
    },
  });
  if (values.help) return 'help';
  if (values.quick && values.full) throw new Error('--quick and --full exclude each other');
  const base = values.quick ? QUICK : values.full ? FULL : DEFAULT;
  const { steps, window, 'transfer-steps': transferSteps, 'lora-steps': loraSteps } = values;
  const orElse = (option: string, value: string | undefined, otherwise: number) =>
    value === undefined ? otherwise : whole(option, value, 1);
  const scale = {
    ...base,
    steps: orElse('--steps', steps, base.steps),
    transferSteps: orElse('--transfer-steps', transferSteps, base.transferSteps),
    loraSteps: orElse('--lora-steps', loraSteps, base.loraSteps),
    window: orElse('--window', window, base.window),
  };
  const methods = values.methods.split(',').map((name) => {
    const method = METHODS.find((known) => known === name);
    if (!method) throw new Error(`--methods: expected of ${METHODS.join()}, got ${name}`);
    return method;
  });
  const { text, save, load, out } = values;
  const rank = whole('--rank', values.rank, 1);
  return { scale, rank, methods, seed: whole('--seed', values.seed, 0), text, save, load, out };
}

function whole(option: string, value: string, least: number): number {
  const number = Number(value);
  if (value.trim() === '' || !Number.isSafeInteger(number) || number < least)
    throw new Error(`${option}: expected a whole number from ${least} on, got ${value}`);
  return number;
}
