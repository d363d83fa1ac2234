/** S4D against its float64 reference: recurrence and convolution, both discretisations, states, packed sequences. */

import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { S4dOptions } from '../reference/s4d.ts';
import * as reference from '../reference/s4d.ts';
import { expectSame } from '../support/bits.ts';
import { contract } from '../support/compare.ts';
import { checkGradient, dot } from '../support/gradcheck.ts';
import type { FloatDtype } from '../support/half.ts';
import { decode, encode, halfDtypes } from '../support/half.ts';
import { call, expectNear } from '../support/layers.ts';
import type { AnyTensor } from '../support/native.ts';
import { native } from '../support/native.ts';
import fc from '../support/property.ts';
import { Random } from '../support/random.ts';
import { slice } from '../support/slices.ts';
import type { Tensor32 } from '../support/tensor.ts';
import { sizeOf, toFloat64 } from '../support/tensor.ts';
import { throwsWith } from './helpers.ts';

const test = suite('s4d');

interface Shape {
  B: number;
  T: number;
  D: number;
  N: number;
  seed: number;
}

/** States for `sequences` of them; 0: none. */
function draw({ B, T, D, N, seed }: Shape, sequences = B) {
  const random = new Random(seed);
  const normal = (...shape: number[]): Tensor32 => ({
    data: random.normals(sizeOf(shape)),
    shape,
  });
  const uniform = (low: number, high: number, ...shape: number[]): Tensor32 => ({
    data: random.uniforms(sizeOf(shape), low, high),
    shape,
  });
  const inputs = {
    x: normal(B, T, D),
    logDt: uniform(Math.log(0.001), Math.log(0.1), D),
    logAReal: uniform(-1.5, 0.5, D, N),
    AImag: uniform(0, Math.PI * N, D, N),
    C: normal(D, N, 2),
    D: normal(D),
    ...(sequences && { initialState: normal(sequences, D, N, 2) }),
  };
  const gradients = {
    dY: normal(B, T, D),
    ...(sequences && { dFinalState: normal(sequences, D, N, 2) }),
  };
  return { inputs, gradients };
}

type Problem = ReturnType<typeof draw>;

// Computed in float64, so that what is left is one rounding to float32.
const LIMIT = { y: 2e-7, finalState: 2e-7, other: 1e-6 };

async function check(
  label: string,
  { inputs, gradients }: Problem,
  options: S4dOptions,
  dtype: FloatDtype = 'f32',
): Promise<void> {
  const given = { ...inputs, x: encode(dtype, inputs.x) };
  const all = { ...given, ...gradients, dY: encode(dtype, gradients.dY) };
  const convolves = options.mode === 'convolution';
  const seen = { ...inputs, x: decode(given.x) };
  const { finalState, y } = reference.s4d(seen, options);
  const forward: any = await call('s4d', given, { ...options, outputFinalState: !convolves });
  const limits = { ...LIMIT, ...(dtype !== 'f32' && { y: contract[dtype].o[0][1] }) };
  const decoded = Object.fromEntries(
    Object.entries(forward).map(([name, x]) => [name, decode(x as AnyTensor)]),
  ) as any;
  expectNear(label, decoded, { y, ...(!convolves && { finalState }) }, limits);
  const backward: any = await call('s4dBackward', all, options);
  const { dInitialState, ...expected } = reference.s4dBackward(
    { ...seen, ...gradients, dY: decode(all.dY) },
    options,
  );
  const withStates = { ...expected, ...(inputs.initialState && { dInitialState }) };
  expectNear(label, backward, withStates, limits);
  if (dtype === 'f32') return;
  const rounded = native.s4dBackwardSync(all, { ...options, gradDtype: 'input' });
  expectSame('dx', rounded.dx, encode(dtype, backward.dx));
}

const shapes = fc.record({
  B: fc.integer({ min: 1, max: 3 }),
  T: fc.oneof(fc.integer({ min: 1, max: 9 }), fc.constantFrom(63, 64, 65, 130)),
  D: fc.constantFrom(1, 3, 8, 17),
  N: fc.constantFrom(1, 2, 3, 8),
  seed: fc.integer({ min: 1, max: 1 << 30 }),
  discretisation: fc.constantFrom('zoh' as const, 'bilinear' as const),
  states: fc.boolean(),
});

test('drawn shapes', async () => {
  await fc.assert(
    fc.asyncProperty(shapes, async ({ discretisation, states, ...shape }) => {
      const problem = draw(shape, states ? shape.B : 0);
      await check('recurrent', problem, { discretisation });
      if (!states) await check('convolution', problem, { discretisation, mode: 'convolution' });
    }),
    { numRuns: 10, seed: 3 },
  );
});

for (const dtype of halfDtypes) {
  test(dtype, async () => {
    const shape = { B: 2, T: 70, D: 11, N: 4, seed: 9 };
    await check(dtype, draw(shape), {}, dtype);
    await check(dtype, draw(shape, 0), { mode: 'convolution' }, dtype);
  });
}

test('the reference against central differences', () => {
  for (const discretisation of ['zoh', 'bilinear'] as const) {
    const { inputs, gradients } = draw({ B: 1, T: 5, D: 2, N: 2, seed: 21 }, 2);
    const options = { discretisation, cuSeqlens: [0, 3, 5] };
    const wide = (tensors: object) =>
      Object.fromEntries(
        Object.entries(tensors).map(([name, x]) => [name, toFloat64(x as Tensor32)]),
      ) as any;
    const [given, { dY, dFinalState }] = [wide(inputs), wide(gradients)];
    const loss = (): number => {
      const { y, finalState } = reference.s4d(given, options);
      return dot(y, dY) + dot(finalState, dFinalState);
    };
    const all = reference.s4dBackward({ ...given, dY, dFinalState }, options);
    for (const name of Object.keys(inputs)) {
      const gradient = all[name === 'x' ? 'dx' : `d${name[0].toUpperCase()}${name.slice(1)}`];
      checkGradient(name, loss, given[name], gradient);
    }
  }
});

