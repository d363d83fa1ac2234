/** Linear attention with its normalizer: o = S^T q / (z^T q + 1e-10), z carried beside the state. */

import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { createState } from '../../ts/index';
import { forward } from '../reference/recurrence.ts';
import { everything, expectSame, expectSameBits, sameForThreads } from '../support/bits.ts';
import type { Problem, ProblemSpec } from '../support/cases.ts';
import { makeProblem } from '../support/cases.ts';
import { expectWithin, rowFor } from '../support/compare.ts';
import { halfDtypes, unwritten } from '../support/half.ts';
import { checkProblem, FEW_FORMS, inDtype, native } from '../support/native.ts';
import fc from '../support/property.ts';
import { join, tokensOf } from '../support/slices.ts';
import type { Tensor32, Tensor64 } from '../support/tensor.ts';
import { sizeOf } from '../support/tensor.ts';
import { rejectsWith, throwsWith } from './helpers.ts';

const cell = { gate: 'none', update: 'additive', normalize: true } as const;
const states = { withInitialState: true, withFinalStateGradient: true };
const options = { normalize: true };

const forms = suite('normalize: forward and backward');

const SHAPES: Omit<ProblemSpec, keyof typeof cell>[] = [
  { B: 2, T: 45, H: 2, K: 17, V: 23, ...states },
  { B: 1, T: 45, H: 2, HV: 6, K: 17, V: 23, ...states },
  { B: 1, T: 1, H: 1, K: 24, V: 40, ...states },
  { B: 1, T: 2, H: 2, HV: 4, K: 3, V: 5 },
  { B: 1, T: 150, H: 1, HV: 2, K: 64, V: 64 },
  { B: 1, T: 33, H: 1, K: 2, V: 1, withInitialState: true },
  { B: 1, T: 40, H: 1, HV: 2, K: 9, V: 130, withFinalStateGradient: true },
];

SHAPES.forEach((shape, index) => {
  const spec: ProblemSpec = { ...shape, ...cell, seed: 400 + index };
  const { B, T, H, HV = H, K, V } = spec;
  const label = `B ${B}, T ${T}, H ${H}, HV ${HV}, K ${K}, V ${V}`;
  forms(label, () => checkProblem(spec, { options, cancels: true }));
  forms(`${label}, qkL2norm`, () => {
    checkProblem(spec, { options: { normalize: true, qkL2norm: true }, cancels: true });
  });
  for (const dtype of halfDtypes) {
    if (T * V < 200) continue;
    forms(`${label}, ${dtype}`, () => checkProblem(spec, { options, dtype, cancels: true }));
  }
});

// One token from nothing, or one channel, leaves a quotient that does not depend on q: see below.
const drawn = fc.record({
  B: fc.integer({ min: 1, max: 3 }),
  T: fc.integer({ min: 2, max: 140 }),
  H: fc.integer({ min: 1, max: 3 }),
  perKeyHead: fc.integer({ min: 1, max: 3 }),
  K: fc.integer({ min: 2, max: 70 }),
  V: fc.integer({ min: 1, max: 70 }),
  withInitialState: fc.boolean(),
  withFinalStateGradient: fc.boolean(),
  seed: fc.integer({ min: 1, max: 1 << 30 }),
});

forms('drawn shapes', () => {
  const property = fc.property(drawn, ({ perKeyHead, ...shape }) => {
    const HV = shape.H * perKeyHead;
    const perToken = shape.B * HV * shape.K * shape.V;
    const T = Math.max(2, Math.min(shape.T, Math.floor(400_000 / perToken)));
    checkProblem({ ...shape, ...cell, HV, T }, { options, cancels: true });
  });
  const { errorInstance } = fc.check(property, { seed: 4000, numRuns: 30, endOnFailure: true });
  if (errorInstance) throw errorInstance;
});

forms('packed, some of it empty', () => {
  for (const bounds of [
    [0, 0, 13, 13, 40],
    [0, 33, 40, 40, 40],
  ]) {
    const spec: ProblemSpec = { B: 1, T: 40, N: 4, H: 2, HV: 4, K: 17, V: 20, ...states, ...cell };
    const cuSeqlens = Int32Array.from(bounds);
    checkProblem(spec, { options: { normalize: true, cuSeqlens }, cancels: true });
    checkProblem(spec, { options: { normalize: true, cuSeqlens, qkL2norm: true }, cancels: true });
  }
});

forms('keys of both signs, where the denominator is not small', () => {
  const spec: ProblemSpec = { B: 1, T: 30, H: 1, K: 8, V: 12, ...states, ...cell, seed: 420 };
  const edit = ({ q, k, initialZ }: Problem): void => {
    // A large initial z along the queries keeps the sum away from zero.
    for (let i = 0; i < k.data.length; i += 2) k.data[i] *= -1;
    q.data.forEach((x, i) => {
      q.data[i] = 1 + x / 8;
    });
    initialZ!.data.fill(30);
  };
  checkProblem(spec, { options, edit, cancels: true });
});

