export const mean = (x: readonly number[]): number => x.reduce((a, b) => a + b, 0) / x.length;

/** Index of the largest of `count` numbers from `from` on. */
export function argmax(data: Float32Array, from: number, count: number): number {
  let best = 0;
  for (let i = 1; i < count; i++) if (data[from + i] > data[from + best]) best = i;
  return best;
}

/** Five digits, which is more than a float32 loss of a batch means. */
export const rounded = (x: number): number => Number(x.toPrecision(5));
