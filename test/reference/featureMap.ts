/**
 * Feature maps of linear attention over the last axis, in float64, one vector at a time. Gradients are products with the
 * Jacobian, which is written down element by element.
 */
import { sizeOf, type Tensor64, type TensorLike, toFloat64, zeros } from '../support/tensor.ts';

export interface FeatureMapOptions {
  kind: string;
  power?: number;
  eps?: number;
}

interface Inputs {
  x: TensorLike;
  weight?: TensorLike;
  bias?: TensorLike;
  scale?: TensorLike;
}

const dot = (a: ArrayLike<number>, b: ArrayLike<number>): number => {
  let total = 0;
  for (let i = 0; i < a.length; i++) total += a[i] * b[i];
  return total;
};

function softmax(z: number[]): number[] {
  const most = Math.max(...z);
  const powers = z.map((value) => Math.exp(value - most));
  const total = powers.reduce((sum, value) => sum + value, 0);
  return powers.map((value) => value / total);
}

/** Of y = softmax(z). */
function softmaxSlope(y: number[], g: number[]): number[] {
  return y.map((yi, i) => y.reduce((sum, yj, j) => sum + g[j] * yj * ((i === j ? 1 : 0) - yi), 0));
}

export const softplus = (x: number): number => Math.log1p(Math.exp(-Math.abs(x))) + Math.max(x, 0);

/** A map of one vector, and its gradient from that of its features. */
interface VectorMap {
  value: (x: number[]) => number[];
  slope: (x: number[], g: number[]) => number[];
}

const hedgehogs = (both: (z: number[]) => number[], slope: typeof softmaxSlope): VectorMap => ({
  value: (z) => [...both(z), ...both(z.map((value) => -value))],
  slope: (z, g) => {
    const up = slope(both(z), g.slice(0, z.length));
    const down = slope(both(z.map((value) => -value)), g.slice(z.length));
    return up.map((value, i) => value - down[i]);
  },
});

const norm = (x: number[]): number => Math.hypot(...x);

/** u -> |u| u^p / |u^p|; nothing stays nothing. */
const focused = (power: number): VectorMap => ({
  value: (u) => {
    const powers = u.map((value) => value ** power);
    return norm(u) === 0 ? u : powers.map((value) => (norm(u) * value) / norm(powers));
  },
  slope: (u, g) => {
    if (norm(u) === 0) return u.map(() => 0);
    // Of degree 1: the slope does not change with the size of u, whose powers might leave float64's range.
    const most = Math.max(...u);
    const w = u.map((value) => value / most);
    const a = w.map((value) => value ** power);
    const [n, s] = [norm(w), norm(a)];
    return w.map((wi, i) =>
      a.reduce((sum, aj, j) => {
        const da = i === j ? power * wi ** (power - 1) : 0;
        const ds = (a[i] * power * wi ** (power - 1)) / s;
        return sum + g[j] * (((wi / n) * aj) / s + (n * da) / s - (n * aj * ds) / s ** 2);
      }, 0),
    );
  },
});

const taylor: VectorMap = {
  value: (x) => {
    const y = [1, ...x.map((value) => value / x.length ** 0.25)];
    x.forEach((xi, i) => {
      for (let j = i; j < x.length; j++)
        y.push((xi * x[j]) / Math.sqrt(i === j ? 2 * x.length : x.length));
    });
    return y;
  },
  slope: (x, g) => {
    const dx = x.map((_, i) => g[1 + i] / x.length ** 0.25);
    let at = 1 + x.length;
    x.forEach((xi, i) => {
      for (let j = i; j < x.length; j++) {
        const c = g[at++] / Math.sqrt(i === j ? 2 * x.length : x.length);
        dx[i] += c * x[j];
        dx[j] += c * xi;
      }
    });
    return dx;
  },
};