forms('where the quotient does not depend on q, what is left of dq is rounding', () => {
  for (const size of [
    { T: 1, K: 24 },
    { T: 30, K: 1 },
  ]) {
    const problem = makeProblem({ B: 1, H: 1, V: 20, ...size, ...cell, seed: 422 });
    const { o } = forward(problem, options);
    const { dq } = native.recurrenceBackwardSync(problem, options);
    dq.data.forEach((x: number, i: number) => {
      // The two terms that cancel, in the direction of k, are each of this size at most.
      const t = Math.floor(i / size.K);
      const row = (y: Tensor32 | Tensor64): number[] => [...y.data.subarray(t * 20, t * 20 + 20)];
      const terms = Math.hypot(...row(problem.dO)) * Math.hypot(...row(o));
      const z = size.K === 1 ? problem.q.data[t] : 1;
      assert.ok(
        Math.abs(x) <= (1e-5 * terms) / z,
        `T ${size.T}, K ${size.K}: ${x} of ${terms / z}`,
      );
    });
  }
});

forms('many tokens', () => {
  const spec: ProblemSpec = { B: 1, T: 9000, H: 1, HV: 2, K: 8, V: 12, ...states, ...cell };
  checkProblem(spec, { options, cancels: true, forms: FEW_FORMS });
});

forms('the scale has no effect', () => {
  const problem = makeProblem({ B: 1, T: 20, H: 2, K: 8, V: 6, ...states, ...cell, seed: 421 });
  const plain = everything({ ...problem }, options);
  expectSameBits('scale 3', everything({ ...problem }, { ...options, scale: 3 }), plain);
});

forms('false is the default', () => {
  const { initialZ: _z, dFinalZ: _dz, ...problem } = makeProblem({ ...SHAPES[0], ...cell });
  const plain = everything({ ...problem });
  expectSameBits('false', everything({ ...problem }, { normalize: false }), plain);
  assert.not.ok(Object.keys(plain).some((name) => /^(finalZ|dInitialZ)/.test(name)));
});

forms('zero keys give zeros, not NaN', () => {
  const problem = makeProblem({ B: 1, T: 20, H: 1, K: 8, V: 6, ...cell });
  problem.k.data.fill(0);
  for (const [name, x] of Object.entries(everything({ ...problem }, options))) {
    assert.ok(x.data.every(Number.isFinite), name);
    if (name.startsWith('o,'))
      assert.ok(
        x.data.every((y) => y === 0),
        name,
      );
  }
});

forms('out of finalZ and dInitialZ', () => {
  const problem = makeProblem({ B: 2, T: 20, H: 2, HV: 4, K: 8, V: 6, ...states, ...cell });
  const { dO: _dO, dFinalState: _dState, dFinalZ: _dZ, ...inputs } = problem;
  const whole = { ...options, outputFinalState: true };
  const out = { finalZ: unwritten('f32', [2, 2, 8]) };
  const results = native.recurrenceSync(inputs, { ...whole, out });
  assert.is(results.finalZ, out.finalZ);
  expectSame('finalZ', results.finalZ, native.recurrenceSync(inputs, whole).finalZ);
  const gradient = { dInitialZ: unwritten('f32', [2, 2, 8]) };
  const gradients = native.recurrenceBackwardSync(problem, { ...options, out: gradient });
  assert.is(gradients.dInitialZ, gradient.dInitialZ);
  expectSame(
    'dInitialZ',
    gradients.dInitialZ,
    native.recurrenceBackwardSync(problem, options).dInitialZ,
  );
});

forms.run();

const carried = suite('normalize: split anywhere = whole');

const spec = { B: 2, T: 37, H: 2, HV: 4, K: 18, V: 21, ...states, ...cell, seed: 430 };
const problem = makeProblem(spec);
const { dO, dFinalState, dFinalZ, ...inputs } = problem;
const whole = forward(inputs, options);

function expectWhole(label: string, o: Tensor32, S: Tensor32, z: Tensor32): void {
  expectWithin(`${label}: o`, o.data, whole.o.data, whole.o.shape, rowFor('o', 37));
  const { finalState, finalZ } = whole;
  const row = rowFor('finalState', 37);
  expectWithin(`${label}: state`, S.data, finalState.data, finalState.shape, row);
  expectWithin(`${label}: z`, z.data, finalZ!.data, finalZ!.shape, row);
}

