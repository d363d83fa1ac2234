import { SequenceModel } from '../common/model.ts';
import { Random } from '../common/random.ts';
import { argmax } from '../common/statistics.ts';
import { train } from '../common/train.ts';
import { type Task, vocabularyOf, wordBatch } from './groups.ts';
import type { Arm } from './problems.ts';

export interface Settings {
  layers: number;
  width: number;
  headDim: number;
  /** Inner width of the MLP. */
  hidden: number;
  /** Whether the mixers have their short convolution. */
  convolution: boolean;
  steps: number;
  /** Letters of a batch: many short words, or fewer long ones. */
  letters: number;
  learningRate: number;
  /** Factor on the learning rate of what makes beta. */
  strengthRate: number;
  seed: number;
}

export const SETTINGS: Omit<Settings, 'layers' | 'steps' | 'seed'> = {
  width: 64,
  headDim: 8,
  hidden: 128,
  convolution: false,
  letters: 1500,
  learningRate: 0.01,
  strengthRate: 4,
};

/** Words have 3 letters at first, and up to 40 after 60 % of the steps. */
export const TRAINED = { shortest: 3, longest: 40, grown: 0.6 };
export const TESTED = { words: 256, length: 256, batch: 64 };

/**
 * Without the short convolution, whose blend of neighbouring letters the keys would first have to unlearn. An eigenvalue
 * of -0.98 is as good as -1 in words of 40 letters and useless in words of 256; the higher rate drives beta to its end.
 */
export function build(task: Task, arm: Arm, settings: Settings): SequenceModel {
  const { layers, width, headDim, hidden, convolution, seed, strengthRate } = settings;
  const model = new SequenceModel(
    {
      mixer: arm.mixer,
      vocabulary: vocabularyOf(task),
      width,
      layers,
      headDim,
      hidden,
      noConvolution: !convolution,
      ...arm.options,
    },
    seed,
  );
  for (const parameter of model.parameters.list)
    if (parameter.name.includes('.strength.')) parameter.rate = strengthRate;
  return model;
}

/** Share of right answers at each position of words longer than any that were trained. */
export function accuracies(model: SequenceModel, task: Task, seed: number): number[] {
  const { words, length, batch } = TESTED;
  const random = new Random(seed);
  const right = new Float64Array(length);
  for (let done = 0; done < words; done += batch) {
    const { inputs, targets } = wordBatch(task, batch, length, random);
    const { data, shape } = model.forward(inputs);
    const vocabulary = shape[2];
    for (const [at, target] of targets.data.entries()) {
      const position = at % (length + 1);
      if (position > 0 && argmax(data, at * vocabulary, vocabulary) === target)
        right[position - 1] += 1;
    }
  }
  return Array.from(right, (n) => n / words);
}

export interface Run {
  losses: number[];
  /** By position, from the first letter on. */
  accuracy: number[];
  seconds: number;
}

/** Trains on short words, tests on long ones. */
export function run(
  task: Task,
  arm: Arm,
  settings: Settings,
  onStep?: (progress: number, loss: number) => void,
): Run {
  const { seed, steps, letters, learningRate } = settings;
  const { shortest, longest, grown } = TRAINED;
  const model = build(task, arm, settings);
  const random = new Random(seed + 1000);
  const losses: number[] = [];
  const start = performance.now();
  const learn = (step: number) => {
    const share = Math.min(1, step / (grown * steps));
    const allowed = Math.round(share * (longest - shortest));
    const length = shortest + random.integer(allowed + 1);
    return model.learn(wordBatch(task, Math.round(letters / length), length, random));
  };
  train(model.parameters, learn, {
    budget: { steps },
    schedule: { peak: learningRate, warmup: 0.05, floor: 0.05 },
    clip: 1,
    adamW: { weightDecay: 0 },
    onStep: ({ loss, progress }) => {
      losses.push(loss);
      onStep?.(progress, loss);
    },
  });
  const seconds = (performance.now() - start) / 1000;
  return { losses, accuracy: accuracies(model, task, seed + 2000), seconds };
}
