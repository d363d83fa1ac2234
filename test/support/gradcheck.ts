/**
 * Central differences: dL/dx_i ~ (L(x + h e_i) - L(x - h e_i)) / 2h for every element, where
 * L = sum over outputs of <output, cotangent>. Meant for float64 references on small problems.
 */
import type { Tensor64, TensorLike } from './tensor.ts';

/** <output, cotangent>, the scalar whose gradient a backward computes. */
export function dot(output: TensorLike, cotangent: TensorLike | undefined): number {
  if (!cotangent) return 0;
  let sum = 0;
  for (let i = 0; i < output.data.length; i++) sum += output.data[i] * cotangent.data[i];
  return sum;
}

/**
 * Throws when the gradient differs from the central differences of `loss` by more than `tolerance`
 * relative to its norm. Perturbs `input` in place and restores it.
 */
export function checkGradient(
  label: string,
  loss: () => number,
  input: Tensor64,
  gradient: TensorLike,
  { step = 1e-5, tolerance = 1e-7 } = {},
): void {
  const { data } = input;
  if (gradient.data.length !== data.length) {
    throw new Error(`${label}: ${gradient.data.length} gradients for ${data.length} elements`);
  }
  let error = 0;
  let norm = 0;
  let worst = { difference: 0, at: 0, numeric: 0 };
  for (let i = 0; i < data.length; i++) {
    const kept = data[i];
    data[i] = kept + step;
    const above = loss();
    data[i] = kept - step;
    const below = loss();
    data[i] = kept;
    const numeric = (above - below) / (2 * step);
    const difference = Math.abs(numeric - gradient.data[i]);
    if (!(difference <= worst.difference)) worst = { difference, at: i, numeric };
    error += difference * difference;
    norm += numeric * numeric;
  }
  const relative = Math.sqrt(error) / Math.max(Math.sqrt(norm), 1e-3);
  if (!(relative <= tolerance)) {
    throw new Error(
      `${label}: central differences off by ${relative.toExponential(2)}, worst at ${worst.at}: ` +
        `numeric ${worst.numeric}, gradient ${gradient.data[worst.at]}`,
    );
  }
}
