/**
 * The few elementwise steps that have no native operation, with their gradients. Plain loops over typed arrays: they
 * touch each number once, next to matrix products that touch it hundreds of times.
 */

/** out = a + b; out may be a or b. Four at a time, which halves what bounds checks cost. */
export function add(a: Float32Array, b: Float32Array, out: Float32Array): void {
  const whole = out.length & ~3;
  let i = 0;
  for (; i < whole; i += 4) {
    const s0 = a[i] + b[i];
    const s1 = a[i + 1] + b[i + 1];
    const s2 = a[i + 2] + b[i + 2];
    const s3 = a[i + 3] + b[i + 3];
    out[i] = s0;
    out[i + 1] = s1;
    out[i + 2] = s2;
    out[i + 3] = s3;
  }
  for (; i < out.length; i++) out[i] = a[i] + b[i];
}

/** a . b over one row, in four partial sums. */
function dot(a: Float32Array, b: Float32Array, from: number, to: number): number {
  const whole = from + ((to - from) & ~3);
  let [s0, s1, s2, s3] = [0, 0, 0, 0];
  let i = from;
  for (; i < whole; i += 4) {
    s0 += a[i] * b[i];
    s1 += a[i + 1] * b[i + 1];
    s2 += a[i + 2] * b[i + 2];
    s3 += a[i + 3] * b[i + 3];
  }
  for (; i < to; i++) s0 += a[i] * b[i];
  return s0 + s1 + (s2 + s3);
}

/** Cuts rows `[N, sum of widths]` into tensors `[N, width]`. */
export function splitColumns(
  whole: Float32Array,
  parts: readonly Float32Array[],
  widths: readonly number[],
): void {
  eachPiece(parts, widths, (part, at, from, width) => {
    part.set(whole.subarray(at, at + width), from);
  });
}

/** The reverse of {@link splitColumns}. */
export function joinColumns(
  parts: readonly Float32Array[],
  whole: Float32Array,
  widths: readonly number[],
): void {
  eachPiece(parts, widths, (part, at, from, width) => {
    whole.set(part.subarray(from, from + width), at);
  });
}

function eachPiece(
  parts: readonly Float32Array[],
  widths: readonly number[],
  copy: (part: Float32Array, at: number, from: number, width: number) => void,
): void {
  const total = widths.reduce((a, b) => a + b, 0);
  let column = 0;
  parts.forEach((part, p) => {
    const width = widths[p];
    for (let from = 0, at = column; from < part.length; from += width, at += total) {
      copy(part, at, from, width);
    }
    column += width;
  });
}

/** Divides each row of `width` numbers by sqrt(sum of squares + 1e-6), in place; keeps the factors for the gradient. */
export function l2Normalize(x: Float32Array, width: number, factors: Float32Array): void {
  for (let row = 0, at = 0; at < x.length; row++, at += width) {
    const factor = 1 / Math.sqrt(dot(x, x, at, at + width) + 1e-6);
    factors[row] = factor;
    for (let i = at; i < at + width; i++) x[i] *= factor;
  }
}

/** With y the normalized rows: dx = factor (dy - y (y . dy)), in place in dy. */
export function l2NormalizeBackward(
  y: Float32Array,
  width: number,
  factors: Float32Array,
  dy: Float32Array,
): void {
  for (let row = 0, at = 0; at < y.length; row++, at += width) {
    const along = dot(y, dy, at, at + width);
    const factor = factors[row];
    for (let i = at; i < at + width; i++) dy[i] = factor * (dy[i] - along * y[i]);
  }
}

/** Without overflow for any x. */
function sigmoidOf(x: number): number {
  if (x >= 0) return 1 / (1 + Math.exp(-x));
  const e = Math.exp(x);
  return e / (1 + e);
}

/** log(1 + exp(x)) without overflow, and without loss for very negative x. */
function softplusOf(x: number): number {
  return x > 0 ? x + Math.log1p(Math.exp(-x)) : Math.log1p(Math.exp(x));
}

export function sigmoid(x: Float32Array, out: Float32Array): void {
  for (let i = 0; i < x.length; i++) out[i] = sigmoidOf(x[i]);
}

/** From y = sigmoid(x): dx = dy y (1 - y). */
export function sigmoidBackward(y: Float32Array, dy: Float32Array, dx: Float32Array): void {
  for (let i = 0; i < y.length; i++) dx[i] = dy[i] * y[i] * (1 - y[i]);
}

/** out = factor log(sigmoid(x)), a log decay that starts near zero. */
export function logSigmoid(x: Float32Array, factor: number, out: Float32Array): void {
  for (let i = 0; i < x.length; i++) out[i] = -factor * softplusOf(-x[i]);
}

export function logSigmoidBackward(
  x: Float32Array,
  factor: number,
  dy: Float32Array,
  dx: Float32Array,
): void {
  for (let i = 0; i < x.length; i++) dx[i] = dy[i] * factor * sigmoidOf(-x[i]);
}

/**
 * The log decay of Mamba-2 and its descendants: g = -exp(aLog) softplus(x + dtBias), for rows `[heads, width]` with aLog
 * per head and dtBias per column.
 */
export function softplusDecay(
  x: Float32Array,
  aLog: Float32Array,
  dtBias: Float32Array,
  g: Float32Array,
): void {
  const width = dtBias.length / aLog.length;
  for (let row = 0; row < x.length; row += dtBias.length) {
    for (let h = 0, c = 0; h < aLog.length; h++) {
      const rate = -Math.exp(aLog[h]);
      for (let i = 0; i < width; i++, c++) g[row + c] = rate * softplusOf(x[row + c] + dtBias[c]);
    }
  }
}

/** Writes dx; daLog and dDtBias are summed over the rows in float64. */
export function softplusDecayBackward(
  x: Float32Array,
  aLog: Float32Array,
  dtBias: Float32Array,
  g: Float32Array,
  dg: Float32Array,
  dx: Float32Array,
  daLog: Float32Array,
  dDtBias: Float32Array,
): void {
  const width = dtBias.length / aLog.length;
  const bySlope = new Float64Array(aLog.length);
  const byBias = new Float64Array(dtBias.length);
  for (let row = 0; row < x.length; row += dtBias.length) {
    for (let h = 0, c = 0; h < aLog.length; h++) {
      const rate = -Math.exp(aLog[h]);
      for (let i = 0; i < width; i++, c++) {
        const at = row + c;
        const d = dg[at] * rate * sigmoidOf(x[at] + dtBias[c]);
        dx[at] = d;
        byBias[c] += d;
        bySlope[h] += dg[at] * g[at];
      }
    }
  }
  daLog.set(bySlope);
  dDtBias.set(byBias);
}
