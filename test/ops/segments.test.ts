/** Summaries of segments and their gradients, for every cell of the grid. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import * as reference from '../reference/segments.ts';
import { expectSame } from '../support/bits.ts';
import type { Problem, ProblemSpec } from '../support/cases.ts';
import { makeProblem } from '../support/cases.ts';
import { checkGradient, dot } from '../support/gradcheck.ts';
import { encode, type FloatDtype, halfDtypes } from '../support/half.ts';
import { call, expectNear, normals } from '../support/layers.ts';
import type { Cell } from '../support/native.ts';
import { cells, inDtype, nameOf, native } from '../support/native.ts';
import { activations, type Options, without } from '../support/segments.ts';
import type { Tensor32 } from '../support/tensor.ts';
import { toFloat64 } from '../support/tensor.ts';

/** Summaries, states and gradients alike. */
const LIMITS = { dg: 5e-5, dbeta: 5e-5, dALog: 5e-5, dDtBias: 5e-5, other: 1e-5 };

async function check(
  label: string,
  problem: Problem,
  options: Options,
  dtype: FloatDtype = 'f32',
): Promise<void> {
  const { given, seen } = inDtype(problem, { dtype });
  const { q, dO, ...inputs } = given as any;
  const seenInputs = without(seen, 'q', 'dO');
  const summary = reference.segmentSummary(seenInputs, options);
  const results = await call('segmentSummary', inputs, options);
  expectNear(`${label}: summary`, results, summary as any, LIMITS);
  const normal = normals(77);
  const gradients = {
    dTransition: normal(...summary.transition.shape),
    dState: normal(...summary.state.shape),
    ...(options.normalize && { dZ: normal(...summary.z!.shape) }),
  };
  const expected = reference.segmentSummaryBackward({ ...seenInputs, ...gradients }, options);
  const actual = await call('segmentSummaryBackward', { ...inputs, ...gradients }, options);
  expectNear(`${label}: its gradients`, actual, expected as any, LIMITS);
  if (options.normalize) return;
  const { v: _, ...keys } = inputs;
  expectNear(
    `${label}: segmentGradient`,
    await call('segmentGradient', { q, dO, ...keys }, options),
    reference.segmentGradient(seen, options),
    LIMITS,
  );
  if (dtype === 'f32') return;
  const rounded = native.segmentSummaryBackwardSync(
    { ...inputs, ...gradients },
    { ...options, gradDtype: 'input' },
  );
  expectSame('dv', rounded.dv, encode(dtype, actual.dv));
}

const each = suite('segments: every cell');

cells.forEach((cell, index) => {
  const n = cell.n;
  if (n === 3) return;
  const shapes: Omit<ProblemSpec, keyof Cell>[] = [
    { B: 2, T: 19, H: 1, HV: 2, K: n > 2 ? 7 : 17, V: 23 },
    { B: 1, T: n > 2 ? 9 : 67, H: 1, K: n > 2 ? 8 : 24, V: 40 },
    { B: 1, T: 1, H: 1, K: 5, V: 3 },
  ];
  each(nameOf(cell), async () => {
    for (const [i, shape] of shapes.entries()) {
      const spec = { ...shape, ...cell, seed: 900 + 10 * index + i };
      await check(nameOf(cell), makeProblem(spec), { numHouseholder: n });
    }
  });
  each(`${nameOf(cell)}, fused and packed`, async () => {
    const spec = { B: 1, T: 45, H: 2, HV: 4, K: 8, V: 10, ...cell, seed: 700 + index };
    const starts = Int32Array.of(0, 7, 7, 40, 45);
    const options = { ...activations(cell, spec, index + 1), cuSeqlens: starts };
    await check(nameOf(cell), makeProblem(spec), { ...options, numHouseholder: n });
  });
  for (const dtype of n > 2 ? [] : halfDtypes)
    each(`${nameOf(cell)}, ${dtype}`, async () => {
      const spec = { B: 1, T: 21, H: 1, HV: 2, K: 16, V: 9, ...cell, seed: 30 + index };
      await check(nameOf(cell), makeProblem(spec), { numHouseholder: n }, dtype);
    });
});

each('a segment without tokens, of any decay', () => {
  const make = normals(5);
  const inputs = { q: make(1, 3, 2, 4), k: make(1, 3, 2, 4), dO: make(1, 3, 2, 5) };
  const beta = make(1, 3, 2);
  const cuSeqlens = Int32Array.of(0, 0, 3, 3);
  for (const given of [inputs, { ...inputs, beta }]) {
    const g = { data: Float32Array.of(100, 3e38), shape: [2] };
    const { dInitialState } = native.segmentGradientSync({ ...given, g }, { cuSeqlens });
    const size = 2 * 4 * 5;
    for (const at of [0, 2])
      assert.ok(
        dInitialState.data.subarray(at * size, (at + 1) * size).every((x: number) => x === 0),
      );
  }
});

each('normalize', async () => {
  const cell = { gate: 'none', update: 'additive', n: 1 } as const;
  const spec = { B: 1, T: 60, H: 2, HV: 4, K: 9, V: 7, ...cell, normalize: true };
  const cuSeqlens = Int32Array.of(0, 20, 20, 60);
  for (const qkL2norm of [false, true])
    await check('normalize', makeProblem(spec), { normalize: true, cuSeqlens, qkL2norm });
});

each('the references against central differences', () => {
  for (const cell of cells.filter(({ n }) => n < 3)) {
    const spec = { B: 1, T: 5, H: 1, HV: 2, K: 3, V: 2, ...cell };
    const options = { numHouseholder: cell.n, ...activations(cell, spec, 5) };
    const inputs = without(makeProblem(spec), 'q', 'dO');
    const wide: any = {};
    for (const [name, x] of Object.entries(inputs)) wide[name] = toFloat64(x as Tensor32);
    const { transition, state } = reference.segmentSummary(wide, options);
    const dTransition = toFloat64(normals(1)(...transition.shape));
    const dState = toFloat64(normals(2)(...state.shape));
    const loss = (): number => {
      const summary = reference.segmentSummary(wide, options);
      return dot(summary.transition, dTransition) + dot(summary.state, dState);
    };
    const all: any = reference.segmentSummaryBackward({ ...wide, dTransition, dState }, options);
    for (const name of Object.keys(wide)) checkGradient(name, loss, wide[name], all[`d${name}`]);
  }
});

each.run();
