/** Feature maps, and linear attention without order on 512 and on 4096 tokens. */
import type { Case } from '../../ts/cli/benchCase';
import { findOperations } from '../../ts/cli/ops';
import { features } from '../../ts/cli/ops/features';

export function featureCases(): Case[] {
  const usual = features.flatMap((op) =>
    op.passes.map((pass): Case => ({ op, pass, shape: op.usual, dtype: 'f32', mode: 'auto' })),
  );
  const long = findOperations(['bidirectionalLinearAttention']).flatMap((op) =>
    op.passes.map((pass): Case => {
      const shape = { ...op.usual, T: 4096, S: 4096 };
      return { op, pass, shape, dtype: 'f32', mode: 'auto' };
    }),
  );
  return [...usual, ...long];
}
