/** Attention of two kinds under one normaliser, T = 512, and the softmax attention that it stands for. */
import type { Case } from '../../ts/cli/benchCase';
import { findOperations } from '../../ts/cli/ops';

export function hybridCases(): Case[] {
  return findOperations(['windowLinearAttention', 'attention']).flatMap((op) =>
    op.passes.map((pass): Case => ({ op, pass, shape: op.usual, dtype: 'f32', mode: 'auto' })),
  );
}