test('slow modes over many tokens, and modes that hardly turn', async () => {
  const problem = draw({ B: 1, T: 3000, D: 2, N: 2, seed: 5 }, 0);
  problem.inputs.logDt.data.fill(Math.log(0.001));
  problem.inputs.logAReal.data.set([-6, -0.7, -20, -30]);
  problem.inputs.AImag.data.set([100, 3, 0, 0]);
  for (const mode of ['recurrent', 'convolution']) await check(mode, problem, { mode });
});

test('packed sequences have the bits that they have alone', async () => {
  const problem = draw({ B: 1, T: 90, D: 9, N: 3, seed: 8 }, 3);
  const cuSeqlens = Int32Array.of(0, 70, 70, 90);
  await check('packed', problem, { cuSeqlens });
  const { y, finalState } = native.s4dSync(problem.inputs, { cuSeqlens, outputFinalState: true });
  for (let n = 0; n < 3; n++) {
    const x = slice(problem.inputs.x, 1, cuSeqlens[n], cuSeqlens[n + 1]);
    const initialState = slice(problem.inputs.initialState!, 0, n, n + 1);
    const alone = native.s4dSync(
      { ...problem.inputs, x, initialState },
      { outputFinalState: true },
    );
    expectSame(`y ${n}`, slice(y, 1, cuSeqlens[n], cuSeqlens[n + 1]), alone.y);
    expectSame(`finalState ${n}`, slice(finalState, 0, n, n + 1), alone.finalState);
  }
});

test('a batch does not change the bits of its rows', () => {
  const { inputs } = draw({ B: 3, T: 40, D: 10, N: 3, seed: 4 }, 0);
  for (const mode of ['recurrent', 'convolution']) {
    const { y } = native.s4dSync(inputs, { mode });
    const alone = native.s4dSync({ ...inputs, x: slice(inputs.x, 0, 1, 2) }, { mode });
    expectSame(mode, slice(y, 0, 1, 2), alone.y);
  }
});

test('token by token on rows of a pool', () => {
  const { inputs } = draw({ B: 2, T: 12, D: 5, N: 3, seed: 6 }, 0);
  const { y, finalState } = native.s4dSync(inputs, { outputFinalState: true });
  const state: any = native.createState({ batch: 3, valueHeads: 5, keyDim: 3, valueDim: 2 });
  const stateIndices = Int32Array.of(2, 0);
  for (let t = 0; t < 12; t++) {
    const x = slice(inputs.x, 1, t, t + 1);
    const one = native.s4dSync({ ...inputs, x, state }, { stateIndices });
    expectNear(`token ${t}`, one, { y: slice(y, 1, t, t + 1) }, 2e-6);
  }
  const rows = state.toTensor();
  expectNear('state', { x: slice(rows, 0, 2, 3) }, { x: slice(finalState, 0, 0, 1) }, 2e-6);
  assert.ok(slice(rows, 0, 1, 2).data.every((x) => x === 0));
  state.dispose();
});

test('nothing to do', () => {
  for (const shape of [
    { B: 2, T: 0, D: 3, N: 2, seed: 1 },
    { B: 0, T: 4, D: 3, N: 2, seed: 1 },
  ]) {
    const { inputs, gradients } = draw(shape);
    const { finalState } = native.s4dSync(inputs, { outputFinalState: true });
    assert.equal(finalState.data, inputs.initialState?.data ?? new Float32Array(0));
    const { dC } = native.s4dBackwardSync({ ...inputs, ...gradients });
    assert.ok(dC.data.every((x: number) => x === 0));
    const bare = draw(shape, 0);
    const convolved = native.s4dBackwardSync(
      { ...bare.inputs, ...bare.gradients },
      { mode: 'convolution' },
    );
    assert.ok(convolved.dC.data.every((x: number) => x === 0));
  }
});

test('bad input', () => {
  const { inputs, gradients } = draw({ B: 2, T: 4, D: 3, N: 2, seed: 1 });
  const run = (edit: object, options = {}) => native.s4dSync({ ...inputs, ...edit }, options);
  throwsWith(() => run({ C: undefined }), TypeError, /^\[s4d\] C: expected/);
  throwsWith(() => run({ AImag: inputs.logDt }), RangeError, /AImag: expected shape \[D,N\]/);
  throwsWith(() => run({ C: inputs.AImag }), RangeError, /C: expected shape \[D,N,2\]/);
  throwsWith(() => run({}, { mode: 'fast' }), RangeError, /mode/);
  const convolution = { mode: 'convolution' };
  throwsWith(() => run({}, convolution), TypeError, /mode: .* with initialState/);
  const bare = { initialState: undefined };
  const final = { ...convolution, outputFinalState: true };
  throwsWith(() => run(bare, final), TypeError, /mode: .* with outputFinalState/);
  const state: any = native.createState({ batch: 2, valueHeads: 3, keyDim: 2, valueDim: 1 });
  throwsWith(() => run({ ...bare, state }), RangeError, /state: expected shape \[B,D,N,2\]/);
  state.dispose();
  const backward = { ...inputs, ...gradients, dY: inputs.C };
  throwsWith(() => native.s4dBackwardSync(backward), RangeError, /dY: expected/);
});

test.run();
