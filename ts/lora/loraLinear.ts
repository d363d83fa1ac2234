import { asynchronous, synchronous } from '../marshal';
import type { AsyncDeviceLayer, SyncDeviceLayer } from '../ops/layer';
import type { AnyTensor, CallOptions, IndexArray, ResultTensor, Tensor } from '../types';
import type { AdapterBank } from './adapterBank';
import type { PackedWeight } from './packedWeight';

/** x, y and dY have one dtype, and dx has it with gradDtype `'input'`; bias has it or is float32. */
export type LoraDtypes = { lead: 'x'; same: 'y' | 'dY' | 'dx'; either: 'bias' };

/**
 * Which adapters a row of x has, M rows in all: the same one for all rows; one for each segment, rows `indptr[s]` to
 * `indptr[s + 1] - 1` being segment s; one for each row; or k for each row, whose outputs are multiplied by gates and added.
 * Id -1 stands for none. Index arrays are copied before they are checked.
 */
export type AdapterRouting =
  | { readonly kind: 'one'; readonly id: number }
  | {
      readonly kind: 'segments';
      /** `[S+1]`: from 0 to M, not descending */
      readonly indptr: IndexArray;
      /** `[S]` */
      readonly ids: Int32Array;
    }
  | {
      readonly kind: 'tokens';
      /** `[M]` */
      readonly ids: Int32Array;
    }
  | {
      readonly kind: 'topK';
      readonly k: number;
      /** `[M*k]`, those of a row side by side */
      readonly ids: Int32Array;
      /** `[M,k]`, or the leading dimensions of x and k */
      readonly gates: AnyTensor;
    };

/** Inputs of {@link loraLinear}. */
export interface LoraLinearInputs {
  /** `[...,in]`; M is the product of the leading dimensions */
  x: Tensor;
  /** W `[out,in]`; `'identity'`: x itself, where in and out are equal; null or absent: no base product */
  base?: PackedWeight | 'identity' | null;
  /** Where the adapters are. */
  bank?: AdapterBank;
  /** Which of them a row has; given with bank. */
  routing?: AdapterRouting;
  /** `[out]`, added to every row */
  bias?: Tensor;
}

/** Randomness that a backward, or another number of threads, draws again: any integer from 0 to 2^53 - 1 is a seed. */
export interface SeededProbability {
  /** From 0 to less than 1. */
  p: number;
  seed: number;
}

/** Options that forward and backward share, and must be given alike. */
export interface LoraSharedOptions {
  /**
   * Precision of the products; default `'f32'`. `'bf16'` rounds operands to bfloat16 first (of the forward not the rank
   * vectors, of the backward those and their gradients too) and adds in float32, on processors with AVX512-BF16; RangeError
   * elsewhere. On a device `'bf16'` is the default of bf16 and f16 tensors and `'f32'` that of float32 ones.
   */
  compute?: 'f32' | 'bf16';
  /**
   * Sets elements of x to zero before A, and divides the others by 1 - p. Element (row, column) stays where word column % 4
   * of Philox4x32-10 with counter (column / 4, row mod 2^32, row / 2^32, 0) and key (seed mod 2^32, seed / 2^32) is at least
   * p 2^32.
   */
  dropout?: SeededProbability;
  /**
   * Leaves adapters out of this call (CoTo): adapter id where word 0 of Philox4x32-10 with counter (id, 0, 0, 1) and key as
   * of dropout is less than p 2^32.
   */
  skip?: SeededProbability;
}

/** Options of {@link loraLinear}. */
export interface LoraLinearOptions extends Omit<LoraSharedOptions, 'compute'>, CallOptions<'y'> {
  /**
   * Precision of the products; default `'f32'`. `'bf16'` rounds operands to bfloat16 first (but not the rank vectors) and
   * adds in float32, on processors with AVX512-BF16; RangeError elsewhere. `'int8'`, there too and of a base in format
   * `'int8'` with at most 2^17 columns, rounds each row of x to 127 steps up to its largest magnitude, multiplies the codes
   * and adds them exactly; A multiplies x in bfloat16. On a device there are `'bf16'`, the default of bf16 and f16 tensors,
   * and `'f32'`, that of float32 ones.
   */
  compute?: 'f32' | 'bf16' | 'int8';
  /** Return t too, for the backward; default false. */
  saveRank?: boolean;
}

/** What {@link loraLinear} returns. */
export interface LoraLinearResult {
  /** `[...,out]` */
  y: ResultTensor;
  /**
   * A x' of every row and adapter, `[M,k,rMax]`, with `saveRank`: k is 1 but for topK, rMax the largest rank among the
   * adapters; zeros beyond an adapter's own.
   */
  t?: ResultTensor;
}

/**
 * A linear layer with low-rank adapters, one for all rows or others for each:
 *
 *     y = d * (W x) + bias + sum over the row's adapters of gate * scale * (B M phi(A x' + a) + c)
 *
 * with the pieces of {@link AdapterSpec}; d, M, gate are ones and a, c zeros where there is none, x' is x, or x after dropout.
 * The rank vectors A x' are float32 and leave the engine with `saveRank` alone, and neither x nor y is passed over again for an
 * adapter. A row's result depends on its own x, adapters and gates alone, bit for bit: not on the other rows, their number, or
 * the number of threads.
 *
 * @throws (rejects) TypeError for a wrong type, dtype, missing argument or unknown key; RangeError for a wrong shape or
 * value, for an id that the bank does not have, and for adapters with a baseScale where rows have more than one; Error where
 * base or bank is disposed
 * @see Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, 2021 (arXiv:2106.09685); Chen et al., Punica:
 * Multi-Tenant LoRA Serving, 2023 (arXiv:2310.18547)
 *
 * @example
 * const base = await packWeight(weight, { format: 'nf4' });
 * const id = bank.load({ a, b, scale: alpha / rank });
 * const { y } = await loraLinear({ x, base, bank, routing: { kind: 'one', id } });
 */
export const loraLinear: AsyncDeviceLayer<
  LoraDtypes,
  LoraLinearInputs,
  LoraLinearOptions,
  LoraLinearResult
> = asynchronous('loraLinear');

/**
 * {@link loraLinear} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const loraLinearSync: SyncDeviceLayer<
  LoraDtypes,
  LoraLinearInputs,
  LoraLinearOptions,
  LoraLinearResult
> = synchronous('loraLinear');
