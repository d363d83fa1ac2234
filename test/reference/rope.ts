/**
 * Rotary position embedding in float64: the complex number x_a + i x_b of a pair, times scale * exp(i p f). The gradient is
 * the product with the conjugate.
 */

import type { Tensor64, TensorLike } from '../support/tensor.ts';
import { expectShape, toFloat64 } from '../support/tensor.ts';

export interface RopeAngles {
  positions?: TensorLike; // [T] or [B,T]
  inverseFrequencies?: TensorLike; // [R/2]
}

export interface RopeOptions {
  rotaryDim?: number;
  interleaved?: boolean;
  theta?: number;
  offset?: number;
  scale?: number;
  cuSeqlens?: ArrayLike<number | bigint>;
}

export function rope({ x, ...angles }: RopeAngles & { x: TensorLike }, options: RopeOptions = {}) {
  return { y: turned(x, angles, options, 1) };
}

export function ropeBackward(
  { dY, ...angles }: RopeAngles & { dY: TensorLike },
  options: RopeOptions = {},
) {
  return { dx: turned(dY, angles, options, -1) };
}

function turned(
  x: TensorLike,
  { positions, inverseFrequencies }: RopeAngles,
  options: RopeOptions,
  direction: 1 | -1,
): Tensor64 {
  const [B, T, H, D] = x.shape;
  const { rotaryDim: R = D, interleaved = false, theta = 10000, scale = 1 } = options;
  if (positions) expectShape('positions', positions, positions.shape.length === 1 ? [T] : [B, T]);
  if (inverseFrequencies) expectShape('inverseFrequencies', inverseFrequencies, [R / 2]);
  const y = toFloat64(x);
  for (let b = 0; b < B; b++) {
    for (let t = 0; t < T; t++) {
      const position = positions
        ? positions.data[positions.shape.length === 1 ? t : b * T + t]
        : positionOf(t, options);
      for (let pair = 0; pair < R / 2; pair++) {
        const frequency = inverseFrequencies?.data[pair] ?? theta ** ((-2 * pair) / R);
        const re = scale * Math.cos(position * frequency);
        const im = scale * direction * Math.sin(position * frequency);
        for (let h = 0; h < H; h++) {
          const head = ((b * T + t) * H + h) * D;
          const [a, c] = interleaved
            ? [head + 2 * pair, head + 2 * pair + 1]
            : [head + pair, head + pair + R / 2];
          y.data[a] = x.data[a] * re - x.data[c] * im;
          y.data[c] = x.data[a] * im + x.data[c] * re;
        }
      }
    }
  }
  return y;
}

function positionOf(t: number, { offset = 0, cuSeqlens }: RopeOptions): number {
  if (!cuSeqlens) return offset + t;
  const begins = Array.from(cuSeqlens, Number).filter((begin) => begin <= t);
  return offset + t - begins[begins.length - 1];
}
