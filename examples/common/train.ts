import { AdamW, type AdamWSettings, clipGradients, cosine, type Schedule } from './optimizer.ts';
import type { Parameters } from './parameters.ts';

/** How long to train. By steps it is reproducible; by seconds, a faster machine gets further. */
export type Budget = { steps: number } | { seconds: number };

export interface StepReport {
  /** From 1. */
  step: number;
  /** Mean over the batch, in nats. */
  loss: number;
  gradientNorm: number;
  /** Share of the budget that is spent. */
  progress: number;
  /** Since the start. */
  seconds: number;
}

export interface TrainOptions {
  budget: Budget;
  schedule: Schedule;
  clip: number;
  adamW?: Partial<AdamWSettings>;
  onStep?(report: StepReport): void;
}

export function isEmpty(budget: Budget): boolean {
  return ('steps' in budget ? budget.steps : budget.seconds) <= 0;
}

/** Runs `learn` (forward and backward of one batch, returning its loss) and the optimizer until the budget is spent. */
export function train(
  parameters: Parameters,
  learn: (step: number) => number,
  { budget, schedule, clip, adamW, onStep }: TrainOptions,
): void {
  const optimizer = new AdamW(parameters.list, adamW);
  const start = performance.now();
  // A budget of nothing is spent at once.
  let progress = isEmpty(budget) ? 1 : 0;
  for (let step = 1; progress < 1; step++) {
    if ('steps' in budget) progress = step / budget.steps;
    parameters.clear();
    const loss = learn(step);
    const gradientNorm = clipGradients(parameters.list, clip);
    optimizer.step(cosine(schedule, progress));
    const seconds = (performance.now() - start) / 1000;
    if ('seconds' in budget) progress = Math.min(1, seconds / budget.seconds);
    onStep?.({ step, loss, gradientNorm, progress, seconds });
  }
}