carried('by initialState and initialZ', () => {
  for (const mode of ['recurrent', 'chunk', 'auto']) {
    for (let cut = 0; cut <= 37; cut += cut < 3 || cut > 33 ? 1 : 6) {
      const call = { normalize: true, mode, outputFinalState: true };
      const { initialState, initialZ } = inputs;
      const start = { ...tokensOf(problem, 0, cut), initialState, initialZ };
      const first = native.recurrenceSync(start, call);
      const carry = { initialState: first.finalState, initialZ: first.finalZ };
      const second = native.recurrenceSync({ ...tokensOf(problem, cut, 37), ...carry }, call);
      const o = join([first.o, second.o], 1);
      expectWhole(`${mode}, cut ${cut}`, o, second.finalState, second.finalZ);
    }
  }
});

const dimensions = { batch: 2, valueHeads: 4, keyDim: 18, valueDim: 21, keyHeads: 2 };

function makeState(): any {
  const state: any = createState(dimensions as any);
  state.copyFrom(inputs.initialState, inputs.initialZ);
  return state;
}

carried('by a state, prefilled and then decoded', async () => {
  const state = makeState();
  const outputs = [native.recurrenceSync({ ...tokensOf(problem, 0, 19), state }, options).o];
  for (let t = 19; t < 37; t++) {
    const call = { ...tokensOf(problem, t, t + 1), state };
    const { o } =
      t % 2 ? native.linearAttentionSync(call, options) : await native.recurrence(call, options);
    outputs.push(o);
  }
  expectWhole('state', join(outputs, 1), state.toTensor(), state.zToTensor());
  state.dispose();
});

carried('a state is what finalState and finalZ are', () => {
  for (const mode of ['recurrent', 'chunk', 'auto']) {
    const state = makeState();
    const copy = state.clone();
    const call = { normalize: true, mode };
    const expected = native.recurrenceSync(inputs, { ...call, outputFinalState: true });
    const { o } = native.recurrenceSync({ ...tokensOf(problem, 0, 37), state }, call);
    expectSame('o', o, expected.o);
    expectSame('state', state.toTensor(), expected.finalState);
    expectSame('z', state.zToTensor(), expected.finalZ);
    expectSame('a clone is its own', copy.zToTensor(), inputs.initialZ!);
  }
});

carried('a new state has z of zeros, and copyFrom resets it', () => {
  const state: any = createState(dimensions as any);
  assert.equal(state.zShape, [2, 2, 18]);
  assert.ok(state.zToTensor().data.every((x: number) => x === 0));
  const { initialState: _state, initialZ: _z, ...tokens } = inputs;
  const expected = native.recurrenceSync(tokens, { ...options, outputFinalState: true });
  const { o } = native.recurrenceSync({ ...tokens, state }, options);
  expectSame('o', o, expected.o);
  expectSame('z', state.zToTensor(), expected.finalZ);
  state.copyFrom(inputs.initialState);
  assert.ok(state.zToTensor().data.every((x: number) => x === 0));
});

carried('a call that does not normalize refuses a state with z', () => {
  const state = makeState();
  const { initialState: _state, initialZ: _z, ...tokens } = inputs;
  const pattern = /^\[recurrence\] state: .*keyHeads/;
  throwsWith(() => native.recurrenceSync({ ...tokens, state }), Error, pattern);
  expectSame('state', state.toTensor(), inputs.initialState!);
  expectSame('z', state.zToTensor(), inputs.initialZ!);
});

carried.run();

const bits = suite('normalize: the same bits');

bits('any number of threads', () => {
  for (const V of [21, 130]) {
    const made = makeProblem({ ...spec, V });
    sameForThreads('f32', () => everything({ ...made }, options));
    const { given } = inDtype(made, { dtype: 'f16' });
    sameForThreads('f16', () => everything(given, { ...options, qkL2norm: true }));
  }
});

bits('asynchronous', async () => {
  const call = { ...options, outputFinalState: true };
  const expected = native.recurrenceSync(inputs, call);
  expectSameBits('forward', await native.recurrence(inputs, call), expected);
  const gradients = native.recurrenceBackwardSync(problem, options);
  expectSameBits('backward', await native.recurrenceBackward(problem, options), gradients);
  expectSameBits('preset', native.linearAttentionBackwardSync(problem, options), gradients);
});

bits('NaN stays in its sequence and key head', () => {
  const clean = everything({ ...problem }, { ...options });
  const poisoned = {
    ...problem,
    initialZ: { ...problem.initialZ!, data: problem.initialZ!.data.slice() },
  };
  poisoned.initialZ.data[18 + 4] = NaN; // row 0, key head 1: value heads 2 and 3
  const actual = everything({ ...poisoned }, options);
  for (const [name, x] of Object.entries(actual)) {
    if (!name.startsWith('o,')) continue;
    x.data.forEach((value, i) => {
      const [row, head] = [Math.floor(i / (37 * 4 * 21)), Math.floor(i / 21) % 4];
      if (row === 0 && head >= 2) assert.ok(Number.isNaN(value), `${name} at ${i}`);
      else assert.is(value, clean[name].data[i], `${name} at ${i}`);
    });
  }
});

