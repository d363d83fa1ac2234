import { readChoice, readFlag } from '../linalg/arguments';
import { columnsOf, orthonormalize, toTensor, toTransposedTensor } from '../linalg/columns';
import { pseudoInverse } from '../linalg/dense';
import { partialLdu } from '../linalg/elimination';
import { minorSvd } from '../linalg/minorSvd';
import { multiplied } from '../linalg/product';
import { mapOf, readSketch, SKETCH_OPTIONS, type SketchOptions, sketchSvd } from '../linalg/sketch';
import type { ResultTensor } from '../types';
import {
  balanced,
  type Initialisation,
  type InitOptions,
  type ResidualInitialisation,
  readWeight,
  residual,
  vector,
  type WeightInputs,
} from './initAdapter';

/** Options of initialisers that take the leading singular vectors of a matrix. */
export interface InitSvdOptions extends InitOptions, SketchOptions {}

/**
 * PiSSA: the principal part of the weight goes into the adapter, the rest stays. With `W = U S V^T`,
 *
 *     a = sqrt(S_r / scale) V_r^T,   b = U_r sqrt(S_r / scale),   base = W - scale b a
 *
 * The paper has scale 1; dividing by it first, as PEFT does, keeps `base + scale b a = W` for any. PEFT's `'pissa'` takes the
 * full SVD, `'pissa_niter_n'` a randomised one like this.
 *
 * @throws (rejects) TypeError for a wrong type or unknown key; RangeError for a wrong shape or value, or elements that are not finite
 * @see Meng, Wang and Zhang, PiSSA: Principal Singular Values and Singular Vectors Adaptation, 2024 (arXiv:2404.02948)
 */
export async function initPissa(
  inputs: WeightInputs,
  options: InitSvdOptions,
): Promise<ResidualInitialisation> {
  const operation = 'initPissa';
  const read = readWeight(operation, inputs, options, { optionNames: SKETCH_OPTIONS });
  const { weight, rank, scale } = read;
  const factors = await sketchSvd(mapOf(weight), rank, readSketch(operation, options));
  const adapter = balanced(factors, rank, scale);
  return { adapter, base: await residual(weight, adapter) };
}

/**
 * MiLoRA: PiSSA with the minor singular components, so that training starts where the weight does least:
 *
 *     a = sqrt(S_r / scale) V_r^T,   b = U_r sqrt(S_r / scale),   base = W - scale b a
 *
 * of the last r singular values. They cost a QR factorization of the whole weight and then inverse iterations, as many as
 * `powerIterations` says: some ten times what the leading ones cost. Singular values below some 1e-6 of the largest are not
 * told apart.
 *
 * @throws (rejects) TypeError for a wrong type or unknown key; RangeError for a wrong shape or value, or elements that are not finite
 * @see Wang et al., MiLoRA: Harnessing Minor Singular Components for Parameter-Efficient LLM Finetuning, 2024 (arXiv:2406.09044)
 */
export async function initMilora(
  inputs: WeightInputs,
  options: InitSvdOptions,
): Promise<ResidualInitialisation> {
  const operation = 'initMilora';
  const read = readWeight(operation, inputs, options, { optionNames: SKETCH_OPTIONS });
  const { weight, rank, scale } = read;
  const factors = await minorSvd(weight, rank, readSketch(operation, options));
  const adapter = balanced(factors, rank, scale);
  return { adapter, base: await residual(weight, adapter) };
}

/**
 * SVFit: the leading singular vectors stay fixed, the singular values between them are trained:
 *
 *     a = V_r^T,   mid = S_r / scale (a diagonal),   b = U_r,   base = W - U_r S_r V_r^T
 *
 * @throws (rejects) TypeError for a wrong type or unknown key; RangeError for a wrong shape or value, or elements that are not finite
 * @see Sun et al., SVFit: Parameter-Efficient Fine-Tuning of Large Pre-Trained Models Using Singular Values, 2024 (arXiv:2409.05926)
 */
export async function initSvfit(
  inputs: WeightInputs,
  options: InitSvdOptions,
): Promise<ResidualInitialisation> {
  const operation = 'initSvfit';
  const read = readWeight(operation, inputs, options, { optionNames: SKETCH_OPTIONS });
  const { weight, rank, scale } = read;
  const { u, s, v } = await sketchSvd(mapOf(weight), rank, readSketch(operation, options));
  const mid = vector(s.map((x) => x / scale));
  const adapter = { a: toTransposedTensor(v, rank), b: toTensor(u, rank), scale, mid };
  return { adapter, base: await residual(weight, adapter) };
}

/**
 * OLoRA: an orthonormal b. With `W = Q R`,
 *
 *     b = Q_r (the first r columns),   a = R_r (the first r rows),   base = W - scale b a
 *
 * Only those columns are factored. The diagonal of R is positive here; LAPACK's may be negative, which changes the signs of
 * columns of b and of rows of a together.
 *
 * @throws (rejects) TypeError for a wrong type or unknown key; RangeError for a wrong shape or value, or elements that are not finite
 * @see Büyükakyüz, OLoRA: Orthonormal Low-Rank Adaptation of Large Language Models, 2024 (arXiv:2406.01775)
 */
