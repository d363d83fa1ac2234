/**
 * The fused LoRA product over its base product: 512 rows at once, decode steps of 1, 8 and 64 with weights and adapters that
 * come from memory, and a step of training, on 4096 x 4096; one adapter, segments, each row its own of a thousand, and the
 * best two of eight.
 */
import { loraCases } from '../../ts/cli/bench/lora/suite';
import type { Case } from '../../ts/cli/benchCase';

export function loraLinearCases(): Case[] {
  return loraCases({});
}
