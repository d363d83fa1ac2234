import { rangeError, show, typeError } from '../errors';
import { checkMatrix, type Matrix, readInteger } from '../linalg/arguments';
import {
  type LowRank,
  mapOf,
  readSketch,
  SKETCH_OPTIONS,
  type SketchOptions,
  sketchSvd,
} from '../linalg/sketch';
import type { ResultTensor, Tensor } from '../types';
import {
  balanced,
  type InitialAdapter,
  type Initialisation,
  product,
  readWeight,
  subtractFrom,
  type WeightInputs,
} from './initAdapter';
import { type Nf4Weight, nf4, type Quantiser } from './initNf4';
import type { InitSvdOptions } from './initWeight';

/** What initialisers of a quantised base return. */
export interface QuantisedInitialisation<Quantised> extends Initialisation {
  /** The base in the quantiser's own form. */
  quantised: Quantised;
  /** Its values, `[out,in]`: `base + scale b a` is near the weight, but for what neither can hold. */
  base: Tensor;
}

/** Options of {@link initLoftq}. */
export interface InitLoftqOptions<Quantised = Nf4Weight> extends InitSvdOptions {
  /** Default NF4. */
  quantiser?: Quantiser<Quantised>;
  /** Alternations; default 5, PEFT's is 1. */
  iterations?: number;
}

/** Options of {@link initLqLora}. */
export interface InitLqLoraOptions<Quantised = Nf4Weight> extends InitSvdOptions {
  /** Default NF4. */
  quantiser?: Quantiser<Quantised>;
  /** Alternations at most; default 100. The search ends with the first one that makes the error larger. */
  iterations?: number;
}

/** Inputs of {@link initLqLora}. */
export interface InitLqLoraInputs extends WeightInputs {
  /**
   * Weights of the squared errors, `[out,in]`, such as the diagonal of the Fisher information: none negative, and no row or
   * column of zeros.
   */
  fisher?: Tensor;
}

/** A default that the type parameter cannot know: it is NF4 exactly where no quantiser is given. */
function readQuantiser<Q>(operation: string, quantiser: Quantiser<Q> | undefined): Quantiser<Q> {
  if (quantiser === undefined) return nf4 as unknown as Quantiser<Q>;
  const methods = ['quantise', 'dequantise'] as const;
  for (const method of methods)
    if (typeof quantiser?.[method] !== 'function')
      throw typeError(
        operation,
        `quantiser: expected an object with quantise() and dequantise(), got ${show(quantiser)}`,
      );
  return quantiser;
}

function round<Q>(
  operation: string,
  quantiser: Quantiser<Q>,
  weight: Tensor,
): { quantised: Q; base: Matrix } {
  const quantised = quantiser.quantise(weight);
  const [out, columns] = weight.shape;
  const values = quantiser.dequantise(quantised);
  return { quantised, base: checkMatrix(operation, 'quantiser', values, out, columns) };
}

function difference(a: Tensor, b: Tensor): ResultTensor {
  return subtractFrom(a, { data: Float32Array.from(b.data), shape: [...b.shape], dtype: 'f32' });
}

function output<Q>(
  adapter: InitialAdapter,
  { quantised, base }: { quantised: Q; base: Matrix },
): QuantisedInitialisation<Q> {
  return { adapter, quantised, base: { data: base.data, shape: [...base.shape], dtype: 'f32' } };
}

/**
 * LoftQ: a quantised base, and the adapter that makes up best for its rounding. From `A_0 = B_0 = 0`, by turns,
 *
 *     Q_t = quantise(W - scale B_{t-1} A_{t-1}),   scale B_t A_t = SVD_r(W - Q_t)
 *
 * with the singular values shared between the factors. The paper and PEFT leave scale out: there alpha must equal the rank,
 * or the adapter is not what was computed; here it is divided out.
 *
 * @throws (rejects) TypeError for a wrong type or unknown key; RangeError for a wrong shape or value, or elements that are not finite
 * @see Li et al., LoftQ: LoRA-Fine-Tuning-Aware Quantization for Large Language Models, 2023 (arXiv:2310.08659)
 */
export async function initLoftq<Quantised = Nf4Weight>(
  inputs: WeightInputs,
  options: InitLoftqOptions<Quantised>,
): Promise<QuantisedInitialisation<Quantised>> {
  const operation = 'initLoftq';
  const optionNames = ['quantiser', 'iterations', ...SKETCH_OPTIONS];
  const { weight, rank, scale } = readWeight(operation, inputs, options, { optionNames });
  const quantiser = readQuantiser(operation, options.quantiser);
  const iterations = readInteger(operation, 'iterations', options.iterations, 5, 1);
  const sketch = readSketch(operation, options);
  let rounded = round(operation, quantiser, weight);
  for (let t = 1; ; t++) {
    const factors = await sketchSvd(mapOf(difference(weight, rounded.base)), rank, sketch);
    const adapter = balanced(factors, rank, scale);
    if (t === iterations) return output(adapter, rounded);
    const rest = subtractFrom(weight, await product(adapter));
    rounded = round(operation, quantiser, rest);
  }
}

