import { AdaptedModel, TrainableAdapter } from '../common/adapters.ts';
import { randomBatch } from '../common/batches.ts';
import { SequenceModel } from '../common/model.ts';
import type { AdamWSettings, Schedule } from '../common/optimizer.ts';
import type { Parameters } from '../common/parameters.ts';
import { Progress } from '../common/progress.ts';
import { Random } from '../common/random.ts';
import { train } from '../common/train.ts';
import type { Options } from './options.ts';

const SCHEDULE = { peak: 4e-3, warmup: 0.05, floor: 0.02 };
const LORA_SCHEDULE = { peak: 5e-3, warmup: 0.05, floor: 0.02 };

export interface Stage {
  label: string;
  parameters: Parameters;
  steps: number;
  schedule: Schedule;
  /** What the loss is multiplied by to be shown, and its unit. */
  unit: { factor: number; name: string };
  adamW?: Partial<AdamWSettings>;
  learn(): number;
}

export interface StageRun {
  /** Of the processor, on all threads. */
  seconds: number;
  /** Of every step, in the stage's unit. */
  curve: [step: number, loss: number][];
}

/** Since then, on all threads. */
export function processorSeconds(since?: NodeJS.CpuUsage): number {
  const { user, system } = process.cpuUsage(since);
  return (user + system) / 1e6;
}

/** Trains with a progress bar. */
export function runStage({ label, parameters, learn, unit, steps, ...how }: Stage): StageRun {
  const progress = new Progress();
  const run: StageRun = { seconds: 0, curve: [] };
  const start = process.cpuUsage();
  train(parameters, learn, {
    ...how,
    budget: { steps },
    clip: 1,
    onStep({ step, loss, progress: share }) {
      run.curve.push([step, loss * unit.factor]);
      const shown = (loss * unit.factor).toFixed(3);
      progress.update(share, `${label} | step ${step} of ${steps} | ${shown} ${unit.name}`);
    },
  });
  progress.stop();
  run.seconds = processorSeconds(start);
  return run;
}

const BITS = { factor: 1 / Math.LN2, name: 'bits per byte' };

/** The softmax model, trained on the text. */
export function trainSoftmax(text: Uint8Array, { scale, seed }: Options) {
  const { width, layers, headDim, hidden, batch, length, steps } = scale;
  const shape = { vocabulary: 256, width, layers, headDim, hidden };
  const model = new SequenceModel({ ...shape, mixer: 'attention' }, seed);
  const random = new Random(seed + 1);
  const run = runStage({
    label: 'softmax',
    parameters: model.parameters,
    steps,
    schedule: SCHEDULE,
    unit: BITS,
    learn: () => model.learn(randomBatch(text, batch, length, random)),
  });
  return { model, run };
}

const TARGETS = /\.mixer\.(q|k|v|out)$/;

/** The model frozen, with trained factors on the projections of its attention layers. */
export function recover(model: SequenceModel, text: Uint8Array, label: string, options: Options) {
  const { scale, rank, seed } = options;
  const adapted = new AdaptedModel(model, 'f32');
  const layers = adapted.layers.filter(({ path }) => TARGETS.test(path));
  const settings = { rank, alpha: 2 * rank, seed: seed + 100 };
  const adapter = new TrainableAdapter('recovery', layers, settings);
  // The same batches for every method.
  const random = new Random(seed + 3);
  adapted.put(adapter);
  adapted.use(adapter.name);
  const run = runStage({
    label: `${label}, LoRA`,
    parameters: adapter.parameters,
    steps: scale.loraSteps,
    schedule: LORA_SCHEDULE,
    adamW: { weightDecay: 0 },
    unit: BITS,
    learn() {
      adapted.put(adapter);
      return adapted.model.learn(randomBatch(text, scale.batch, scale.length, random));
    },
  });
  adapted.put(adapter);
  return { adapted, factors: adapter.parameters.count, run };
}
