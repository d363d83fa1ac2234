import type { Tensor } from 'rankone';

export function sizeOf(shape: readonly number[]): number {
  let size = 1;
  for (const d of shape) size *= d;
  return size;
}

export function zeros(...shape: number[]): Tensor {
  return { data: new Float32Array(sizeOf(shape)), shape };
}

/** The same memory under another shape. */
export function reshape(x: Tensor, ...shape: number[]): Tensor {
  return { data: x.data, shape };
}

/** `[..., D]` as `[N, D]`. */
export function rows(x: Tensor): Tensor {
  const width = x.shape[x.shape.length - 1];
  return reshape(x, x.data.length / width, width);
}

/**
 * A layer's memory, by name. A training step repeats the same shapes, so every layer writes its results into the arrays
 * of the step before: a fresh array of some megabytes costs as much in page faults as the arithmetic on it. What a layer
 * returns is therefore good until its next call.
 */
export class Buffers {
  private readonly tensors = new Map<string, Tensor>();

  get(name: string, ...shape: number[]): Tensor {
    const last = this.tensors.get(name);
    if (last && last.shape.length === shape.length && shape.every((d, i) => d === last.shape[i])) {
      return last;
    }
    const size = sizeOf(shape);
    const memory = last?.data.buffer;
    const data =
      memory && memory.byteLength >= 4 * size
        ? new Float32Array(memory, 0, size)
        : new Float32Array(size);
    const tensor = { data, shape };
    this.tensors.set(name, tensor);
    return tensor;
  }
}
