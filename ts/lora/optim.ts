import { checkKeys, checkMatrix, readNumber } from '../linalg/arguments';
import { multiply, type Square, symmetricEigen, transpose } from '../linalg/dense';
import { matmulSync } from '../ops/matmul';
import type { ResultTensor, Tensor } from '../types';

/** Options of {@link loraPlusRates}. */
export interface LoraPlusOptions {
  /** Learning rate of a. */
  lr: number;
  /** Learning rate of b over that of a; default 16. */
  ratio?: number;
}

/** What {@link loraPlusRates} returns. */
export interface LoraPlusRates {
  a: number;
  b: number;
}

/**
 * LoRA+: b learns faster than a, by a fixed ratio. In wide layers a single rate that is right for one factor leaves the other
 * one almost still. Each factor then takes its own rate in the optimiser, such as `adamW`.
 *
 * @throws TypeError for a wrong type or unknown key; RangeError for a wrong value
 * @see Hayou, Ghosh and Yu, LoRA+: Efficient Low Rank Adaptation of Large Models, 2024 (arXiv:2402.12354)
 */
export function loraPlusRates(options: LoraPlusOptions): LoraPlusRates {
  const operation = 'loraPlusRates';
  checkKeys(operation, 'an option', options, ['lr', 'ratio']);
  const a = readNumber(operation, 'lr', options.lr, undefined);
  return { a, b: a * readNumber(operation, 'ratio', options.ratio, 16) };
}

/** Inputs of {@link loraProGradients}. */
export interface LoraProInputs {
  /** `[rank,in]` */
  a: Tensor;
  /** `[out,rank]` */
  b: Tensor;
  /** Gradient of a, `[rank,in]`. */
  dA: Tensor;
  /** Gradient of b, `[out,rank]`. */
  dB: Tensor;
}

/** Options of {@link loraProGradients}. */
export interface LoraProOptions {
  /** As the layer's; default 1. */
  scale?: number;
}

/** What {@link loraProGradients} returns. */
export interface LoraProResult {
  /** In the place of the gradient of a. */
  dA: ResultTensor;
  /** In the place of the gradient of b. */
  dB: ResultTensor;
}

/**
 * LoRA-Pro: gradients of the factors whose step moves `scale b a` as near to the full gradient's as two factors can. With
 * s = scale and the gradients dA, dB of the loss,
 *
 *     dA' = (b^T b)^-1 dA / s^2 + X a
 *     dB' = (I - b (b^T b)^-1 b^T) dB (a a^T)^-1 / s^2 - b X
 *     b^T b X + X a a^T = -(b^T b)^-1 dA a^T / s^2
 *
 * What they make of the weight, `s b dA' + s dB' a`, is the full gradient G but for `(I - P_b) G (I - P_a)`, its projection
 * off both column spaces, whatever X is; this X keeps dA' and dB' nearest to dA and dB. G itself is not needed.
 *
 * Inverses are pseudo-inverses: with b = 0, where LoRA starts, dA' is 0, as dA is, and dB' is dB (a a^T)^-1 / s^2. (The
 * reference code adds 1e-8 to the diagonals.) Square matrices are factored in float64, the products with a, b and gradients
 * are float32. For LoRA-Pro with Adam, `s b dA' + s dB' a` goes through Adam at the weight's full size, and its result G' back
 * in through `dA = s b^T G'` and `dB = s G' a^T`.
 *
 * @throws TypeError for a wrong type or unknown key; RangeError for a wrong shape or value, or elements that are not finite
 * @see Wang et al., LoRA-Pro: Are Low-Rank Adapters Properly Optimized?, 2024 (arXiv:2407.18242), theorems 2.1 to 2.3
 */
