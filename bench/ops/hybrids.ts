/** Two kinds of attention in a layer, T = 512; and the routing of memories. */
import type { Case } from '../../ts/cli/benchCase';
import { findOperations } from '../../ts/cli/ops';

export function hybridCases(): Case[] {
  return findOperations([
    'windowLinearAttention',
    'ligerAttention',
    'momRoute',
    'momGather',
    'momCombine',
  ]).flatMap((op) =>
    op.passes.map((pass): Case => ({ op, pass, shape: op.usual, dtype: 'f32', mode: 'auto' })),
  );
}
