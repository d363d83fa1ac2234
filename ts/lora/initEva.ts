import { rangeError, show, typeError } from '../errors';
import { checkKeys, checkMatrix, readFlag, readInteger, readNumber } from '../linalg/arguments';
import { toTransposedTensor } from '../linalg/columns';
import { mapOf, readSketch, SKETCH_OPTIONS, type SketchOptions, sketchSvd } from '../linalg/sketch';
import type { ResultTensor, Tensor } from '../types';
import {
  INIT_OPTIONS,
  type Initialisation,
  type InitOptions,
  readScale,
  zeros,
} from './initAdapter';

/** The principal components of all inputs of a layer so far. */
export interface EvaState {
  /** `[components,in]`, orthonormal rows, the largest variance first; never more of them than inputs. */
  components: ResultTensor;
  /** Of the inputs so far, as rows, without their mean. */
  singularValues: number[];
  /** Of each feature; zeros where inputs are not centred. */
  mean: Float64Array;
  /** Sum of the squares of all features of all inputs, without their mean. */
  totalSquares: number;
  /** Inputs so far. */
  samples: number;
}

/** Inputs of {@link updateEva}. */
export interface UpdateEvaInputs {
  /** Inputs of the layer, one a row, `[samples,in]`. */
  x: Tensor;
  /** What the batches before have left; none for the first one. It is not changed. */
  state?: EvaState;
}

/** Options of {@link updateEva}. */
export interface UpdateEvaOptions extends SketchOptions {
  /** Components to keep, at least the largest rank that the layer may be given: rank times rho. */
  components: number;
  /** Subtract the mean, as PEFT does; default true. The same for all batches of a layer. */
  center?: boolean;
}

/**
 * One batch of EVA's incremental SVD of a layer's inputs. The components so far times their singular values, the centred
 * batch, and a row for the shift of the mean are stacked, and the leading right singular vectors of the stack kept. PEFT stops
 * when the cosine of each component between two batches is above 0.99.
 *
 * @throws (rejects) TypeError for a wrong type or unknown key; RangeError for a wrong shape or value, or elements that are not finite
 * @see Paischer et al., One Initialization to Rule them All: Fine-tuning via Explained Variance Adaptation, 2024 (arXiv:2410.07170); Ross et al., Incremental Learning for Robust Visual Tracking, 2008
 */
export async function updateEva(
  inputs: UpdateEvaInputs,
  options: UpdateEvaOptions,
): Promise<EvaState> {
  const operation = 'updateEva';
  checkKeys(operation, 'an input', inputs, ['x', 'state']);
  checkKeys(operation, 'an option', options, ['components', 'center', ...SKETCH_OPTIONS]);
  const state = inputs.state === undefined ? undefined : checkState(operation, inputs.state);
  const x = checkMatrix(operation, 'x', inputs.x, undefined, state?.mean.length);
  const [samples, features] = x.shape;
  const most = readInteger(operation, 'components', options.components, undefined, 1, features);
  const center = readFlag(operation, 'center', options.center, true);
  const sketch = readSketch(operation, options);

  const batchMean = new Float64Array(features);
  if (center)
    for (let i = 0; i < x.data.length; i++) batchMean[i % features] += x.data[i] / samples;
  const before = state?.samples ?? 0;
  const total = before + samples;
  const kept = state?.singularValues.length ?? 0;
  const shifted = center && state !== undefined;
  const rows = kept + samples + (shifted ? 1 : 0);
  const stack = { data: new Float32Array(rows * features), shape: [rows, features] };
  for (let k = 0; k < kept; k++)
    for (let j = 0; j < features; j++)
      stack.data[k * features + j] =
        state!.singularValues[k] * state!.components.data[k * features + j];
  let totalSquares = state?.totalSquares ?? 0;
  for (let i = 0; i < x.data.length; i++) {
    const centred = x.data[i] - batchMean[i % features];
    stack.data[kept * features + i] = centred;
    totalSquares += centred * centred;
  }
  const mean = batchMean;
  if (shifted)
    for (let j = 0; j < features; j++) {
      const shift = Math.sqrt((before / total) * samples) * (state.mean[j] - batchMean[j]);
      stack.data[(rows - 1) * features + j] = shift;
      totalSquares += shift * shift;
      mean[j] = (before * state.mean[j] + samples * batchMean[j]) / total;
    }
  const count = Math.min(most, rows);
  const { s, v } = await sketchSvd(mapOf(stack), count, sketch);
  return {
    components: toTransposedTensor(v, count),
    singularValues: [...s],
    mean,
    totalSquares,
    samples: total,
  };
}

