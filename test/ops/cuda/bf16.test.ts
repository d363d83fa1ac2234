/** The grid on a device in bf16 arithmetic, what half-width tensors get without asking. */
import type { ProblemSpec } from '../../support/cases.ts';
import { placed, test } from '../../support/device.ts';
import { callThrough, cells, checkProblem, nameOf } from '../../support/native.ts';

callThrough((name, f) => placed(name, f, 'cuda'));

const forms = [{ mode: 'auto' }, { mode: 'chunk' }] as const;
const states = { withInitialState: true, withFinalStateGradient: true };

for (const cell of cells.filter(({ n }) => n < 8)) {
  const bf16 = { forms, dtype: 'bf16', row: 'bf16 compute' } as const;
  const spec: ProblemSpec = { ...cell, B: 1, T: 70, H: 1, HV: 2, K: 64, V: 32 };

  test(`bf16: ${nameOf(cell)}`, () => {
    checkProblem({ ...spec, ...states }, bf16);
  });

  test(`f16 and float32 tensors, odd sizes: ${nameOf(cell)}`, () => {
    const odd = { ...spec, T: 35, K: 40, V: 37, seed: 2 };
    checkProblem(odd, { ...bf16, dtype: 'f16', forms: forms.slice(0, 1) });
    const engine = { compute: 'bf16' };
    checkProblem(odd, { row: 'bf16 compute', engine, forms: forms.slice(0, 1) });
  });
}

test('K = V = 256', () => {
  const wide: ProblemSpec = { gate: 'token', update: 'delta', B: 1, T: 17, H: 1, K: 256, V: 256 };
  checkProblem(wide, { forms: forms.slice(0, 1), dtype: 'bf16', row: 'bf16 compute' });
});

test.run();
