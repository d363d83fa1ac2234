import { checkKeys } from '../linalg/arguments';
import { asynchronous, named, synchronous } from '../marshal';
import type { AsyncOptions } from '../types';
import type { AdapterBank } from './adapterBank';
import type { PackedWeight, WeightFormat } from './packedWeight';

/** Options of {@link mergeAdapter} and {@link unmergeAdapter}. */
export interface MergeOptions {
  /** Of the result; default: that of the base. */
  format?: WeightFormat;
}

type Merge = (
  base: PackedWeight,
  bank: AdapterBank,
  id: number,
  options?: MergeOptions & AsyncOptions,
) => Promise<PackedWeight>;

type MergeSync = (
  base: PackedWeight,
  bank: AdapterBank,
  id: number,
  options?: MergeOptions,
) => PackedWeight;

function merging(name: string): Merge {
  const merge = asynchronous(name);
  return named(name, async (base, bank, id, options = {}) => {
    checkKeys(name, 'an option', options, ['format', 'signal']);
    const { format, signal } = options;
    return (await merge({ base, bank }, { format, signal, id })).packed;
  });
}

function mergingSync(name: string): MergeSync {
  const merge = synchronous(name);
  return named(`${name}Sync`, (base, bank, id, options = {}) => {
    checkKeys(name, 'an option', options, ['format']);
    const { format } = options;
    return merge({ base, bank }, { format, id }).packed;
  });
}

/**
 * A new weight that does what the base does together with an adapter: row i is `d_i W_i + scale (B M A)_i`, from the
 * dequantised values of the base and rounded to the format once. The base and the bank stay as they are. M and d are the
 * adapter's `mid` and `baseScale`, ones where it has none.
 *
 * @throws (rejects) RangeError for an id that the bank does not have, and for an adapter with `act`, `rankBias` or
 * `outBias`, which no weight can stand for (an outBias belongs into the layer's bias, times `scale`); TypeError for a wrong
 * type or unknown key; Error where base or bank is disposed
 *
 * @example
 * using merged = await mergeAdapter(base, bank, id, { format: 'bf16' });
 */
export const mergeAdapter: Merge = merging('mergeAdapter');

/**
 * {@link mergeAdapter} on the caller's thread, with the pool's help.
 * @throws the same errors, synchronously
 */
export const mergeAdapterSync: MergeSync = mergingSync('mergeAdapter');

/**
 * What {@link mergeAdapter} was given, but for rounding: row i is `(W_i - scale (B M A)_i) / d_i`.
 * @throws (rejects) as {@link mergeAdapter}, and RangeError where `baseScale` holds a zero
 */
export const unmergeAdapter: Merge = merging('unmergeAdapter');

/**
 * {@link unmergeAdapter} on the caller's thread, with the pool's help.
 * @throws the same errors, synchronously
 */
export const unmergeAdapterSync: MergeSync = mergingSync('unmergeAdapter');
