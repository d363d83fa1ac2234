import { checkMatrix, readChoice, readNumber } from '../linalg/arguments';
import { columnsOf, toTensor } from '../linalg/columns';
import { minorSvd } from '../linalg/minorSvd';
import { multiplied } from '../linalg/product';
import {
  type LinearMap,
  type LowRank,
  mapOf,
  readSketch,
  SKETCH_OPTIONS,
  type SketchOptions,
  sketchSvd,
} from '../linalg/sketch';
import type { ResultTensor, Tensor } from '../types';
import {
  type InitialAdapter,
  type ResidualInitialisation,
  readWeight,
  residual,
  type WeightInputs,
} from './initAdapter';
import type { InitSvdOptions } from './initWeight';

/** Inputs of {@link initCorda}. */
export interface InitCordaInputs extends WeightInputs {
  /** `[in,in]`, `X^T X` of the layer's inputs X `[samples,in]`, symmetric; its size moves length from a to b only. */
  covariance: Tensor;
}

/** Options of {@link initCorda}. */
export interface InitCordaOptions extends InitSvdOptions {
  /**
   * Which part goes into the adapter: `'instruction'` (default), the one that the inputs speak to most, for inputs of the task
   * to learn; `'knowledge'`, the one they speak to least, for inputs of what is not to be forgotten. The latter costs a QR
   * factorization of the whole weight; `powerIterations` are then inverse ones.
   */
  mode?: 'instruction' | 'knowledge';
  /** Added to the covariance's diagonal, times its mean; default 0.01. */
  damp?: number;
}

/**
 * CorDA: the part of the weight that speaks most, or least, to the directions of given inputs goes into the adapter. With C
 * the covariance and its damping, and `W C = U S V^T`, of the first r singular values or of the last,
 *
 *     b = U_r sqrt(S_r / scale),   a = sqrt(S_r / scale) V_r^T C^-1,   base = W - scale b a
 *
 * C is never inverted: since `S V^T C^-1 = U^T W`, a is `U_r^T W / sqrt(S_r scale)`. The paper's code and PEFT invert C in
 * float32 and raise the damping until the inverse passes a test; their names of the modes are IPM and KPM. The paper's `C = X X^T` has samples in columns. PEFT divides
 * the inputs of each sample by their maximum first; do so, if at all, before the covariance is summed.
 *
 * @throws (rejects) TypeError for a wrong type or unknown key; RangeError for a wrong shape or value, or elements that are not finite
 * @see Yang et al., CorDA: Context-Oriented Decomposition Adaptation of Large Language Models, 2024 (arXiv:2406.05223)
 */
export async function initCorda(
  inputs: InitCordaInputs,
  options: InitCordaOptions,
): Promise<ResidualInitialisation> {
  const operation = 'initCorda';
  const { weight, out, rank, scale, ...read } = readWeight(operation, inputs, options, {
    inputNames: ['covariance'],
    optionNames: ['mode', 'damp', ...SKETCH_OPTIONS],
  });
  const damp = readNumber(operation, 'damp', options.damp, 0.01, 'or zero');
  const modes = ['instruction', 'knowledge'] as const;
  const minor = readChoice(operation, 'mode', options.mode, modes) === 'knowledge';
  const sketch = readSketch(operation, options);
  const covariance = checkMatrix(operation, 'covariance', inputs.covariance, read.in, read.in);
  const damped = { data: covariance.data.slice(), shape: covariance.shape };
  let mean = 0;
  for (let i = 0; i < read.in; i++) mean += damped.data[i * (read.in + 1)] / read.in;
  for (let i = 0; i < read.in; i++) damped.data[i * (read.in + 1)] += damp * mean;

  const { u, s, largest } = minor
    ? await minorParts(await multiplied(weight, damped), rank, sketch)
    : await leadingParts(mapOfProduct(weight, damped), rank, sketch);
  // Values that are rounding have no direction: nothing of W is to follow theirs.
  const kept = s.map((x) => (x > largest * 2 ** -22 ? x : 0));
  const adapter = await projected(weight, toTensor(u, rank), kept, scale);
  return { adapter, base: await residual(weight, adapter) };
}

interface Parts extends LowRank {
  /** singular value of the matrix, or a bound of it */
  largest: number;
}

async function leadingParts(
  map: LinearMap,
  rank: number,
  sketch: Required<SketchOptions>,
): Promise<Parts> {
  const factors = await sketchSvd(map, rank, sketch);
  return { ...factors, largest: factors.s[0] };
}

async function minorParts(
  matrix: Tensor,
  rank: number,
  sketch: Required<SketchOptions>,
): Promise<Parts> {
  const squares = matrix.data.reduce((sum, x) => sum + x * x, 0);
  return { ...(await minorSvd(matrix, rank, sketch)), largest: Math.sqrt(squares) };
}

/** `a b` without computing it. */
function mapOfProduct(a: Tensor, b: Tensor): LinearMap {
  const [first, second] = [mapOf(a), mapOf(b)];
  return {
    rows: first.rows,
    columns: second.columns,
    apply: async (x) => first.apply(await second.apply(x)),
    applyTransposed: async (x) => second.applyTransposed(await first.applyTransposed(x)),
  };
}

/** `b a = u u^T W / scale`, s shared between the factors. */
async function projected(
  weight: Tensor,
  u: ResultTensor,
  s: readonly number[],
  scale: number,
): Promise<InitialAdapter> {
  const [out, rank] = u.shape;
  const a = await multiplied(u, weight, { transposeA: true });
  const columns = a.shape[1];
  const b = columnsOf(u);
  for (let k = 0; k < rank; k++) {
    const root = Math.sqrt(s[k] / scale);
    const inverse = s[k] > 0 ? 1 / (root * scale) : 0;
    for (let i = 0; i < out; i++) b.data[k * out + i] *= root;
    for (let j = 0; j < columns; j++) a.data[k * columns + j] *= inverse;
  }
  return { a, b: toTensor(b, rank), scale };
}
