/** y = a b^T, from a language model's sizes to 512 x 4096 x 4096, in float32 and on pairs of bfloat16. */
import type { Case } from '../../ts/cli/benchCase';
import { findOperations } from '../../ts/cli/ops';

const SIZES = [
  [1, 1024, 1024],
  [1024, 128, 128],
  [1024, 512, 512],
  [2048, 1024, 256],
  [512, 4096, 4096],
] as const;

export function matmulCases(): Case[] {
  return findOperations(['matmul', 'bf16/matmul']).flatMap((op) =>
    SIZES.map(([M, N, K]): Case => {
      return { op, pass: 'forward', shape: { M, N, K }, dtype: 'f32', mode: 'auto' };
    }),
  );
}
