import { checkKeys, checkMatrix, readChoice, readInteger, readNumber } from '../linalg/arguments';
import { sliceColumns, toTensor, toTransposedTensor } from '../linalg/columns';
import { mapOf, readSketch, SKETCH_OPTIONS, type SketchOptions, sketchSvd } from '../linalg/sketch';
import type { Tensor } from '../types';
import {
  INIT_OPTIONS,
  type Initialisation,
  type InitOptions,
  type ResidualInitialisation,
  readScale,
  readWeight,
  residual,
  type WeightInputs,
  zeros,
} from './initAdapter';
import type { InitSvdOptions } from './initWeight';

/** Inputs of {@link initLoraGa}. */
export interface InitLoraGaInputs extends WeightInputs {
  /** Gradient of the loss with respect to the full weight, `[out,in]`, over a first batch. */
  gradient: Tensor;
}

/** Options of {@link initLoraGa}. */
export interface InitLoraGaOptions extends InitOptions, SketchOptions {
  /**
   * Which of the 2r leading singular vectors go where: `'ArB2r'` (default, the paper's), 1 to r to a and r + 1 to 2r to b;
   * `'A2rBr'`, the other way round; `'ArBr'`, by turns, the first to b.
   */
  direction?: 'ArB2r' | 'A2rBr' | 'ArBr';
  /**
   * Lengths of the vectors: `'stable'` (default), out^(1/4) / sqrt(gamma); `'gd'`, 1 / scale; `'unit'`, 1; `'weight'`, the mean
   * root of the weight's r leading singular values over scale.
   */
  magnitude?: 'stable' | 'gd' | 'unit' | 'weight';
  /** Of `'stable'`; default 16. */
  gamma?: number;
}

/**
 * LoRA-GA: the first step of the adapter follows the full gradient G. With `G = U S V^T`,
 *
 *     a = c V_{1..r}^T,   b = c U_{r+1..2r},   c = out^(1/4) / sqrt(gamma),   base = W - scale b a
 *
 * so that the first update of `b a` lies along the leading 2r directions of G. The paper has scale = alpha / sqrt(r). This is
 * the paper and its code; PEFT multiplies b by its singular values of G and applies `'stable'` to b alone, so that its
 * adapter starts with the size of the gradient. 2 rank may not exceed in or out.
 *
 * @throws (rejects) TypeError for a wrong type or unknown key; RangeError for a wrong shape or value, or elements that are not finite
 * @see Wang, Yu and Li, LoRA-GA: Low-Rank Adaptation with Gradient Approximation, 2024 (arXiv:2407.05000)
 */
export async function initLoraGa(
  inputs: InitLoraGaInputs,
  options: InitLoraGaOptions,
): Promise<ResidualInitialisation> {
  const operation = 'initLoraGa';
  const read = readWeight(operation, inputs, options, {
    inputNames: ['gradient'],
    optionNames: ['direction', 'magnitude', 'gamma', ...SKETCH_OPTIONS],
  });
  const { weight, out, scale, in: columns } = read;
  const half = Math.floor(Math.min(out, columns) / 2);
  const rank = readInteger(operation, 'rank', options.rank, undefined, 1, half);
  const directions = ['ArB2r', 'A2rBr', 'ArBr'] as const;
  const direction = readChoice(operation, 'direction', options.direction, directions);
  const magnitudes = ['stable', 'gd', 'unit', 'weight'] as const;
  const magnitude = readChoice(operation, 'magnitude', options.magnitude, magnitudes);
  const gamma = readNumber(operation, 'gamma', options.gamma, 16);
  const sketch = readSketch(operation, options);
  const gradient = checkMatrix(operation, 'gradient', inputs.gradient, out, columns);
  const { u, v } = await sketchSvd(mapOf(gradient), 2 * rank, sketch);

  let length = 1;
  if (magnitude === 'stable') length = out ** 0.25 / Math.sqrt(gamma);
  else if (magnitude === 'gd') length = 1 / scale;
  else if (magnitude === 'weight') {
    const { s } = await sketchSvd(mapOf(weight), rank, sketch);
    length = s.reduce((sum, x) => sum + Math.sqrt(x / scale), 0) / rank;
  }
  const pick = (all: typeof u, first: number): typeof u => {
    if (direction !== 'ArBr') return sliceColumns(all, first * rank, rank);
    const data = new Float64Array(rank * all.rows);
    for (let k = 0; k < rank; k++) data.set(sliceColumns(all, 2 * k + first, 1).data, k * all.rows);
    return { rows: all.rows, count: rank, data };
  };
  const ofA = direction === 'ArB2r' ? 0 : 1;
  const adapter = {
    a: toTransposedTensor(pick(v, ofA), rank, () => length),
    b: toTensor(pick(u, 1 - ofA), rank, () => length),
    scale,
  };
  return { adapter, base: await residual(weight, adapter) };
}

/** Inputs of {@link initLoraSb}. */
export interface InitLoraSbInputs {
  /** Gradient of the loss with respect to the full weight, `[out,in]`, summed over some samples. */
  gradient: Tensor;
}

/** Options of {@link initLoraSb}. */
export interface InitLoraSbOptions extends InitSvdOptions {
  /** Of the step of full fine-tuning that is approximated. */
  learningRate: number;
  /** `'sign'` (default) is AdamW's first step, -learningRate sign(G); `'gradient'` is gradient descent's. */
  step?: 'sign' | 'gradient';
}

/**
 * LoRA-SB: only the square matrix in the middle is trained (LoRA-XS), between the singular vectors of the first step of full
 * fine-tuning. With `-learningRate sign(G) = U S V^T`,
 *
 *     a = V_r^T,   mid = S_r / scale (a full matrix),   b = U_r
 *
 * so that `scale b mid a` is the best approximation of that step, which the layer starts with: nothing leaves the base. The
 * paper's code leaves scale 1.
 *
 * @throws (rejects) TypeError for a wrong type or unknown key; RangeError for a wrong shape or value, or elements that are not finite
 * @see Ponkshe et al., Initialization using Update Approximation is a Silver Bullet for Extremely Efficient Low-Rank Fine-Tuning, 2024 (arXiv:2411.19557)
 */
export async function initLoraSb(
  inputs: InitLoraSbInputs,
  options: InitLoraSbOptions,
): Promise<Initialisation> {
  const operation = 'initLoraSb';
  checkKeys(operation, 'an input', inputs, ['gradient']);
  const names = [...INIT_OPTIONS, 'learningRate', 'step', ...SKETCH_OPTIONS];
  checkKeys(operation, 'an option', options, names);
  const gradient = checkMatrix(operation, 'gradient', inputs.gradient);
  const smaller = Math.min(...gradient.shape);
  const rank = readInteger(operation, 'rank', options.rank, undefined, 1, smaller);
  const scale = readScale(operation, options);
  const rate = readNumber(operation, 'learningRate', options.learningRate, undefined);
  const kind = readChoice(operation, 'step', options.step, ['sign', 'gradient'] as const);
  const step = kind === 'sign' ? Math.sign : (x: number) => x;
  const update = {
    data: Float32Array.from(gradient.data, (x) => -rate * step(x)),
    shape: gradient.shape,
  };
  const { u, s, v } = await sketchSvd(mapOf(update), rank, readSketch(operation, options));
  const mid = zeros(rank, rank);
  for (let k = 0; k < rank; k++) mid.data[k * rank + k] = s[k] / scale;
  const adapter = { a: toTransposedTensor(v, rank), b: toTensor(u, rank), scale, mid };
  return { adapter };
}
