import { checkKeys, checkMatrix, type Matrix, readInteger, readNumber } from '../linalg/arguments';
import { toTensor, toTransposedTensor } from '../linalg/columns';
import { multiplied } from '../linalg/product';
import type { LowRank } from '../linalg/sketch';
import type { ResultTensor, Tensor } from '../types';

/**
 * The factors of an adapter, in the form in which adapters are loaded: the layer adds `scale b mid a x` to its base product.
 */
export interface InitialAdapter {
  /** `[rank,in]` */
  a: ResultTensor;
  /** `[out,rank]` */
  b: ResultTensor;
  /** As given in the options. */
  scale: number;
  /** Between the factors: `[rank,rank]`, or `[rank]` for a diagonal. */
  mid?: ResultTensor;
}

/** What an initialiser returns. */
export interface Initialisation {
  adapter: InitialAdapter;
}

/** What an initialiser returns that moves a part of the weight into the adapter. */
export interface ResidualInitialisation extends Initialisation {
  /** `[out,in]`, to be used in the weight's place: `base + scale b mid a` is the weight. */
  base: ResultTensor;
}

/** Options of every initialiser. */
export interface InitOptions {
  /** Rank of the adapter. */
  rank: number;
  /** What the layer multiplies the adapter's output by: alpha / rank, or alpha / sqrt(rank) for rsLoRA. Default 1. */
  scale?: number;
}

/** The input of initialisers that look at the weight alone. */
export interface WeightInputs {
  /** `[out,in]`, finite. It must stay as it is until the promise resolves. */
  weight: Tensor;
}

/** @internal */
export const INIT_OPTIONS = ['rank', 'scale'];

/** @internal */
export interface Checked {
  weight: Matrix;
  out: number;
  in: number;
  rank: number;
  scale: number;
}

/** The weight, and rank and scale, which are checked against it. @internal */
export function readWeight(
  operation: string,
  inputs: WeightInputs,
  options: InitOptions,
  { inputNames = [], optionNames = [] }: { inputNames?: string[]; optionNames?: string[] } = {},
): Checked {
  checkKeys(operation, 'an input', inputs, ['weight', ...inputNames]);
  checkKeys(operation, 'an option', options, [...INIT_OPTIONS, ...optionNames]);
  const weight = checkMatrix(operation, 'weight', inputs.weight);
  const [out, columns] = weight.shape;
  const rank = readInteger(operation, 'rank', options.rank, undefined, 1, Math.min(out, columns));
  return { weight, out, in: columns, rank, scale: readScale(operation, options) };
}

/** @internal */
export function readScale(operation: string, { scale }: InitOptions): number {
  return readNumber(operation, 'scale', scale, 1);
}

/** @internal */
export function vector(values: ArrayLike<number>): ResultTensor {
  return { data: Float32Array.from(values), shape: [values.length], dtype: 'f32' };
}

/** @internal */
export function zeros(...shape: number[]): ResultTensor {
  return { data: new Float32Array(shape.reduce((x, y) => x * y, 1)), shape, dtype: 'f32' };
}

/** Factors whose product is `u diag(s) v^T / scale`, s shared between them. @internal */
export function balanced({ u, s, v }: LowRank, rank: number, scale: number): InitialAdapter {
  const root = (k: number): number => Math.sqrt(s[k] / scale);
  return { a: toTransposedTensor(v, rank, root), b: toTensor(u, rank, root), scale };
}

/** `scale b mid a`. @internal */
export async function product({ a, b, mid, scale }: InitialAdapter): Promise<ResultTensor> {
  const rank = a.shape[0];
  const left = { data: Float32Array.from(b.data), shape: b.shape };
  if (mid?.shape.length === 2) left.data.set((await multiplied(b, mid)).data);
  for (let i = 0; i < left.data.length; i++)
    left.data[i] *= mid?.shape.length === 1 ? scale * mid.data[i % rank] : scale;
  return multiplied(left, a);
}

/** `weight - other`, into the memory of `other`. @internal */
export function subtractFrom(weight: Tensor, other: ResultTensor): ResultTensor {
  const { data } = other;
  for (let i = 0; i < data.length; i++) data[i] = weight.data[i] - data[i];
  return other;
}

/** The weight without what the adapter adds to it. @internal */
export async function residual(weight: Tensor, adapter: InitialAdapter): Promise<ResultTensor> {
  return subtractFrom(weight, await product(adapter));
}
