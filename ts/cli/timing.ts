import { internals } from './engine';

/** Of the times of one run, in nanoseconds, and the multiply-add rate of the processor around them. */
export interface Timing {
  samples: number;
  median: number;
  p25: number;
  p75: number;
  /** Median absolute deviation from the median. */
  mad: number;
  /** GF/s, of the best window. */
  peak: number;
}

// A machine's clock changes within a second: the peak is measured around every slice. What else runs on the machine can
// only lower it, so that the best of several windows counts.
const SLICES = 4;
const WINDOWS = 3;

/** Times a function for about so many seconds, on the engine's current number of threads. */
export async function time(run: () => unknown, seconds: number): Promise<Timing> {
  // An ES module only; `import()` stays what it is in CommonJS.
  const { Bench } = await import('tinybench');
  const { binding } = internals();
  const window = Math.min(0.03, seconds / 10) / WINDOWS;
  let peak = 0;
  const measurePeak = (): void => {
    for (let i = 0; i < WINDOWS; i++) peak = Math.max(peak, binding.measurePeak('f32', window));
  };
  measurePeak();
  const samples: number[] = [];
  for (let slice = 0; slice < SLICES; slice++) {
    const bench = new Bench({
      time: (1000 * seconds) / SLICES,
      iterations: 2,
      warmup: slice === 0,
      warmupTime: 100 * Math.min(seconds, 1),
      warmupIterations: 2,
      retainSamples: true,
      throws: true,
    });
    bench.add('run', run);
    await bench.run();
    const { result } = bench.tasks[0];
    if (!('latency' in result)) throw new Error(`timing ended as ${result.state}`);
    for (const milliseconds of result.latency.samples!) samples.push(1e6 * milliseconds);
    measurePeak();
  }
  const [p25, median, p75] = quantiles(samples, [0.25, 0.5, 0.75]);
  const [mad] = quantiles(
    samples.map((x) => Math.abs(x - median)),
    [0.5],
  );
  return { samples: samples.length, median, p25, p75, mad, peak };
}

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
