/** Segments of a sequence, T = 512, beside the scans whose parts they are. */
import type { Case } from '../../ts/cli/benchCase';
import { findOperations } from '../../ts/cli/ops';

export function segmentCases(): Case[] {
  return findOperations([
    'segmentSummary',
    'segmentSummary/delta',
    'segmentGradient',
    'segmentGradient/delta',
    'composeStates',
  ]).flatMap((op) =>
    op.passes.map((pass): Case => ({ op, pass, shape: op.usual, dtype: 'f32', mode: 'auto' })),
  );
}