/**
 * LQ-LoRA: a low-rank part first, and what it leaves quantised. From `Q_0 = 0`, by turns,
 *
 *     scale B_t A_t = SVD_r(W - Q_{t-1}),   Q_t = quantise(W - scale B_t A_t)
 *
 * until the error `||sqrt(F) * (W - Q - scale B A)||` grows; the best pair is returned (the reference code returns the one
 * after it). With `fisher` F the SVD is that of `D_row (W - Q) D_col`, divided out of the factors afterwards, where D_row and
 * D_col are the roots of F's means over rows and over columns. Mixed precisions, the paper's second part, are the caller's:
 * one quantiser per weight.
 *
 * @throws (rejects) TypeError for a wrong type or unknown key; RangeError for a wrong shape or value, or elements that are not finite
 * @see Guo et al., LQ-LoRA: Low-rank Plus Quantized Matrix Decomposition for Efficient Language Model Finetuning, 2023 (arXiv:2311.12023)
 */
export async function initLqLora<Quantised = Nf4Weight>(
  inputs: InitLqLoraInputs,
  options: InitLqLoraOptions<Quantised>,
): Promise<QuantisedInitialisation<Quantised>> {
  const operation = 'initLqLora';
  const read = readWeight(operation, inputs, options, {
    inputNames: ['fisher'],
    optionNames: ['quantiser', 'iterations', ...SKETCH_OPTIONS],
  });
  const { weight, rank, scale, out, in: columns } = read;
  const fisher =
    inputs.fisher === undefined
      ? undefined
      : checkMatrix(operation, 'fisher', inputs.fisher, out, columns, 'not negative');
  const quantiser = readQuantiser(operation, options.quantiser);
  const iterations = readInteger(operation, 'iterations', options.iterations, 100, 1);
  const sketch = readSketch(operation, options);

  let best: QuantisedInitialisation<Quantised> | undefined;
  let least = Infinity;
  let rest: Tensor = weight;
  for (let t = 0; t < iterations; t++) {
    const factors = await weightedSvd(operation, rest, rank, sketch, fisher);
    const adapter = balanced(factors, rank, scale);
    const remainder = subtractFrom(weight, await product(adapter));
    const rounded = round(operation, quantiser, remainder);
    const error = squaredError(remainder, rounded.base, fisher);
    if (best && !(error < least)) break;
    least = error;
    best = output(adapter, rounded);
    rest = difference(weight, rounded.base);
  }
  return best!;
}

function squaredError(a: Tensor, b: Tensor, weights: Tensor | undefined): number {
  let sum = 0;
  for (let i = 0; i < a.data.length; i++)
    sum += (weights ? weights.data[i] : 1) * (a.data[i] - b.data[i]) ** 2;
  return sum;
}

/** Factors that are no longer orthogonal where there are weights: what was multiplied in is divided out. */
async function weightedSvd(
  operation: string,
  matrix: Tensor,
  rank: number,
  sketch: Required<SketchOptions>,
  weights: Tensor | undefined,
): Promise<LowRank> {
  if (!weights) return sketchSvd(mapOf(matrix), rank, sketch);
  const [rows, columns] = matrix.shape;
  const ofRow = new Float64Array(rows);
  const ofColumn = new Float64Array(columns);
  for (let i = 0; i < rows; i++)
    for (let j = 0; j < columns; j++) {
      ofRow[i] += weights.data[i * columns + j] / columns;
      ofColumn[j] += weights.data[i * columns + j] / rows;
    }
  if (ofRow.includes(0) || ofColumn.includes(0))
    throw rangeError(operation, 'fisher: expected no row and no column of zeros, got one');
  const scaled = new Float32Array(rows * columns);
  for (let i = 0; i < rows; i++)
    for (let j = 0; j < columns; j++)
      scaled[i * columns + j] = matrix.data[i * columns + j] * Math.sqrt(ofRow[i] * ofColumn[j]);
  const factors = await sketchSvd(mapOf({ data: scaled, shape: matrix.shape }), rank, sketch);
  const { u, v } = factors;
  for (let k = 0; k < rank; k++) {
    for (let i = 0; i < rows; i++) u.data[k * rows + i] /= Math.sqrt(ofRow[i]);
    for (let j = 0; j < columns; j++) v.data[k * columns + j] /= Math.sqrt(ofColumn[j]);
  }
  return factors;
}
