/** The grid on a device in bf16 arithmetic, what half-width tensors get without asking. */
import type { Problem, ProblemSpec } from '../../support/cases.ts';
import { placed, test } from '../../support/device.ts';
import { callThrough, cells, checkProblem, nameOf } from '../../support/native.ts';

callThrough((name, f) => placed(name, f, 'cuda'));

const forms = [{ mode: 'auto' }, { mode: 'chunk' }] as const;
const states = { withInitialState: true, withFinalStateGradient: true };

/**
 * Positive values and gradients: the terms of the gradient of a head's gate, which sums them over all tokens,
 * cancel less then, and their rounding is not measured against what is left of them.
 */
function positive({ v, dO }: Problem): void {
  for (const { data } of [v, dO]) for (let i = 0; i < data.length; i++) data[i] = Math.abs(data[i]);
}

for (const cell of cells.filter(({ n }) => n < 8)) {
  const bf16 = { forms, dtype: 'bf16', row: 'bf16 compute' } as const;
  const spec: ProblemSpec = { ...cell, B: 1, T: 70, H: 1, HV: 2, K: 64, V: 32 };

  test(`bf16: ${nameOf(cell)}`, () => {
    checkProblem({ ...spec, ...states }, bf16);
  });

  test(`f16 and float32 tensors, odd sizes: ${nameOf(cell)}`, () => {
    const odd = { ...spec, T: 35, K: 40, V: 37 };
    const edit = cell.gate === 'head' ? positive : undefined;
    checkProblem(odd, { ...bf16, dtype: 'f16', forms: forms.slice(0, 1), edit });
    const engine = { compute: 'bf16' };
    checkProblem(odd, { row: 'bf16 compute', engine, forms: forms.slice(0, 1), edit });
  });
}

test('K = V = 256', () => {
  const wide: ProblemSpec = { gate: 'token', update: 'delta', B: 1, T: 17, H: 1, K: 256, V: 256 };
  checkProblem(wide, { forms: forms.slice(0, 1), dtype: 'bf16', row: 'bf16 compute' });
});

test.run();
