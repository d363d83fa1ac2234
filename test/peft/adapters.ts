// Small adapters for the tests, and both forms of reading them.
import * as assert from 'uvu/assert';
import {
  type PeftAdapter,
  type PeftModules,
  type PeftOptions,
  readPeft,
  readPeftSync,
} from '../../ts/index';
import { counted, type Raw, writeAdapter } from './files';

export const P = 'base_model.model.';
export const Q = 'model.layers.0.self_attn.q_proj';
export const CONFIG = { peft_type: 'LORA', r: 2, lora_alpha: 4, target_modules: ['q_proj'] };

export const SIZES = { [Q]: { inFeatures: 3, outFeatures: 5 } };

export const M = 'model.layers.0.mlp.experts';
export const A = `${P}${Q}.lora_A.weight`;
export const B = `${P}${Q}.lora_B.weight`;

/** Factors of rank r of a layer [out,in]. */
export function factors(
  module: string,
  inFeatures = 3,
  outFeatures = 5,
  r = 2,
): Record<string, Raw> {
  return {
    [`${P}${module}.lora_A.weight`]: counted([r, inFeatures], 1),
    [`${P}${module}.lora_B.weight`]: counted([outFeatures, r], 100),
  };
}

/** Both forms of reading a folder of these. */
export function reading(
  tensors: Record<string, Raw>,
  config: unknown,
  modules?: PeftModules,
  options?: PeftOptions,
): [() => unknown, () => Promise<unknown>] {
  const folder = writeAdapter(tensors, config);
  return [() => readPeftSync(folder, modules, options), () => readPeft(folder, modules, options)];
}

/** What both forms of reading give. */
export async function read(
  tensors: Record<string, Raw>,
  config: unknown,
  modules?: PeftModules,
  options?: PeftOptions,
): Promise<Map<string, any>> {
  const [sync, async] = reading(tensors, config, modules, options);
  const adapters = sync() as Map<string, PeftAdapter>;
  assert.equal(await async(), adapters);
  return adapters;
}