export async function initOlora(
  inputs: WeightInputs,
  options: InitOptions,
): Promise<ResidualInitialisation> {
  const { weight, out, rank, scale, in: columns } = readWeight('initOlora', inputs, options);
  const leading = { data: new Float32Array(out * rank), shape: [out, rank] };
  for (let i = 0; i < out; i++)
    leading.data.set(weight.data.subarray(i * columns, i * columns + rank), i * rank);
  const basis = columnsOf(leading);
  orthonormalize(basis, 0);
  const b = toTensor(basis, rank);
  const a = await multiplied(b, weight, { transposeA: true });
  for (let i = 0; i < rank; i++) a.data.fill(0, i * columns, i * columns + i); // of a triangle
  const adapter = { a, b, scale };
  return { adapter, base: await residual(weight, adapter) };
}

/**
 * LoLDU: with `W = P L D U`, pivoted rows, unit triangles L and U and a diagonal D, only r numbers are trained:
 *
 *     a = U_r,   mid = D_r (a diagonal),   b = P L_r,   base = W - scale b mid a
 *
 * As in the reference code, scale is not divided out: it multiplies what leaves the base too. (There it is trained.)
 *
 * @throws (rejects) TypeError for a wrong type or unknown key; RangeError for a wrong shape or value, elements that are not finite, or a pivot of zero
 * @see Shi et al., LoLDU: Low-Rank Adaptation via Lower-Diag-Upper Decomposition, 2024 (arXiv:2410.13618)
 */
export async function initLoldu(
  inputs: WeightInputs,
  options: InitOptions,
): Promise<ResidualInitialisation> {
  const operation = 'initLoldu';
  const { weight, out, rank, scale, in: columns } = readWeight(operation, inputs, options);
  const { l, d, u } = partialLdu(operation, weight, rank);
  const a: ResultTensor = { data: Float32Array.from(u), shape: [rank, columns], dtype: 'f32' };
  const b: ResultTensor = { data: Float32Array.from(l), shape: [out, rank], dtype: 'f32' };
  const adapter = { a, b, scale, mid: vector(d) };
  return { adapter, base: await residual(weight, adapter) };
}

/** Options of {@link initNlora}. */
export interface InitNloraOptions extends InitOptions {
  /** Of mid: `'inverse'` (default) is the Nyström formula's, `'block'` what the paper's code trains from. */
  mid?: 'inverse' | 'block';
  /** Take the adapter out of the base; default true for `'inverse'`, false for `'block'`. */
  residual?: boolean;
}

/**
 * NLoRA: the Nyström approximation of the weight from its first r rows and columns. With W_rr the block they share,
 *
 *     a = W[:r, :],   mid = W_rr^+ / scale,   b = W[:, :r],   base = W - scale b mid a
 *
 * The paper's code puts W_rr itself in the middle and leaves the base as it is, so that training does not start from the
 * pretrained layer: `mid: 'block'`. A pseudo-inverse of an ill-conditioned block has large elements; singular values below
 * float32's rounding count as zero.
 *
 * @throws (rejects) TypeError for a wrong type or unknown key; RangeError for a wrong shape or value, or elements that are not finite
 * @see Guo, Wu and Chang, NLoRA: Nyström-Initiated Low-Rank Adaptation for Large Language Models, 2025 (arXiv:2502.14482)
 */
export async function initNlora(
  inputs: WeightInputs,
  options: InitNloraOptions,
): Promise<Initialisation & Partial<ResidualInitialisation>> {
  const operation = 'initNlora';
  const read = readWeight(operation, inputs, options, { optionNames: ['mid', 'residual'] });
  const { weight, out, rank, scale, in: columns } = read;
  const kind = readChoice(operation, 'mid', options.mid, ['inverse', 'block'] as const);
  const subtracted = readFlag(operation, 'residual', options.residual, kind === 'inverse');
  const a = weight.data.slice(0, rank * columns);
  const b = new Float32Array(out * rank);
  for (let i = 0; i < out; i++)
    b.set(weight.data.subarray(i * columns, i * columns + rank), i * rank);
  const block = b.slice(0, rank * rank);
  const mid =
    kind === 'block'
      ? block
      : Float32Array.from(
          pseudoInverse({ size: rank, data: Float64Array.from(block) }).data,
          (x) => x / scale,
        );
  const adapter = {
    a: { data: a, shape: [rank, columns], dtype: 'f32' as const },
    b: { data: b, shape: [out, rank], dtype: 'f32' as const },
    scale,
    mid: { data: mid, shape: [rank, rank], dtype: 'f32' as const },
  };
  return subtracted ? { adapter, base: await residual(weight, adapter) } : { adapter };
}
