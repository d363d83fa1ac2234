import type { ContractDtype } from '#oracle/support/compare';
import { contract } from '#oracle/support/compare';
import { decodeHalf, encodeHalf, roundToHalf } from '#oracle/support/half';
import type { TensorLike } from '#oracle/support/tensor';
import type { Tensors } from './operation';

export type Dtype = 'f32' | 'bf16' | 'f16';

/** Element types that the contract has rows for. */
export const dtypes: readonly Dtype[] = (['f32', 'bf16', 'f16'] as const).filter(
  (dtype) => dtype in contract,
);

export function contractDtype(dtype: Dtype): ContractDtype {
  return dtype as ContractDtype;
}

/** Rounds every tensor but those of index type and those named, in place. */
export function roundTensors(tensors: Tensors, dtype: Dtype, kept: readonly string[]): void {
  if (dtype === 'f32') return;
  for (const [name, { data }] of Object.entries(tensors)) {
    if (kept.includes(name) || data instanceof Int32Array) continue;
    data.set(roundToHalf(data, dtype));
  }
}

/** The tensors as a call takes them; values must be rounded already. */
export function encodeTensors(tensors: Tensors, dtype: Dtype, kept: readonly string[]): object {
  if (dtype === 'f32') return tensors;
  const encoded = Object.entries(tensors).map(([name, { data, shape }]) => {
    if (kept.includes(name) || data instanceof Int32Array) return [name, { data, shape }];
    return [name, { data: encodeHalf(data, dtype), shape, dtype }];
  });
  return Object.fromEntries(encoded);
}

/** The numbers of a result, whatever it came in. */
export function valuesOf(result: TensorLike & { dtype?: string }): TensorLike {
  const { data, shape, dtype } = result;
  if (!(data instanceof Uint16Array)) return result;
  return { data: decodeHalf(data, dtype as 'bf16' | 'f16'), shape };
}