function checkState(operation: string, state: EvaState): EvaState {
  if (
    typeof state !== 'object' ||
    state === null ||
    !Array.isArray(state.singularValues) ||
    !(state.mean instanceof Float64Array)
  )
    throw typeError(operation, `state: expected what updateEva() returns, got ${show(state)}`);
  const { singularValues, mean } = state;
  checkMatrix(operation, 'state.components', state.components, singularValues.length, mean.length);
  return state;
}

/** Shares of the whole variance that the components explain, falling. */
function explained({ singularValues, totalSquares }: EvaState): number[] {
  return singularValues.map((s) => (totalSquares > 0 ? (s * s) / totalSquares : 0));
}

/** Options of {@link evaRanks}. */
export interface EvaRanksOptions {
  /** Of a layer on average: all layers together get as many as there are layers times this. */
  rank: number;
  /** No layer gets more than rank times rho, rounded; default 2. 1 gives every layer the same rank. */
  rho?: number;
}

/**
 * EVA's ranks: the components of all layers, sorted by the share of their layer's variance that they explain, get a rank each
 * while the budget lasts. A layer may be left with none. Ties go to the layer that comes first.
 *
 * The share is of the whole variance, as in PEFT; the paper divides by (samples - 1) times the sum of the kept singular
 * values. Keep `scale` as it is when a layer's rank changes (PEFT's adjust_scaling_factors, which changes alpha with it).
 *
 * @throws TypeError for a wrong type or unknown key; RangeError for a wrong value
 */
export function evaRanks<Layer>(
  states: ReadonlyMap<Layer, EvaState>,
  options: EvaRanksOptions,
): Map<Layer, number> {
  const operation = 'evaRanks';
  checkKeys(operation, 'an option', options, ['rank', 'rho']);
  if (!(states instanceof Map))
    throw typeError(operation, `states: expected a Map of layers, got ${show(states)}`);
  const rank = readInteger(operation, 'rank', options.rank, undefined, 1);
  const most = Math.round(rank * readNumber(operation, 'rho', options.rho, 2));
  const shares: { layer: Layer; share: number }[] = [];
  for (const [layer, state] of states as ReadonlyMap<Layer, EvaState>)
    for (const share of explained(checkState(operation, state)).slice(0, most))
      shares.push({ layer, share });
  shares.sort((a, b) => b.share - a.share);
  const ranks = new Map<Layer, number>([...states.keys()].map((layer) => [layer, 0]));
  for (const { layer } of shares.slice(0, rank * states.size))
    ranks.set(layer, ranks.get(layer)! + 1);
  return ranks;
}

/** Inputs of {@link initEva}. */
export interface InitEvaInputs {
  state: EvaState;
  outFeatures: number;
}

/** Options of {@link initEva}. */
export interface InitEvaOptions extends InitOptions {
  /** Divide each component by the root of its singular value, PEFT's whiten; default false. */
  whiten?: boolean;
}

/**
 * EVA: a holds the leading components of the layer's inputs, b is zero: of all a with orthonormal rows the one that loses
 * least of the inputs.
 *
 *     a = V_r^T,   b = 0
 *
 * @throws (rejects) TypeError for a wrong type or unknown key; RangeError for a wrong value, a rank beyond the components among them
 * @see Paischer et al., One Initialization to Rule them All: Fine-tuning via Explained Variance Adaptation, 2024 (arXiv:2410.07170)
 */
export async function initEva(
  inputs: InitEvaInputs,
  options: InitEvaOptions,
): Promise<Initialisation> {
  const operation = 'initEva';
  checkKeys(operation, 'an input', inputs, ['state', 'outFeatures']);
  checkKeys(operation, 'an option', options, [...INIT_OPTIONS, 'whiten']);
  const { components, singularValues, mean } = checkState(operation, inputs.state);
  const out = readInteger(operation, 'outFeatures', inputs.outFeatures, undefined, 1);
  const most = singularValues.length;
  const rank = readInteger(operation, 'rank', options.rank, undefined, 1, most);
  const scale = readScale(operation, options);
  const a = { ...components, data: components.data.slice(0, rank * mean.length) };
  a.shape = [rank, mean.length];
  if (readFlag(operation, 'whiten', options.whiten, false))
    for (let k = 0; k < rank; k++) {
      if (!(singularValues[k] > 0))
        throw rangeError(operation, `whiten: expected singular values above 0, got 0 at ${k}`);
      const row = a.data.subarray(k * mean.length, (k + 1) * mean.length);
      for (let j = 0; j < row.length; j++) row[j] /= Math.sqrt(singularValues[k]);
    }
  return { adapter: { a, b: zeros(out, rank), scale } };
}
