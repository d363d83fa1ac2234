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