export function loraProGradients(
  inputs: LoraProInputs,
  options: LoraProOptions = {},
): LoraProResult {
  const operation = 'loraProGradients';
  checkKeys(operation, 'an input', inputs, ['a', 'b', 'dA', 'dB']);
  checkKeys(operation, 'an option', options, ['scale']);
  const a = checkMatrix(operation, 'a', inputs.a);
  const [rank, columns] = a.shape;
  const b = checkMatrix(operation, 'b', inputs.b, undefined, rank);
  const [out] = b.shape;
  const dA = checkMatrix(operation, 'dA', inputs.dA, rank, columns);
  const dB = checkMatrix(operation, 'dB', inputs.dB, out, rank);
  const perScale = readNumber(operation, 'scale', options.scale, 1) ** -2;

  const bb = new Gram(gramOfColumns(b));
  const aa = new Gram(gramOfRows(a));
  const inner = square(matmulSync({ a: dA, b: a }, { transposeB: true }).y); // dA a^T
  const solved = multiply(bb.inverse, inner);
  const x = sylvester(bb, aa, scaled(solved, -perScale));

  const ofDA = matmulSync({ a: tensor(scaled(bb.inverse, perScale)), b: dA }).y;
  add(ofDA, matmulSync({ a: tensor(x), b: a }).y, 1);
  // b^T dB = dA a^T, but for rounding, and for gradients that are not of one loss.
  const along = square(matmulSync({ a: b, b: dB }, { transposeA: true }).y);
  const onB = multiply(multiply(bb.inverse, along), scaled(aa.inverse, perScale));
  for (let i = 0; i < onB.data.length; i++) onB.data[i] += x.data[i];
  const ofDB = matmulSync({ a: dB, b: tensor(scaled(aa.inverse, perScale)) }).y;
  add(ofDB, matmulSync({ a: b, b: tensor(onB) }).y, -1);
  return { dA: ofDA, dB: ofDB };
}

/** A symmetric positive semidefinite matrix, by its eigenvectors. */
class Gram {
  readonly values: readonly number[];
  readonly vectors: Square;
  readonly inverse: Square;

  constructor(matrix: Square) {
    const { values, vectors } = symmetricEigen(matrix);
    this.values = values;
    this.vectors = vectors;
    const smallest = this.floor;
    const right = transpose(vectors);
    for (let k = 0; k < matrix.size; k++)
      for (let j = 0; j < matrix.size; j++)
        right.data[k * matrix.size + j] *= values[k] > smallest ? 1 / values[k] : 0;
    this.inverse = multiply(vectors, right);
  }

  /** Eigenvalues up to here are rounding, or zero. */
  get floor(): number {
    const { values } = this;
    return values.length * Number.EPSILON * Math.max(values[values.length - 1], 0);
  }
}

/** `left X + X right = c`; what both annihilate is left zero. */
function sylvester(left: Gram, right: Gram, c: Square): Square {
  const { size } = c;
  const y = multiply(multiply(transpose(left.vectors), c), right.vectors);
  const smallest = left.floor + right.floor;
  for (let i = 0; i < size; i++)
    for (let j = 0; j < size; j++) {
      const sum = left.values[i] + right.values[j];
      y.data[i * size + j] *= sum > smallest ? 1 / sum : 0;
    }
  return multiply(multiply(left.vectors, y), transpose(right.vectors));
}

/** `m^T m` in float64: its condition is the square of m's. */
function gramOfColumns({ data, shape: [rows, size] }: Tensor): Square {
  const sums = new Float64Array(size * size);
  for (let row = 0; row < rows; row++)
    for (let i = 0; i < size; i++) {
      const x = data[row * size + i];
      for (let j = 0; j <= i; j++) sums[i * size + j] += x * data[row * size + j];
    }
  return mirrored({ size, data: sums });
}

/** `m m^T` in float64. */
function gramOfRows({ data, shape: [size, columns] }: Tensor): Square {
  const sums = new Float64Array(size * size);
  for (let i = 0; i < size; i++)
    for (let j = 0; j <= i; j++) {
      let sum = 0;
      for (let k = 0; k < columns; k++) sum += data[i * columns + k] * data[j * columns + k];
      sums[i * size + j] = sum;
    }
  return mirrored({ size, data: sums });
}

function mirrored({ size, data }: Square): Square {
  for (let i = 0; i < size; i++)
    for (let j = 0; j < i; j++) data[j * size + i] = data[i * size + j];
  return { size, data };
}

