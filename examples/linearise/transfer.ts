import type { Tensor } from 'rankone';
import { randomBatch } from '../common/batches.ts';
import type { AttentionMixer } from '../common/mixers/attention.ts';
import { HedgehogCell } from '../common/mixers/hedgehog.ts';
import type { MixerName } from '../common/mixers/index.ts';
import { type Batch, SequenceModel } from '../common/model.ts';
import { Parameters } from '../common/parameters.ts';
import { Random } from '../common/random.ts';
import { Buffers } from '../common/tensor.ts';
import type { Options } from './options.ts';
import { runStage } from './training.ts';
import { WeightMatch } from './weights.ts';

/** The papers' rate of 1e-2 gets there too, in more steps. */
const SCHEDULE = { peak: 3e-2, warmup: 0.05, floor: 0.02 };

/** A model with another mixer in the softmax model's place and all of its weights; what it has besides starts anew. */
export function swap(
  teacher: SequenceModel,
  mixer: MixerName,
  { scale, seed }: Options,
): SequenceModel {
  const { window } = scale;
  const student = new SequenceModel({ ...teacher.config, mixer, window }, seed);
  const weights = new Map(teacher.parameters.list.map((p) => [p.name, p.value]));
  for (const { name, value } of student.parameters.list) {
    const weight = weights.get(name);
    if (weight) value.data.set(weight.data);
    weights.delete(name);
  }
  if (weights.size > 0) throw new Error(`${mixer} has no ${[...weights.keys()].join(', ')}`);
  return student;
}

/** What the student has and the teacher has not: its feature maps, and how they are mixed. */
export function ownParameters(teacher: SequenceModel, student: SequenceModel): Parameters {
  const shared = new Set(teacher.parameters.list.map((p) => p.name));
  const own = student.parameters.list.filter((p) => !shared.has(p.name));
  return new Parameters(student.parameters.random, undefined, own);
}

/** The layers of such a model. */
export const attentionOf = (model: SequenceModel) => model.mixers as readonly AttentionMixer[];

/** sum (y - expected)^2 / sum expected^2, and its gradient where there is a place for it. */
function relativeError(y: Tensor, expected: Tensor, dy?: Tensor): number {
  let [error, size] = [0, 0];
  for (let i = 0; i < y.data.length; i++) {
    error += (y.data[i] - expected.data[i]) ** 2;
    size += expected.data[i] ** 2;
  }
  if (dy)
    for (let i = 0; i < y.data.length; i++)
      dy.data[i] = ((y.data[i] - expected.data[i]) * 2) / size;
  return error / size;
}

/** How far each layer's outputs are from the softmax layer's on the softmax model's own inputs; mean over layers. */
export function outputError(teacher: SequenceModel, student: SequenceModel, batch: Batch): number {
  teacher.forward(batch.inputs);
  const softmax = attentionOf(teacher);
  const errors = attentionOf(student).map(({ cell }, i) =>
    relativeError(cell.forward(softmax[i].seen), softmax[i].mixed),
  );
  return errors.reduce((a, b) => a + b) / errors.length;
}

/**
 * Attention transfer: the student's feature maps alone learn to do what the softmax layers do, each on the inputs that the
 * softmax model has there. Hedgehog by the cross-entropy of the attention weights, LoLCATs by the squared error of the
 * outputs, which is divided here by their own square.
 */
export function transfer(
  teacher: SequenceModel,
  student: SequenceModel,
  text: Uint8Array,
  label: string,
  { scale, seed }: Options,
) {
  const random = new Random(seed + 2);
  const softmax = attentionOf(teacher);
  const linear = attentionOf(student);
  const buffers = new Buffers();
  const matches = linear.map(() => new WeightMatch());
  const learnLayer = (i: number): number => {
    const { seen, mixed } = softmax[i];
    const { cell } = linear[i];
    if (cell instanceof HedgehogCell) {
      const mapped = cell.maps.forward(seen.q, seen.k);
      const { loss, entropy, dq, dk } = matches[i].loss(seen.q, seen.k, mapped);
      cell.maps.backward(dq, dk);
      return loss - entropy;
    }
    const y = cell.forward(seen);
    const dO = buffers.get('dO', ...y.shape);
    const error = relativeError(y, mixed, dO);
    cell.backward(dO);
    return error;
  };
  return runStage({
    label: `${label}, transfer`,
    parameters: ownParameters(teacher, student),
    steps: scale.transferSteps,
    schedule: SCHEDULE,
    adamW: { weightDecay: 0 },
    unit: {
      factor: 1 / linear.length,
      name: linear[0].cell instanceof HedgehogCell ? 'nats of divergence' : 'relative error',
    },
    learn() {
      teacher.forward(randomBatch(text, scale.batch, scale.length, random).inputs);
      return linear.reduce((sum, _, i) => sum + learnLayer(i), 0);
    },
  });
}
