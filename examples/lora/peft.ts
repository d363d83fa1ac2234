import { type LinearAdapter, type PeftConfig, readPeftSync, writePeftSync } from 'rankone';
import type { TrainableAdapter } from '../common/adapters.ts';
import type { Factors, LoraLinear } from '../common/layers/loraLinear.ts';

/** Writes an adapter as PEFT does. */
export function saveAdapter(folder: string, adapter: TrainableAdapter): void {
  const values = adapter.values();
  const { rank, alpha } = adapter.settings;
  const config: PeftConfig = {
    peft_type: 'LORA',
    r: rank,
    lora_alpha: alpha,
    target_modules: [...new Set([...values.keys()].map((path) => path.split('.').pop()!))],
    bias: 'none',
    inference_mode: true,
  };
  const modules = new Map<string, LinearAdapter>();
  for (const [path, factors] of values) modules.set(path, { kind: 'linear', ...factors });
  writePeftSync(folder, modules, config);
}

/** Reads an adapter of these layers, which must fit them. */
export function loadAdapter(folder: string, layers: readonly LoraLinear[]): Map<string, Factors> {
  const sizes = layers.map(({ path, inputs, outputs }) => {
    return [path, { inFeatures: inputs, outFeatures: outputs }] as const;
  });
  const factors = new Map<string, Factors>();
  for (const [path, adapter] of readPeftSync(folder, Object.fromEntries(sizes))) {
    if (adapter.kind !== 'linear') throw new Error(`${folder}: ${path} is not of a linear layer`);
    const { a, b, scale } = adapter;
    factors.set(path, { a, b, scale });
  }
  return factors;
}
