/** What stands between the factors of an adapter, in float64. */

export type RankActivation = 'relu' | 'gelu' | 'silu' | { topK: number };

export function activate(act: RankActivation | undefined, u: Float64Array): Float64Array {
  if (typeof act === 'object') {
    const { weights } = selfGate(u, act.topK);
    return u.map((x, i) => weights[i] * x);
  }
  switch (act) {
    case undefined:
      return Float64Array.from(u);
    case 'relu':
      return u.map((x) => Math.max(x, 0));
    case 'gelu':
      return u.map((x) => x * normalBelow(x));
    case 'silu':
      return u.map((x) => x / (1 + Math.exp(-x)));
  }
}

/** The gradient of u from that of the activation. */
export function activateBackward(
  act: RankActivation | undefined,
  u: Float64Array,
  d: Float64Array,
): Float64Array {
  if (typeof act === 'object') return selfGateBackward(u, d, act.topK);
  switch (act) {
    case undefined:
      return Float64Array.from(d);
    case 'relu':
      return d.map((g, i) => (u[i] <= 0 ? 0 : g));
    case 'gelu':
      return d.map((g, i) => {
        const density = Math.exp((-u[i] * u[i]) / 2) / Math.sqrt(2 * Math.PI);
        return g * (normalBelow(u[i]) + u[i] * density);
      });
    case 'silu':
      return d.map((g, i) => {
        const sigmoid = 1 / (1 + Math.exp(-u[i]));
        return g * sigmoid * (1 + u[i] * (1 - sigmoid));
      });
  }
}

/** s = u / |u| (0 of zeros), and softmax over the k largest s, of equal ones the first; the other weights are 0. */
function selfGate(u: Float64Array, k: number) {
  const length = Math.hypot(...u);
  const s = u.map((x) => (length === 0 ? 0 : x / length));
  const order = Array.from(s.keys()).sort((i, j) => s[j] - s[i] || i - j);
  const chosen = order.slice(0, k);
  const sum = chosen.reduce((total, i) => total + Math.exp(s[i]), 0);
  const weights = new Float64Array(u.length);
  for (const i of chosen) weights[i] = Math.exp(s[i]) / sum;
  return { length, s, chosen, weights };
}

function selfGateBackward(u: Float64Array, d: Float64Array, k: number): Float64Array {
  const { length, s, chosen, weights } = selfGate(u, k);
  const du = d.map((g, i) => weights[i] * g);
  if (length === 0) return du;
  const mean = chosen.reduce((sum, i) => sum + weights[i] * d[i] * u[i], 0);
  const ds = new Float64Array(u.length);
  for (const i of chosen) ds[i] = weights[i] * (d[i] * u[i] - mean);
  const along = ds.reduce((sum, x, i) => sum + x * s[i], 0);
  return du.map((x, i) => x + (ds[i] - s[i] * along) / length);
}

/** Probability of a normal value below x: (1 + erf(x / sqrt 2)) / 2. */
function normalBelow(x: number): number {
  const z = Math.abs(x);
  if (z < 5) {
    // Abramowitz and Stegun 26.2.11: a series of positive terms.
    let term = z;
    let sum = z;
    for (let n = 3; term > sum * 1e-18; n += 2) {
      term *= (z * z) / n;
      sum += term;
    }
    const half = (Math.exp((-z * z) / 2) / Math.sqrt(2 * Math.PI)) * sum;
    return x < 0 ? 0.5 - half : 0.5 + half;
  }
  // 26.2.14: a continued fraction for what is above.
  let fraction = z;
  for (let n = 60; n > 0; n--) fraction = z + n / fraction;
  const above = Math.exp((-z * z) / 2) / Math.sqrt(2 * Math.PI) / fraction;
  return x < 0 ? above : 1 - above;
}
