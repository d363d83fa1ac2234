/** What a benchmark measures. `check` runs first and throws when the answer is wrong. */
export interface Case {
  name: string;
  /** Minimum arithmetic of one run: no redundancy of the kernel's counts. */
  flops: number;
  /** Divides the time of a run: tokens times heads, or 1. */
  units: number;
  check: () => void;
  run: () => void;
}
