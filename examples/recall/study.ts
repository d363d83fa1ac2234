import type { MixerName } from '../common/mixers/index.ts';
import { SequenceModel } from '../common/model.ts';
import { Random } from '../common/random.ts';
import { argmax } from '../common/statistics.ts';
import { train } from '../common/train.ts';
import { lengthOf, recallBatch, vocabulary } from './words.ts';

/** The mixers that are compared, the additive ones first. */
export const MIXERS = ['linearAttention', 'gla', 'deltaNet', 'gatedDeltaNet', 'kda'] as const;
export type RecallMixer = (typeof MIXERS)[number] & MixerName;

export const COLORS: Record<RecallMixer, string> = {
  linearAttention: '#999999',
  gla: '#bcbd22',
  deltaNet: '#1f77b4',
  gatedDeltaNet: '#2ca02c',
  kda: '#d62728',
};

export interface Settings {
  /** Of the model and of its one head: each layer's state is width x width. */
  width: number;
  layers: number;
  vocabulary: number;
  /** Numbers of pairs that are trained and tested. */
  pairs: readonly number[];
  steps: number;
  /** Tokens of a batch. */
  tokens: number;
  learningRate: number;
  seed: number;
}

export const SETTINGS = { layers: 2, vocabulary: 256, pairs: [4, 8, 16, 32], tokens: 2048 };

/** Numbers that all layers together carry from token to token, short convolutions aside. */
export const stateSize = ({ width, layers }: Settings) => layers * width * width;

export interface Run {
  losses: number[];
  /** Share of right answers, by number of pairs. */
  accuracy: number[];
  seconds: number;
}

const TESTED_ROWS = 128;

function accuracyOf(model: SequenceModel, settings: Settings, pairs: number, seed: number): number {
  const batch = recallBatch(vocabulary(settings.vocabulary), TESTED_ROWS, pairs, new Random(seed));
  const { data } = model.forward(batch.inputs);
  let right = 0;
  for (const [at, target] of batch.targets.data.entries())
    if (target >= 0 && argmax(data, at * settings.vocabulary, settings.vocabulary) === target)
      right += 1;
  return right / (TESTED_ROWS * pairs);
}

/** Two layers of the mixer with its short convolution and nothing else, as in the paper; trained on all numbers of pairs. */
export function run(
  mixer: RecallMixer,
  settings: Settings,
  onStep?: (progress: number, loss: number) => void,
): Run {
  const { width, layers, vocabulary: size, pairs, steps, tokens, learningRate, seed } = settings;
  const config = { mixer, vocabulary: size, width, layers, headDim: width, hidden: 0 };
  const model = new SequenceModel(config, seed);
  const random = new Random(seed + 1000);
  const words = vocabulary(size);
  const losses: number[] = [];
  const start = performance.now();
  const learn = (step: number) => {
    // Few pairs at first, all numbers of them from the middle on.
    const allowed = Math.ceil(Math.min(1, (2 * step) / steps) * pairs.length);
    const count = pairs[random.integer(allowed)];
    return model.learn(recallBatch(words, Math.ceil(tokens / lengthOf(count)), count, random));
  };
  train(model.parameters, learn, {
    budget: { steps },
    schedule: { peak: learningRate, warmup: 0.05, floor: 0.02 },
    clip: 1,
    adamW: { weightDecay: 0 },
    onStep: ({ loss, progress }) => {
      losses.push(loss);
      onStep?.(progress, loss);
    },
  });
  const seconds = (performance.now() - start) / 1000;
  const accuracy = pairs.map((count) => accuracyOf(model, settings, count, seed + 2000));
  return { losses, accuracy, seconds };
}
