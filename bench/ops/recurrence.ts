/** The recurrence grid, T = 512 and eight heads, in every pass. */
import type { Case } from '../../ts/cli/benchCase';
import { cells } from '../../ts/cli/ops/recurrence';

export function recurrenceCases(): Case[] {
  return [64, 128].flatMap((K) => {
    const shape = { B: 1, T: 512, H: 8, HV: 8, K, V: K };
    return cells.flatMap((op) => {
      return op.passes.map((pass): Case => ({ op, pass, shape, dtype: 'f32', mode: 'auto' }));
    });
  });
}
