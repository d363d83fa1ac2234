import { checkKeys, readChoice, readInteger } from '../linalg/arguments';
import { normals, uniforms } from '../linalg/philox';
import type { ResultTensor } from '../types';
import {
  INIT_OPTIONS,
  type Initialisation,
  type InitOptions,
  readScale,
  zeros,
} from './initAdapter';

/** Inputs of initialisers that need the layer's sizes alone. */
export interface SizeInputs {
  inFeatures: number;
  outFeatures: number;
}

/** Options of {@link initLora}. */
export interface InitLoraOptions extends InitOptions {
  /**
   * Of a: `'kaiming'` (default), uniform in +-1/sqrt(in), which is what Kaiming's uniform rule with a = sqrt(5) comes to, or
   * `'gaussian'`, normal of deviation 1/rank.
   */
  distribution?: 'kaiming' | 'gaussian';
  /** Default 0. */
  seed?: number;
}

/** Options of {@link initSlora}. */
export interface InitSloraOptions extends InitOptions {
  /** Default 0. */
  seed?: number;
}

function readSizes(
  operation: string,
  inputs: SizeInputs,
  options: InitLoraOptions,
  names: string[],
) {
  checkKeys(operation, 'an input', inputs, ['inFeatures', 'outFeatures']);
  checkKeys(operation, 'an option', options, [...INIT_OPTIONS, ...names]);
  return {
    inFeatures: readInteger(operation, 'inFeatures', inputs.inFeatures, undefined, 1),
    outFeatures: readInteger(operation, 'outFeatures', inputs.outFeatures, undefined, 1),
    rank: readInteger(operation, 'rank', options.rank, undefined, 1),
    scale: readScale(operation, options),
    seed: readInteger(operation, 'seed', options.seed, 0, 0),
  };
}

function kaiming(rows: number, columns: number, seed: number, stream: number): ResultTensor {
  const data = uniforms(rows * columns, { seed, stream, bound: 1 / Math.sqrt(columns) });
  return { data, shape: [rows, columns], dtype: 'f32' };
}

/**
 * LoRA: a random, b zero, so that training starts from the base. As in PEFT; the paper itself draws a from a normal
 * distribution whose deviation it leaves open.
 *
 * @throws (rejects) TypeError for a wrong type or unknown key; RangeError for a wrong value
 * @see Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, 2021 (arXiv:2106.09685)
 */
export async function initLora(
  inputs: SizeInputs,
  options: InitLoraOptions,
): Promise<Initialisation> {
  const operation = 'initLora';
  const sizes = readSizes(operation, inputs, options, ['distribution', 'seed']);
  const { inFeatures, outFeatures, rank, scale, seed } = sizes;
  const kinds = ['kaiming', 'gaussian'] as const;
  const gaussian =
    readChoice(operation, 'distribution', options.distribution, kinds) === 'gaussian';
  const a: ResultTensor = gaussian
    ? {
        data: normals(rank * inFeatures, { seed, deviation: 1 / rank }),
        shape: [rank, inFeatures],
        dtype: 'f32',
      }
    : kaiming(rank, inFeatures, seed, 0);
  return { adapter: { a, b: zeros(outFeatures, rank), scale } };
}

/**
 * SLoRA: a square matrix between the factors, `b mid a`. a and mid are drawn by Kaiming's uniform rule, b is zero.
 *
 * @throws (rejects) TypeError for a wrong type or unknown key; RangeError for a wrong value
 * @see Guo, Wu and Chang, NLoRA: Nyström-Initiated Low-Rank Adaptation for Large Language Models, 2025 (arXiv:2502.14482)
 */
export async function initSlora(
  inputs: SizeInputs,
  options: InitSloraOptions,
): Promise<Initialisation> {
  const sizes = readSizes('initSlora', inputs, options, ['seed']);
  const { inFeatures, outFeatures, rank, scale, seed } = sizes;
  const a = kaiming(rank, inFeatures, seed, 0);
  const mid = kaiming(rank, rank, seed, 1);
  return { adapter: { a, b: zeros(outFeatures, rank), scale, mid } };
}