bits.run();

const errors = suite('normalize: bad calls');

const zeros = (...shape: number[]): Tensor32 => ({ data: new Float32Array(sizeOf(shape)), shape });
const { q, k, v } = inputs;
const [beta, g] = [zeros(2, 37, 4), zeros(2, 37, 4)];

const bad: [string, object, object, any, RegExp][] = [
  ['with a token gate', { g }, options, Error, /normalize: /],
  ['with a head gate', { g: zeros(4) }, options, Error, /normalize: /],
  ['with a channel gate', { g: zeros(2, 37, 4, 18) }, options, Error, /normalize: /],
  ['with delta', { beta }, options, Error, /normalize: /],
  ['initialZ without normalize', { initialZ: zeros(2, 2, 18) }, {}, TypeError, /initialZ: /],
  [
    'initialZ of value heads',
    { initialZ: zeros(2, 4, 18) },
    options,
    RangeError,
    /initialZ: .*\[2,2,18\], got \[2,4,18\]/,
  ],
  [
    'initialZ of another batch',
    { initialZ: zeros(1, 2, 18) },
    options,
    RangeError,
    /initialZ: .*got \[1,2,18\]/,
  ],
  ['normalize of 1', {}, { normalize: 1 }, TypeError, /normalize: expected true or false, got 1/],
];

for (const [name, change, wrong, kind, pattern] of bad) {
  errors(name, async () => {
    const given = { q, k, v, ...change };
    const named = new RegExp(`^\\[recurrence\\] ${pattern.source}`);
    throwsWith(() => native.recurrenceSync(given, wrong), kind, named);
    await rejectsWith(() => native.recurrence(given, wrong), kind, named);
    const ofBackward = new RegExp(`^\\[recurrenceBackward\\] ${pattern.source}`);
    throwsWith(() => native.recurrenceBackwardSync({ ...given, dO }, wrong), kind, ofBackward);
  });
}

errors('presets that have a gate or delta', () => {
  for (const [name, given] of [
    ['retention', { q, k, v }],
    ['simpleGla', { q, k, v, g }],
    ['deltaNet', { q, k, v, beta }],
  ] as const) {
    throwsWith(
      () => native[`${name}Sync`](given, options),
      Error,
      new RegExp(`^\\[${name}\\] normalize: `),
    );
  }
});

errors('dFinalZ without normalize, and of another shape', () => {
  const run = (given: object, call: object, kind: any): void =>
    throwsWith(
      () => native.recurrenceBackwardSync({ q, k, v, dO, ...given }, call),
      kind,
      /^\[recurrenceBackward\] dFinalZ: /,
    );
  run({ dFinalZ }, {}, TypeError);
  run({ dFinalZ: zeros(2, 2, 17) }, options, RangeError);
});

errors('a state without z, or with too few heads of it', () => {
  const run = (change: object): void => {
    const state = createState({ ...dimensions, ...change } as any);
    const pattern = /^\[recurrence\] state: .*(keyHeads|z)/;
    throwsWith(() => native.recurrenceSync({ q, k, v, state }, options), Error, pattern);
    state.dispose();
  };
  run({ keyHeads: undefined });
  run({ keyHeads: 1 });
  run({ keyHeads: 4 });
});

errors('initialZ beside a state', () => {
  const state = makeState();
  throwsWith(
    () => native.recurrenceSync({ q, k, v, state, initialZ: zeros(2, 2, 18) }, options),
    TypeError,
    /^\[recurrence\] initialZ: /,
  );
});

errors('keyHeads that no state has', () => {
  for (const keyHeads of [0, -1, 1.5, 3, NaN]) {
    throwsWith(
      () => createState({ ...dimensions, keyHeads } as any),
      RangeError,
      /^\[createState\] keyHeads: /,
    );
  }
  throwsWith(() => createState({ ...dimensions, keyHeads: '2' } as any), TypeError, /keyHeads: /);
});

errors('z of another shape for a state', () => {
  const state = makeState();
  const copy =
    (z: any): (() => void) =>
    () =>
      state.copyFrom(inputs.initialState, z);
  throwsWith(copy(zeros(2, 4, 18)), RangeError, /^\[RecurrentState.copyFrom\] z: /);
  throwsWith(copy(null), TypeError, /^\[RecurrentState.copyFrom\] z: /);
  expectSame('z', state.zToTensor(), inputs.initialZ!);
  expectSame('state', state.toTensor(), inputs.initialState!);
});

errors.run();
