/** Linear between the sorted values. */
export function quantiles(values: readonly number[], at: readonly number[]): number[] {
  const sorted = Float64Array.from(values).sort();
  return at.map((q) => {
    const position = q * (sorted.length - 1);
    const below = Math.floor(position);
    const above = Math.min(below + 1, sorted.length - 1);
    return sorted[below] + (position - below) * (sorted[above] - sorted[below]);
  });
}

export function median(values: readonly number[]): number {
  return quantiles(values, [0.5])[0];
}

/** Median absolute deviation from the median. */
export function deviation(values: readonly number[]): number {
  const middle = median(values);
  return median(values.map((x) => Math.abs(x - middle)));
}

/** Of the times of single runs, in nanoseconds. */
export interface Summary {
  samples: number;
  minNs: number;
  medianNs: number;
  p25Ns: number;
  p75Ns: number;
  madNs: number;
}

export function summarize(samples: readonly number[]): Summary {
  const [minNs, p25Ns, medianNs, p75Ns] = quantiles(samples, [0, 0.25, 0.5, 0.75]);
  return { samples: samples.length, minNs, medianNs, p25Ns, p75Ns, madNs: deviation(samples) };
}
