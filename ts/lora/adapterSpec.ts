import { rangeError, show, typeError } from '../errors';
import { arrayKind, arrayLength } from '../header';
import { checkKeys } from '../linalg/arguments';
import type { FloatTensor } from '../types';

/**
 * What stands between the factors of an adapter: nothing, `'relu'`, `'gelu'` (the one with erf), `'silu'`, or a gate of
 * its own on every row: with s = t / |t| the k largest (of equal ones the first) get the weights softmax(s), and each such
 * t is multiplied by its weight; the others count as zero.
 */
export type RankActivation = 'none' | 'relu' | 'gelu' | 'silu' | { readonly topK: number };

/**
 * An adapter, as {@link AdapterBank.load} takes it. It adds `scale (B M phi(A x + a) + c)` to the row's output, whose base
 * product it multiplies by d. r and r2 are any ranks from 1 on; without `mid`, or with a diagonal one, they are equal.
 */
export interface AdapterSpec {
  /** A `[r,in]`, kept in its dtype; or indices `[r]` of columns of x: t_i = x[a[i]] (PaCA). Duplicates are allowed. */
  a: FloatTensor | Int32Array;
  /** B `[out,r2]`, kept in its dtype; or indices `[r2]` of outputs: y[b[i]] += w_i (S2FT). Duplicates add up. */
  b: FloatTensor | Int32Array;
  /** Default 1: alpha / r of LoRA, or alpha / sqrt(r) of rsLoRA. */
  scale?: number;
  /** M: a matrix `[r2,r]`, or a diagonal `[r]`. */
  mid?: FloatTensor;
  /** phi; default `'none'` */
  act?: RankActivation;
  /** a `[r]` */
  rankBias?: FloatTensor;
  /** d `[out]`: DoRA's magnitude over the norm of the row. Not for rows with more than one adapter. */
  baseScale?: FloatTensor;
  /** c `[out]`, multiplied by `scale` as the product is, as PEFT stores the bias of lora_B. */
  outBias?: FloatTensor;
  /** Counts only the first so many rows of A, and columns of M (of B, where M is no matrix); default r. */
  rank?: number;
}

const ACTIVATIONS: readonly string[] = ['none', 'relu', 'gelu', 'silu'];
const NAMES = [
  'a',
  'b',
  'scale',
  'mid',
  'act',
  'rankBias',
  'baseScale',
  'outBias',
  'rank',
] as const;

/** Inputs and options as the engine has them. @internal */
export function readSpec(operation: string, spec: any): [inputs: any, options: any] {
  checkKeys(operation, 'an input', spec, [...NAMES]);
  const { a, b, scale, mid, act, rankBias, baseScale, outBias, rank } = spec as AdapterSpec;
  const factor = (value: unknown): unknown =>
    arrayKind(value) === 'Int32Array'
      ? { data: value, shape: [arrayLength(value)], dtype: 'i32' }
      : value;
  const options: Record<string, unknown> = { scale, rank };
  if (typeof act === 'object' && act !== null) {
    checkKeys(operation, 'an option', act, ['topK']);
    options.act = 'topK';
    options['act.topK'] = act.topK;
  } else {
    if (act !== undefined && !ACTIVATIONS.includes(act)) {
      const text = `act: expected 'none', 'relu', 'gelu', 'silu' or {topK}, got ${show(act)}`;
      throw typeof act === 'string' ? rangeError(operation, text) : typeError(operation, text);
    }
    options.act = act;
  }
  return [{ a: factor(a), b: factor(b), mid, rankBias, baseScale, outBias }, options];
}
