import { type AdaptedModel, type AdapterSettings, TrainableAdapter } from '../common/adapters.ts';
import { randomBatch } from '../common/batches.ts';
import { SequenceModel } from '../common/model.ts';
import type { AdamWSettings, Schedule } from '../common/optimizer.ts';
import type { Parameters } from '../common/parameters.ts';
import { Progress } from '../common/progress.ts';
import { Random } from '../common/random.ts';
import { train } from '../common/train.ts';
import { BATCH, LENGTH, MODEL, SCHEDULE } from '../language-model/model.ts';
import type { Corpus } from '../language-model/text.ts';
import type { Options } from './options.ts';

const SMALL = { ...MODEL, width: 64, layers: 1, headDim: 32, hidden: 128 };
/** Factors are far from their end at first, and there are few of them: they take a higher rate than weights. */
const ADAPTER_SCHEDULE = { peak: 1e-2, warmup: 0.05, floor: 0.02 };

interface Run {
  label: string;
  parameters: Parameters;
  corpus: Corpus;
  steps: number;
  seed: number;
  schedule: Schedule;
  adamW?: Partial<AdamWSettings>;
}

/** Trains with a progress bar; returns the seconds it took. */
function run(
  model: SequenceModel,
  { label, parameters, corpus, ...rest }: Run,
  before?: () => void,
) {
  const { steps, seed, schedule, adamW } = rest;
  const random = new Random(seed);
  const progress = new Progress();
  let took = 0;
  const learn = () => {
    before?.();
    return model.learn(randomBatch(corpus.train, BATCH, LENGTH, random));
  };
  train(parameters, learn, {
    budget: { steps },
    schedule,
    clip: 1,
    adamW,
    onStep({ step, loss, progress: share, seconds }) {
      took = seconds;
      const speed = Math.round((step * BATCH * LENGTH) / seconds).toLocaleString('en-US');
      const bits = (loss / Math.LN2).toFixed(3);
      progress.update(share, `${label} | step ${step} | ${bits} bits per byte | ${speed} tokens/s`);
    },
  });
  progress.stop();
  return took;
}

/** The language model of `npm start`, trained on the novel. */
export function trainBase(corpus: Corpus, { steps, seed, quick }: Options): SequenceModel {
  const model = new SequenceModel({ ...(quick ? SMALL : MODEL), mixer: 'gatedDeltaNet' }, seed);
  const { parameters } = model;
  run(model, { label: 'base', parameters, corpus, steps, seed: seed + 1, schedule: SCHEDULE });
  return model;
}

export interface Trained {
  adapter: TrainableAdapter;
  seconds: number;
}

/** Trains an adapter on all linear layers of the frozen model, and leaves it in their banks. */
export function trainAdapter(
  adapted: AdaptedModel,
  name: string,
  corpus: Corpus,
  settings: AdapterSettings,
  steps: number,
): Trained {
  const adapter = new TrainableAdapter(name, adapted.layers, settings);
  const { parameters } = adapter;
  const label = `${name}, rank ${settings.rank}`;
  const how = { seed: settings.seed, schedule: ADAPTER_SCHEDULE, adamW: { weightDecay: 0 } };
  adapted.put(adapter);
  adapted.use(name);
  const seconds = run(adapted.model, { label, parameters, corpus, steps, ...how }, () =>
    adapted.put(adapter),
  );
  adapted.put(adapter);
  return { adapter, seconds };
}
