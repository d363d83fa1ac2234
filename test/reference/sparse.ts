/** Products with a sparse matrix S [out,in] in float64, by way of the dense matrix that its values add up to. */

import type { Tensor64, TensorLike } from '../support/tensor.ts';
import { sizeOf, toFloat64, zeros } from '../support/tensor.ts';

/** Anything that holds whole numbers, of 64 bits too. */
export interface IndicesLike {
  readonly data: ArrayLike<number | bigint>;
  readonly shape: readonly number[];
}

export interface Positions {
  rows?: IndicesLike; // [count]
  indptr?: IndicesLike; // [out+1]
  columns: IndicesLike; // [count]
}

/** [row, column] of every value. */
function pairsOf({ rows, indptr, columns }: Positions): [number, number][] {
  const rowOf = (p: number): number => {
    if (rows) return Number(rows.data[p]);
    let row = 0;
    while (Number(indptr!.data[row + 1]) <= p) row++;
    return row;
  };
  return Array.from(columns.data, (c, p) => [rowOf(p), Number(c)]);
}

export function dense(
  positions: Positions,
  values: TensorLike,
  out: number,
  inFeatures: number,
): Tensor64 {
  const s = zeros([out, inFeatures]);
  for (const [p, [row, column]] of pairsOf(positions).entries())
    s.data[row * inFeatures + column] += values.data[p];
  return s;
}

export function scatterAdd(
  { w, values, ...positions }: Positions & { w: TensorLike; values: TensorLike },
  { scale = 1 } = {},
): { w: Tensor64 } {
  const [out, inFeatures] = w.shape;
  const s = dense(positions, values, out, inFeatures);
  const sum = toFloat64(w);
  for (let i = 0; i < sum.data.length; i++) sum.data[i] += scale * s.data[i];
  return { w: sum };
}

type Multiplied = Positions & { x: TensorLike; values: TensorLike };

export function spmm(
  { x, values, addend, ...positions }: Multiplied & { addend?: TensorLike },
  { scale = 1, outFeatures }: { scale?: number; outFeatures?: number } = {},
): { y: Tensor64 } {
  const lead = x.shape.slice(0, -1);
  const inFeatures = x.shape[x.shape.length - 1];
  const out = outFeatures ?? addend?.shape[lead.length] ?? positions.indptr!.data.length - 1;
  const s = dense(positions, values, out, inFeatures);
  const y = addend ? toFloat64(addend) : zeros([...lead, out]);
  for (let m = 0; m < sizeOf(lead); m++)
    for (let i = 0; i < out; i++)
      for (let j = 0; j < inFeatures; j++)
        y.data[m * out + i] += scale * s.data[i * inFeatures + j] * x.data[m * inFeatures + j];
  return { y };
}

export function sddmm(
  { a, b, ...positions }: Positions & { a: TensorLike; b: TensorLike },
  { scale = 1 } = {},
): { values: Tensor64 } {
  const [out, inFeatures] = [a, b].map(({ shape }) => shape[shape.length - 1]);
  const M = sizeOf(a.shape.slice(0, -1));
  const pairs = pairsOf(positions);
  const values = zeros([pairs.length]);
  for (const [p, [row, column]] of pairs.entries())
    for (let m = 0; m < M; m++)
      values.data[p] += scale * a.data[m * out + row] * b.data[m * inFeatures + column];
  return { values };
}

export function spmmBackward(
  { x, values, dY, ...positions }: Multiplied & { dY: TensorLike },
  { scale = 1 } = {},
): { dx: Tensor64; dValues: Tensor64 } {
  const [out, inFeatures] = [dY, x].map(({ shape }) => shape[shape.length - 1]);
  const s = dense(positions, values, out, inFeatures);
  const dx = zeros(x.shape);
  for (let m = 0; m < sizeOf(x.shape.slice(0, -1)); m++)
    for (let i = 0; i < out; i++)
      for (let j = 0; j < inFeatures; j++)
        dx.data[m * inFeatures + j] += scale * dY.data[m * out + i] * s.data[i * inFeatures + j];
  return { dx, dValues: sddmm({ a: dY, b: x, ...positions }, { scale }).values };
}
