/** The scans beyond the grid, T = 512, beside the cells that do about the same work. */
import type { Case } from '../../ts/cli/benchCase';
import { findOperations } from '../../ts/cli/ops';

export function scanCases(): Case[] {
  return findOperations([
    'dplr',
    'rwkv7',
    'rwkv6',
    'hgrn',
    's4d',
    's4d/convolution',
    'tttLinear',
  ]).flatMap((op) =>
    op.passes.map((pass): Case => ({ op, pass, shape: op.usual, dtype: 'f32', mode: 'auto' })),
  );
}
