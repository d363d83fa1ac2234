/** Every cell of the grid on a device, forward and backward, against float64. */

import { placed, test } from '../../support/device.ts';
import { callThrough, cells, checkProblem, nameOf } from '../../support/native.ts';

callThrough((name, f) => placed(name, f, 'cuda'));

const forms = [{ mode: 'recurrent' }, { mode: 'auto' }, { mode: 'chunk' }] as const;

for (const cell of cells.filter(({ n }) => n < 8)) {
  const small = { ...cell, B: 2, T: 19, H: 1, HV: 2, K: 16, V: 24 };
  const odd = { ...cell, B: 1, T: 5, H: 2, K: 33, V: 7 };
  const states = { withInitialState: true, withFinalStateGradient: true };
  test(`float32: ${nameOf(cell)}`, () => {
    checkProblem({ ...small, ...states }, { forms });
    checkProblem(odd, { forms: forms.slice(1, 2) });
  });

  test(`half width, float32 arithmetic: ${nameOf(cell)}`, () => {
    const engine = { compute: 'f32' };
    checkProblem(odd, { forms: forms.slice(1, 2), dtype: 'bf16', halfGates: true, engine });
    checkProblem({ ...odd, ...states }, { forms: forms.slice(1, 2), dtype: 'f16', engine });
  });
}

test.run();
