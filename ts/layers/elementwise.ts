// What the layers do to single elements and columns between the engine's calls. Exact, or in float32.

import { floatsOf } from '../lora/floats';
import type { FloatTensor, Tensor } from '../types';

type Data = Float32Array | Uint16Array;

const size = (shape: readonly number[]): number => shape.reduce((a, b) => a * b, 1);

/** The same elements under another shape. */
export function reshape<T extends FloatTensor>(tensor: T, shape: readonly number[]): T {
  return { ...tensor, shape };
}

function like(tensor: FloatTensor, length: number): Data {
  const { constructor: Kind } = tensor.data as Data;
  return new (Kind as new (n: number) => Data)(length);
}

/** -x, exactly, in its dtype. */
export function negate<T extends FloatTensor>(tensor: T): T {
  const from = tensor.data as Data;
  const to = like(tensor, from.length);
  if (to instanceof Uint16Array) for (let i = 0; i < to.length; i++) to[i] = from[i] ^ 0x8000;
  else for (let i = 0; i < to.length; i++) to[i] = -from[i];
  return { ...tensor, data: to };
}

/** Columns `[at, at + width)` of the last dimension, in as many pieces as asked for. */
export function columns<T extends FloatTensor>(tensor: T, widths: readonly number[]): T[] {
  const from = tensor.data as Data;
  const lead = tensor.shape.slice(0, -1);
  const stride = tensor.shape[tensor.shape.length - 1];
  const rows = size(lead);
  let at = 0;
  return widths.map((width) => {
    const to = like(tensor, rows * width);
    for (let row = 0; row < rows; row++) {
      const begin = row * stride + at;
      to.set(from.subarray(begin, begin + width), row * width);
    }
    at += width;
    return { ...tensor, data: to, shape: [...lead, width] };
  });
}

/** Tensors side by side along the last dimension. */
export function concatenate<T extends FloatTensor>(tensors: readonly T[]): T {
  const [first] = tensors;
  const widths = tensors.map(({ shape }) => shape[shape.length - 1]);
  const stride = widths.reduce((a, b) => a + b);
  const lead = first.shape.slice(0, -1);
  const rows = size(lead);
  const to = like(first, rows * stride);
  let at = 0;
  tensors.forEach(({ data }, i) => {
    const width = widths[i];
    for (let row = 0; row < rows; row++)
      to.set((data as Data).subarray(row * width, (row + 1) * width), row * stride + at);
    at += width;
  });
  return { ...first, data: to, shape: [...lead, stride] };
}

/** Heads `[...,H,D]` each `times` times, one after the other: `[...,H times,D]`. */
export function repeatHeads<T extends FloatTensor>(tensor: T, times: number): T {
  if (times === 1) return tensor;
  const from = tensor.data as Data;
  const { shape } = tensor;
  const [heads, width] = shape.slice(-2);
  const to = like(tensor, from.length * times);
  const vectors = from.length / width || 0;
  for (let i = 0; i < vectors; i++)
    for (let j = 0; j < times; j++)
      to.set(from.subarray(i * width, (i + 1) * width), (i * times + j) * width);
  return { ...tensor, data: to, shape: [...shape.slice(0, -2), heads * times, width] };
}

/** Every row times these factors. */
export function scaleColumns({ data, shape }: Tensor, factors: Float32Array): Tensor {
  const scaled = new Float32Array(data.length);
  for (let i = 0; i < data.length; i++) scaled[i] = data[i] * factors[i % factors.length];
  return { data: scaled, shape, dtype: 'f32' };
}

/** f of every element, in float32. */
export function mapFloats(tensor: FloatTensor, f: (x: number, i: number) => number): Tensor {
  const data = floatsOf('layer', 'x', tensor);
  for (let i = 0; i < data.length; i++) data[i] = f(data[i], i);
  return { data, shape: tensor.shape, dtype: 'f32' };
}

export const sigmoid = (x: number): number => 1 / (1 + Math.exp(-x));

/** log(sigmoid(x)), without overflow and with full precision on both sides. */
export const logSigmoid = (x: number): number =>
  x < 0 ? x - Math.log1p(Math.exp(x)) : -Math.log1p(Math.exp(-x));