const MAPS: Record<string, (power: number) => VectorMap> = {
  none: () => ({ value: (x) => x, slope: (_, g) => g }),
  elu1: () => ({
    value: (x) => x.map((v) => (v > 0 ? v + 1 : Math.exp(v))),
    slope: (x, g) => x.map((v, i) => g[i] * (v > 0 ? 1 : Math.exp(v))),
  }),
  relu: () => ({
    value: (x) => x.map((v) => Math.max(v, 0)),
    slope: (x, g) => x.map((v, i) => (v > 0 ? g[i] : v <= 0 ? 0 : v)), // NaN stays
  }),
  softmax: () => ({ value: softmax, slope: (x, g) => softmaxSlope(softmax(x), g) }),
  hedgehog: () => hedgehogs(softmax, softmaxSlope),
  hedgehogExp: () =>
    hedgehogs(
      (z) => z.map(Math.exp),
      (y, g) => y.map((value, i) => value * g[i]),
    ),
  focused,
  taylor2: () => taylor,
};

/** What a row is before its map: projected, or without what is negative and scaled. */
function prepared({ x, weight, bias, scale }: Inputs, options: FeatureMapOptions) {
  const K = x.shape[x.shape.length - 1];
  const H = weight && weight.shape.length === 3 ? weight.shape[0] : 1;
  const D = weight ? weight.shape[weight.shape.length - 1] : K;
  const isFocused = options.kind === 'focused';
  const { eps = 1e-6 } = options;
  const divisor = (k: number): number => (scale ? softplus(scale.data[k]) : 1);
  const given = toFloat64(x).data;
  const row = (r: number): number[] => Array.from(given.subarray(r * K, (r + 1) * K));
  const input = (r: number): number[] => {
    if (isFocused) return row(r).map((v, k) => (Math.max(v, 0) + eps) / divisor(k));
    if (!weight) return row(r);
    const h = r % H;
    return Array.from({ length: D }, (_, d) => {
      const column = Array.from({ length: K }, (_, k) => weight.data[(h * K + k) * D + d]);
      return dot(row(r), column) + (bias ? bias.data[h * D + d] : 0);
    });
  };
  const map = MAPS[options.kind](options.power ?? 3);
  return { K, H, D, isFocused, row, input, map, divisor, rows: sizeOf(x.shape.slice(0, -1)) / H };
}

/** Features of every row. */
export function featureMap(inputs: Inputs, options: FeatureMapOptions): Tensor64 {
  const { H, input, map, rows } = prepared(inputs, options);
  const F = widthOf(inputs, options);
  const all = Array.from({ length: rows * H }, (_, r) => map.value(input(r)));
  const data = new Float64Array(all.length * F);
  all.forEach((row, r) => {
    data.set(row, r * F);
  });
  return { data, shape: [...inputs.x.shape.slice(0, -1), F] };
}

/** F */
export function widthOf({ x, weight }: Inputs, { kind }: FeatureMapOptions): number {
  const K = x.shape[x.shape.length - 1];
  if (kind.startsWith('hedgehog')) return 2 * (weight ? weight.shape[weight.shape.length - 1] : K);
  return kind === 'taylor2' ? 1 + K + (K * (K + 1)) / 2 : K;
}

export function featureMapBackward(
  { dY, ...inputs }: Inputs & { dY: TensorLike },
  options: FeatureMapOptions,
) {
  const { x, weight, bias, scale } = inputs;
  const { K, H, D, isFocused, row, input, map, divisor, rows } = prepared(inputs, options);
  const F = widthOf(inputs, options);
  const dx = zeros(x.shape);
  const dWeight = weight && zeros(weight.shape);
  const dBias = bias && zeros(bias.shape);
  const dScale = scale && zeros(scale.shape);
  for (let r = 0; r < rows * H; r++) {
    const [xr, z, h] = [row(r), input(r), r % H];
    const g = Array.from({ length: F }, (_, f) => dY.data[r * F + f]);
    const dz = map.slope(z, g);
    for (let k = 0; k < K; k++) {
      if (isFocused) {
        dx.data[r * K + k] = xr[k] > 0 ? dz[k] / divisor(k) : 0;
        if (scale && dScale)
          dScale.data[k] -= (dz[k] * z[k]) / divisor(k) / (1 + Math.exp(-scale.data[k]));
      } else if (weight && dWeight) {
        for (let d = 0; d < D; d++) {
          dx.data[r * K + k] += dz[d] * weight.data[(h * K + k) * D + d];
          dWeight.data[(h * K + k) * D + d] += dz[d] * xr[k];
        }
      } else dx.data[r * K + k] = dz[k];
    }
    if (dBias) for (let d = 0; d < D; d++) dBias.data[h * D + d] += dz[d];
  }
  return { dx, dWeight, dBias, dScale };
}
