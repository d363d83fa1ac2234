/** Softmax attention and, beside it, local linear attention with its system at every query, T = 512. */
import type { Case } from '../../ts/cli/benchCase';
import { findOperations } from '../../ts/cli/ops';

export function attentionCases(): Case[] {
  return findOperations(['attention', 'localLinearAttention']).flatMap((op) =>
    op.passes.map((pass): Case => ({ op, pass, shape: op.usual, dtype: 'f32', mode: 'auto' })),
  );
}
