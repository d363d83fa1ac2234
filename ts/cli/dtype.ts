import type { HalfDtype } from '#oracle/support/half';
import { decode, encode, round } from '#oracle/support/half';
import type { TensorLike } from '#oracle/support/tensor';
import type { Tensors } from './operation';

export type Dtype = 'f32' | HalfDtype;

/** Element types of inputs and outputs. */
export const dtypes: readonly Dtype[] = ['f32', 'bf16', 'f16'];

/** Rounds every tensor but those of index type and those named, in place. */
export function roundTensors(tensors: Tensors, dtype: Dtype, kept: readonly string[]): void {
  if (dtype === 'f32') return;
  for (const [name, { data }] of Object.entries(tensors)) {
    if (kept.includes(name) || data instanceof Int32Array) continue;
    data.forEach((x, i) => {
      data[i] = round(dtype, x);
    });
  }
}

/** The tensors as a call takes them; values must be rounded already. */
export function encodeTensors(tensors: Tensors, dtype: Dtype, kept: readonly string[]): object {
  if (dtype === 'f32') return tensors;
  const encoded = Object.entries(tensors).map(([name, tensor]) => {
    const { data, shape } = tensor;
    if (kept.includes(name) || data instanceof Int32Array) return [name, { data, shape }];
    return [name, encode(dtype, tensor)];
  });
  return Object.fromEntries(encoded);
}

/** The numbers of a result, whatever it came in. */
export function valuesOf(result: TensorLike & { dtype?: string }): TensorLike {
  return result.data instanceof Uint16Array ? decode(result) : result;
}
