import { adamWSync } from 'rankone';
import type { Parameter } from './parameters.ts';

export interface AdamWSettings {
  beta1: number;
  beta2: number;
  eps: number;
  weightDecay: number;
}

/** AdamW over a list of parameters; matrices decay, vectors do not. */
export class AdamW {
  private readonly parameters: readonly Parameter[];
  private readonly settings: AdamWSettings;
  private steps = 0;

  constructor(parameters: readonly Parameter[], settings: Partial<AdamWSettings> = {}) {
    this.parameters = parameters;
    this.settings = { beta1: 0.9, beta2: 0.95, eps: 1e-8, weightDecay: 0.1, ...settings };
  }

  step(lr: number): void {
    this.steps += 1;
    for (const { value: param, grad, m, v, decays, rate } of this.parameters) {
      const weightDecay = decays ? this.settings.weightDecay : 0;
      adamWSync(
        { param, grad, m, v },
        { ...this.settings, weightDecay, lr: rate * lr, step: this.steps },
      );
    }
  }
}

/** Scales all gradients down to a common norm of at most `limit`; returns the norm before. */
export function clipGradients(parameters: readonly Parameter[], limit: number): number {
  let sum = 0;
  for (const { grad } of parameters) {
    const { data } = grad;
    for (let i = 0; i < data.length; i++) sum += data[i] * data[i];
  }
  const norm = Math.sqrt(sum);
  if (norm > limit) {
    const factor = limit / norm;
    for (const { grad } of parameters) {
      for (let i = 0; i < grad.data.length; i++) grad.data[i] *= factor;
    }
  }
  return norm;
}

export interface Schedule {
  peak: number;
  /** Share of the training that climbs to the peak. */
  warmup: number;
  /** Share of the peak that remains at the end. */
  floor: number;
}

/** Learning rate at `progress` in [0,1]: up in a line, down along a half cosine. */
export function cosine({ peak, warmup, floor }: Schedule, progress: number): number {
  if (progress < warmup) return (peak * progress) / warmup;
  const along = Math.min(1, (progress - warmup) / (1 - warmup));
  return peak * (floor + ((1 - floor) * (1 + Math.cos(Math.PI * along))) / 2);
}