function square({ data, shape: [size] }: Tensor): Square {
  return { size, data: Float64Array.from(data) };
}

function tensor({ size, data }: Square): Tensor {
  return { data: Float32Array.from(data), shape: [size, size] };
}

function scaled({ size, data }: Square, times: number): Square {
  return { size, data: data.map((x) => times * x) };
}

function add(sum: ResultTensor, other: Tensor, times: number): void {
  for (let i = 0; i < sum.data.length; i++) sum.data[i] += times * other.data[i];
}

/** Inputs of {@link alloraRowScale}. */
export interface AlloraInputs {
  /** `[rank,in]` */
  a: Tensor;
  /** `[out,rank]` */
  b: Tensor;
}

/** Options of {@link alloraRowScale}. */
export interface AlloraOptions {
  /** The largest factor, for rows of zero; it takes the place of LoRA's scale. */
  eta: number;
}

/**
 * ALLoRA: a learning rate for each output of the layer that falls with what the adapter already adds to it, without dropout
 * and with scale 1 in the layer. The factor of output i is
 *
 *     1 / sqrt(||(b a)_i|| + 1 / eta^2)
 *
 * with the Euclidean norm of row i of `b a`, so eta where that is zero. It multiplies column i of dY in the gradients of a and
 * b, and not in the gradient that goes on to the layer's input: `dB` is its rows times their factors, `dA` needs the scaled
 * dY, see {@link alloraGradient}.
 *
 * @returns `[out]`
 * @throws TypeError for a wrong type or unknown key; RangeError for a wrong shape or value, or elements that are not finite
 * @see Huang and Balestriero, ALLoRA: Adaptive Learning Rate Mitigates LoRA Fatal Flaws, 2024 (arXiv:2410.09692)
 */
export function alloraRowScale(inputs: AlloraInputs, options: AlloraOptions): ResultTensor {
  const operation = 'alloraRowScale';
  checkKeys(operation, 'an input', inputs, ['a', 'b']);
  return rowScale(operation, inputs, options);
}

/** Inputs of {@link alloraGradient}. */
export interface AlloraGradientInputs extends AlloraInputs {
  /** Gradient of the layer's output, `[tokens,out]`. */
  dY: Tensor;
}

/**
 * {@link alloraRowScale} applied: the dY from which the gradients of a and b are to be computed. The gradient of the layer's
 * input takes dY itself.
 *
 * @returns `[tokens,out]`
 * @throws as {@link alloraRowScale}
 */
export function alloraGradient(inputs: AlloraGradientInputs, options: AlloraOptions): ResultTensor {
  const operation = 'alloraGradient';
  checkKeys(operation, 'an input', inputs, ['a', 'b', 'dY']);
  const { data: scale } = rowScale(operation, inputs, options);
  const dY = checkMatrix(operation, 'dY', inputs.dY, undefined, scale.length);
  const data = dY.data.map((x, i) => x * scale[i % scale.length]);
  return { data, shape: [...dY.shape], dtype: 'f32' };
}

function rowScale(operation: string, inputs: AlloraInputs, options: AlloraOptions): ResultTensor {
  checkKeys(operation, 'an option', options, ['eta']);
  const eta = readNumber(operation, 'eta', options.eta, undefined);
  const a = checkMatrix(operation, 'a', inputs.a);
  const rank = a.shape[0];
  const b = checkMatrix(operation, 'b', inputs.b, undefined, rank);
  const [out] = b.shape;
  const gram = gramOfRows(a);
  const data = new Float32Array(out);
  for (let row = 0; row < out; row++) {
    let squared = 0; // of row times a, by the Gram matrix of a
    for (let i = 0; i < rank; i++) {
      let sum = 0;
      for (let j = 0; j < rank; j++) sum += gram.data[i * rank + j] * b.data[row * rank + j];
      squared += b.data[row * rank + i] * sum;
    }
    data[row] = 1 / Math.sqrt(Math.sqrt(Math.max(squared, 0)) + eta ** -2);
  }
  return { data, shape: [out], dtype: 'f32' };
}
