import { readCheckpoint, restore } from '../common/checkpoint.ts';
import { type ModelConfig, SequenceModel } from '../common/model.ts';

/** The model that `npm start` trains, and how. */
export const MODEL: Omit<ModelConfig, 'mixer'> = {
  vocabulary: 256,
  width: 128,
  layers: 2,
  headDim: 64,
  hidden: 352,
};
export const BATCH = 4;
export const LENGTH = 256;
export const SCHEDULE = { peak: 6e-3, warmup: 0.05, floor: 0.02 };

/** The model that `--save` has written. */
export function loadModel(file: string, seed: number): SequenceModel {
  const checkpoint = readCheckpoint(file);
  const config: ModelConfig = JSON.parse(checkpoint.metadata.config ?? '{}');
  const model = new SequenceModel(config, seed);
  restore(model.parameters, checkpoint);
  return model;
}
