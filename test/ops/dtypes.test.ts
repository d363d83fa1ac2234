/** bf16 and f16 on the grid: every cell and form against the float64 reference, rounding, mixtures. */

import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { createState, info } from '../../ts/index';
import * as reference from '../reference/presets.ts';
import { forward } from '../reference/recurrence.ts';
import { everything, expectSame, expectSameBits, sameForThreads } from '../support/bits.ts';
import type { Problem, ProblemSpec } from '../support/cases.ts';
import { makeProblem } from '../support/cases.ts';
import { contract, expectWithin, layouts, rowFor } from '../support/compare.ts';
import type { FloatDtype, HalfDtype } from '../support/half.ts';
import { decode, encode, fromBits, halfDtypes, round, toBits, unwritten } from '../support/half.ts';
import type { AnyTensor, Cell } from '../support/native.ts';
import {
  cells,
  checkProblem,
  compare,
  FEW_FORMS,
  inDtype,
  nameOf,
  native,
  pick,
} from '../support/native.ts';
import fc from '../support/property.ts';
import { Random } from '../support/random.ts';
import { join, tokensOf } from '../support/slices.ts';
import type { Tensor32 } from '../support/tensor.ts';
import { sizeOf } from '../support/tensor.ts';
import { rejectsWith, throwsWith } from './helpers.ts';

const states = { withInitialState: true, withFinalStateGradient: true };

/** g and beta as float32 beside half inputs, and in their dtype, where the cell has any. */
function gateDtypes({ gate, update }: Cell): boolean[] {
  return gate === 'none' && update === 'additive' ? [false] : [false, true];
}

const listed = suite('dtypes: every cell, forward, backward and in place');

const SHAPES: Omit<ProblemSpec, keyof Cell>[] = [
  { B: 2, T: 45, H: 2, HV: 4, K: 17, V: 23, ...states },
  { B: 1, T: 70, H: 1, K: 33, V: 65, betaMax: 2, gateScale: 2 },
  { B: 1, T: 1, H: 1, HV: 3, K: 24, V: 40, ...states },
];

cells.forEach((cell, index) => {
  for (const dtype of halfDtypes) {
    for (const halfGates of gateDtypes(cell)) {
      listed(`${nameOf(cell)}, ${dtype}${halfGates ? ', gates too' : ''}`, () => {
        for (const shape of SHAPES) {
          const spec = { seed: 100 + index, ...shape, ...cell };
          checkProblem(spec, { dtype, halfGates, cancels: true, forms: FEW_FORMS });
        }
      });
    }
  }
});

listed.run();

const drawn = suite('dtypes: drawn shapes');

// A row of few elements can be off by more than the average rounding that the contract's rows are.
const shapes = fc.record({
  cell: fc.constantFrom(...cells),
  T: fc.integer({ min: 6, max: 90 }),
  K: fc.integer({ min: 1, max: 130 }),
  V: fc.integer({ min: 12, max: 130 }),
  H: fc.integer({ min: 1, max: 3 }),
  perKeyHead: fc.constantFrom(1, 1, 2, 3),
  B: fc.integer({ min: 1, max: 2 }),
  betaMax: fc.constantFrom(1, 2),
  gateScale: fc.constantFrom(1 / 64, 1 / 16, 1),
  withInitialState: fc.boolean(),
  withFinalStateGradient: fc.boolean(),
  seed: fc.integer({ min: 1, max: 1 << 30 }),
  halfGates: fc.boolean(),
});

halfDtypes.forEach((dtype, index) => {
  drawn(dtype, () => {
    const property = fc.property(shapes, ({ cell, perKeyHead, halfGates, ...shape }) => {
      const [HV, K] = [shape.H * perKeyHead, Math.max(shape.K, 2 * cell.n)];
      const perToken = shape.B * HV * cell.n * K * shape.V;
      const T = Math.max(6, Math.min(shape.T, Math.floor(200_000 / perToken)));
      const spec = { ...shape, ...cell, HV, K, T };
      checkProblem(spec, { dtype, halfGates, cancels: true, forms: FEW_FORMS });
    });
    const options = { seed: 2000 + index, numRuns: 30, endOnFailure: true };
    const { errorInstance } = fc.check(property, options);
    if (errorInstance) throw errorInstance;
  });
});

drawn.run();

const decoding = suite('dtypes: prefill, then decode in place');

for (const cell of cells) {
  for (const dtype of halfDtypes) {
    decoding(`${nameOf(cell)}, ${dtype}`, () => {
      const [T, prefill, n] = [40, 19, cell.n];
      const spec: ProblemSpec = { B: 2, T, H: 1, HV: 2, K: 20, V: 37, seed: 5, ...cell };
      const made = makeProblem({ ...spec, withInitialState: true });
      const { given, seen } = inDtype(made, { dtype, halfGates: true });
      const options = { numHouseholder: n };
      const state = createState({ batch: 2, valueHeads: 2, keyDim: 20, valueDim: 37 });
      state.copyFrom(made.initialState!);
      const outputs: Tensor32[] = [];
      for (let t = 0, to = prefill; t < T; t = to, to++) {
        // What is representable stays so: the tokens are encoded once more without a change.
        const part = inDtype(tokensOf(seen, t, to, n), { dtype, halfGates: true }).given;
        outputs.push(decode(native.recurrenceSync({ ...part, state }, options).o));
      }
      const whole = forward(seen, options);
      const decoded = join(outputs, 1);
      expectWithin('o', decoded.data, whole.o.data, whole.o.shape, rowFor('o', T, dtype));
      const { data, shape } = state.toTensor();
      expectWithin('state', data, whole.finalState.data, shape, rowFor('finalState', T));
      const { dO: _dO, ...inputs } = given;
      const atOnce = decode(native.recurrenceSync(inputs, options).o);
      expectNear('split = whole', decoded, atOnce, 2e-4);
      state.dispose();
    });
  }
}

function expectNear(label: string, a: Tensor32, b: Tensor32, limit: number): void {
  const norm = Math.hypot(...b.data);
  const error = Math.hypot(...a.data.map((x, i) => x - b.data[i])) / norm;
  assert.ok(error <= limit, `${label}: off by ${error}`);
}

decoding.run();

const presets = suite('dtypes: presets with arguments of their own');

for (const dtype of halfDtypes) {
  for (const others of ['f32', dtype] as const) {
    presets(`mamba2, ${dtype}, dt in ${others}`, () => checkMamba2(dtype, others));
    presets(`hgrn2, ${dtype}, g in ${others}`, () => checkHgrn2(dtype, others));
  }
  presets(`retention and lightningAttention, ${dtype}`, () => {
    const spec: ProblemSpec = { B: 1, T: 40, H: 2, K: 16, V: 24, gate: 'none', update: 'additive' };
    const { given, seen } = inDtype(makeProblem({ ...spec, ...states }), { dtype });
    for (const [name, options] of [
      ['retention', {}],
      ['lightningAttention', { layer: 3, layers: 12 }],
    ] as const) {
      checkPreset(name, given, seen as never, options, dtype);
    }
  });
}

presets.run();

/** A preset of the grid against its reference, all results by the rows of the dtype. */
function checkPreset(
  name: string,
  given: Record<string, AnyTensor>,
  seen: object,
  options: object,
  dtype: HalfDtype,
): void {
  const oracle = (reference as any)[name];
  const expected = { ...oracle.forward(seen, options), ...oracle.backward(seen, options) };
  const { dO: _dO, dFinalState: _dState, ...inputs } = given;
  const check = (results: object, names: string[]): void => {
    const T = given.q.shape[1];
    for (const [key, x] of Object.entries(pick(results, names))) {
      compare(`${name}: ${key}`, key, x, expected, T, { dtype });
    }
  };
  for (const mode of ['recurrent', 'chunk', 'auto']) {
    const call = { ...options, mode, outputFinalState: true };
    const results = native[`${name}Sync`](inputs, call);
    assert.is(results.o.dtype, dtype);
    check(results, ['o', 'finalState']);
  }
  const keys = Object.keys(inputs).map((key) => `d${key[0].toUpperCase()}${key.slice(1)}`);
  const names = keys.map((key) =>
    key === 'dInitialState' ? key : `d${key.slice(1).toLowerCase()}`,
  );
  check(native[`${name}BackwardSync`](given, options), names);
}

function checkHgrn2(dtype: HalfDtype, gate: FloatDtype): void {
  const shape = { B: 2, T: 40, H: 2, K: 17, V: 23, seed: 32, gateScale: 1, ...states };
  const { k: _k, ...rest } = makeProblem({ ...shape, gate: 'channel', update: 'additive' });
  const { given, seen } = inDtype(rest, { dtype, halfGates: gate !== 'f32' });
  checkPreset('hgrn2', given, seen, {}, dtype);
}

function checkMamba2(dtype: HalfDtype, ofDt: FloatDtype): void {
  const [B, T, HV, groups, N, P] = [2, 40, 4, 2, 19, 22];
  const random = new Random(71);
  const normal = (...shape: number[]): Tensor32 => {
    return { data: random.normals(sizeOf(shape)), shape };
  };
  const dtypes: Record<string, FloatDtype> = { x: dtype, B: dtype, C: dtype, dY: dtype, dt: ofDt };
  const made: Record<string, Tensor32> = {
    x: normal(B, T, HV, P),
    dt: normal(B, T, HV),
    A: { data: random.uniforms(HV, -2, -0.1), shape: [HV] },
    B: normal(B, T, groups, N),
    C: normal(B, T, groups, N),
    D: normal(HV),
    dtBias: normal(HV),
    initialState: normal(B, HV, N, P),
    dY: normal(B, T, HV, P),
    dFinalState: normal(B, HV, N, P),
  };
  const given = Object.fromEntries(
    Object.entries(made).map(([name, x]) => [name, encode(dtypes[name] ?? 'f32', x)]),
  );
  const seen: any = Object.fromEntries(Object.entries(given).map(([name, x]) => [name, decode(x)]));
  const options = { dtSoftplus: true };
  const { y, finalState } = reference.mamba2(seen, options);
  const { dY: _dY, dFinalState: _dState, ...inputs } = given;
  const limits = contract[dtype];
  for (const mode of ['recurrent', 'chunk', 'auto']) {
    const call = { ...options, mode, outputFinalState: true };
    const results = native.mamba2Sync(inputs, call);
    assert.is(results.y.dtype, dtype);
    const row = { limit: limits.o[0][1], layout: layouts.tokens };
    expectWithin(`y, ${mode}`, decode(results.y).data, y.data, y.shape, row);
    const ofState = rowFor('finalState', T);
    const { data } = results.finalState;
    expectWithin(`state, ${mode}`, data, finalState.data, finalState.shape, ofState);
  }
  const expected = Object.entries(reference.mamba2Backward(seen, options));
  const gradients = native.mamba2BackwardSync(given, options);
  const rounded = native.mamba2BackwardSync(given, { ...options, gradDtype: 'input' });
  assert.equal(Object.keys(gradients).sort(), expected.map(([name]) => name).sort());
  for (const [name, { data, shape }] of expected) {
    assert.is(gradients[name].dtype, 'f32', name);
    const isState = name === 'dInitialState';
    const layout = isState ? layouts.state : shape.length === 1 ? layouts.heads : layouts.tokens;
    const limit = ['ddt', 'dA', 'dD', 'dDtBias'].includes(name) ? limits.gate : limits.state;
    expectWithin(name, gradients[name].data, data, shape, { limit, layout });
    const argument = name === 'dDtBias' || isState ? '' : name.slice(1);
    const own = encode(dtypes[argument] ?? 'f32', gradients[name]);
    expectSame(`${name}, gradDtype 'input'`, rounded[name], own);
  }
}

const exact = suite('dtypes: rounding, to the bit');

/** Every bit pattern as a value of one token: o = q v where k is 1 and the scale is 1. */
function allPatterns(dtype: HalfDtype, q: number) {
  const data = Uint16Array.from({ length: 2 ** 16 }, (_, i) => i);
  const row = (x: number): AnyTensor => {
    return encode(dtype, { data: new Float32Array(128).fill(x), shape: [128, 1, 1, 1] });
  };
  return { q: row(q), k: row(1), v: { data, shape: [128, 1, 1, 512], dtype } };
}

function values(dtype: HalfDtype, bits: Uint16Array): Float64Array {
  return Float64Array.from(bits, (x) => fromBits(dtype, x));
}

/** The same numbers; zeros of either sign. */
function expectValues(
  label: string,
  actual: ArrayLike<number>,
  expected: Float64Array,
  given: Float64Array,
): void {
  const at = expected.findIndex(
    (x, i) => x !== actual[i] && !(Number.isNaN(x) && Number.isNaN(actual[i])),
  );
  const message = `${label} ${given[at]}: expected ${expected[at]}, got ${actual[at]}`;
  assert.is(at, -1, message);
}

for (const dtype of halfDtypes) {
  for (const mode of ['recurrent', 'chunk', 'auto']) {
    exact(`${dtype}, ${mode}: every number comes through`, () => {
      const inputs = allPatterns(dtype, 1);
      const options = { mode, scale: 1, outputFinalState: true };
      const { o, finalState } = native.recurrenceSync(inputs, options);
      const given = values(dtype, inputs.v.data);
      // The state starts with +0, which a -0 does not change.
      const expected = given.map((x) => x + 0);
      expectValues('state', finalState.data, expected, given);
      expectValues('o', values(dtype, o.data), expected, given);
    });

    // 1.5 makes ties of odd mantissas; 0.01 makes subnormals and 1e4 infinities.
    for (const factor of [1.5, 0.01, 1e4]) {
      exact(`${dtype}, ${mode}: ${factor} times every number is rounded to nearest even`, () => {
        const inputs = allPatterns(dtype, factor);
        const { o } = native.recurrenceSync(inputs, { mode, scale: 1 });
        const q = round(dtype, factor);
        const given = values(dtype, inputs.v.data);
        const expected = given.map((x) => round(dtype, Math.fround(q * x)));
        expectValues(`${q} times`, values(dtype, o.data), expected, given);
      });
    }
  }

  exact(`${dtype}: NaN and infinities reach what depends on them`, () => {
    const spec: ProblemSpec = { B: 1, T: 20, H: 1, K: 9, V: 37, gate: 'token', update: 'delta' };
    const { given } = inDtype(makeProblem(spec), { dtype, halfGates: true });
    const { dO: _dO, ...inputs } = given as Record<string, { data: Uint16Array; shape: number[] }>;
    const clean = native.recurrenceSync(inputs, { mode: 'recurrent' }).o.data;
    for (const value of [NaN, Infinity]) {
      const data = inputs.v.data.slice();
      data[7 * 37 + 5] = toBits(dtype, value);
      const call = { ...inputs, v: { ...inputs.v, data } };
      const o = native.recurrenceSync(call, { mode: 'recurrent' }).o.data as Uint16Array;
      o.forEach((bits, i) => {
        const depends = i >= 7 * 37 && i % 37 === 5;
        if (depends) assert.not.ok(Number.isFinite(fromBits(dtype, bits)), `element ${i}`);
        else assert.is(bits, clean[i], `element ${i}`);
      });
    }
  });
}

exact('f16: a result beyond the largest is Infinity, and the state is not', () => {
  for (const mode of ['recurrent', 'chunk']) {
    const ones = encode('f16', { data: [1, 1], shape: [1, 2, 1, 1] });
    const v = encode('f16', { data: [60000, -60000, 5516, -5600], shape: [1, 2, 1, 2] });
    const { o, finalState } = native.recurrenceSync(
      { q: ones, k: ones, v },
      { mode, scale: 1, outputFinalState: true },
    );
    const values = [...o.data].map((bits) => fromBits('f16', bits));
    assert.equal(values, [60000, -60000, 65504, -Infinity], mode);
    assert.equal([...finalState.data], [65516, -65600], mode);
  }
});

for (const dtype of halfDtypes) {
  for (const cell of cells.filter(({ gate, n }) => gate !== 'none' && n < 3)) {
    exact(`${dtype}, ${nameOf(cell)}: gates that reset`, () => {
      const spec: ProblemSpec = { B: 1, T: 30, H: 1, HV: 2, K: 9, V: 21, seed: 140, ...cell };
      const random = new Random(141);
      const edit = ({ g }: Problem): void => {
        g!.data.forEach((_, i) => {
          if (random.uniform() < 0.2) g!.data[i] = [-104.5, -300, -Infinity][random.integer(3)];
        });
      };
      checkProblem({ ...spec, ...states }, { dtype, halfGates: true, edit, forms: FEW_FORMS });
    });
  }
}

exact.run();

const mixtures = suite('dtypes: arguments that do not fit');

const good = inDtype(
  makeProblem({ B: 1, T: 6, H: 2, K: 8, V: 4, gate: 'token', update: 'delta', ...states }),
  { dtype: 'bf16' },
);
const { dO, dFinalState, ...inputs } = good.given;

function as(dtype: FloatDtype, name: string): AnyTensor {
  return encode(dtype, (good.seen as any)[name]);
}

const forwards: [string, object, object, RegExp][] = [
  ['k in f32', { k: as('f32', 'k') }, {}, /^\[recurrence\] k: expected dtype bf16.*got f32/],
  ['k in f16', { k: as('f16', 'k') }, {}, /^\[recurrence\] k: expected dtype bf16.*got f16/],
  ['v in f32', { v: as('f32', 'v') }, {}, /^\[recurrence\] v: expected dtype bf16.*got f32/],
  ['q in f32', { q: as('f32', 'q') }, {}, /^\[recurrence\] k: expected dtype f32.*got bf16/],
  ['g in f16', { g: as('f16', 'g') }, {}, /^\[recurrence\] g: expected dtype bf16.*f32.*got f16/],
  ['beta in f16', { beta: as('f16', 'beta') }, {}, /beta: expected dtype bf16.*f32.*got f16/],
  [
    'initialState in bf16',
    { initialState: as('bf16', 'initialState') },
    {},
    /initialState: expected dtype f32, got bf16/,
  ],
  [
    'o in f32',
    {},
    { out: { o: unwritten('f32', [1, 6, 2, 4]) } },
    /out\.o: expected dtype bf16.*got f32/,
  ],
  [
    'o in f16',
    {},
    { out: { o: unwritten('f16', [1, 6, 2, 4]) } },
    /out\.o: expected dtype bf16.*got f16/,
  ],
  [
    'finalState in bf16',
    {},
    { outputFinalState: true, out: { finalState: unwritten('bf16', [1, 2, 8, 4]) } },
    /out\.finalState: expected dtype f32.*got bf16/,
  ],
  [
    'a Uint16Array without a dtype',
    { q: { data: inputs.q.data, shape: inputs.q.shape } },
    {},
    /q: expected dtype 'bf16' or 'f16' beside a Uint16Array, got none/,
  ],
];

for (const [name, change, options, pattern] of forwards) {
  mixtures(name, async () => {
    const call = { ...inputs, ...change };
    throwsWith(() => native.recurrenceSync(call, options), TypeError, pattern);
    await rejectsWith(() => native.recurrence(call, options), TypeError, pattern);
  });
}

mixtures('of a backward', () => {
  const run = (change: object, options: object, pattern: RegExp): void => {
    const call = { ...inputs, dO, dFinalState, ...change };
    throwsWith(() => native.recurrenceBackwardSync(call, options), TypeError, pattern);
  };
  run({ dO: as('f32', 'dO') }, {}, /^\[recurrenceBackward\] dO: expected dtype bf16.*got f32/);
  run({ dFinalState: as('bf16', 'dFinalState') }, {}, /dFinalState: expected dtype f32, got bf16/);
  const shape = inputs.q.shape as number[];
  const half = { out: { dq: unwritten('bf16', shape) } };
  run({}, half, /out\.dq: expected dtype f32.*got bf16/);
  const full = { gradDtype: 'input', out: { dq: unwritten('f32', shape) } };
  run({}, full, /out\.dq: expected dtype bf16.*got f32/);
  const call = { ...inputs, dO, dFinalState };
  const { dq, dg } = native.recurrenceBackwardSync(call, { ...half, gradDtype: 'input' });
  assert.is(dq, half.out.dq);
  assert.is(dg.dtype, 'f32');
  expectSame('dq', dq, encode('bf16', native.recurrenceBackwardSync(call).dq));
});

mixtures('inputs changed after an asynchronous call, and out on an input', async () => {
  const { given } = inDtype(good.seen, { dtype: 'bf16', halfGates: true });
  const copies = Object.entries(given).map(([name, x]) => [name, { ...x, data: x.data.slice() }]);
  const { dO: _dO, dFinalState: _dState, ...own } = Object.fromEntries(copies);
  const expected = native.recurrenceSync(own);
  const pending = native.recurrence(own);
  for (const { data } of Object.values(own) as AnyTensor[]) data.fill(0xffff);
  expectSame('o', (await pending).o, expected.o);
  throwsWith(
    () => native.recurrenceSync(inputs, { out: { o: inputs.v } }),
    RangeError,
    /^\[recurrence\] out\.o: .*shared with v/,
  );
});

mixtures('in shared memory', () => {
  const shared = Object.entries(inputs).map(([name, x]) => {
    const Type = x.data.constructor as Uint16ArrayConstructor;
    const data = new Type(new SharedArrayBuffer(x.data.byteLength));
    data.set(x.data);
    return [name, { ...x, data }];
  });
  const { o } = native.recurrenceSync(Object.fromEntries(shared));
  expectSame('o', o, native.recurrenceSync(inputs).o);
});

const Float16Array = (globalThis as any).Float16Array;
const withFloat16 = Float16Array ? mixtures : mixtures.skip;

withFloat16('Float16Array in, Float16Array out', () => {
  const { given } = inDtype(good.seen, { dtype: 'f16' });
  const { dO: _dO, dFinalState: _dState, ...bits } = given;
  const call = Object.fromEntries(
    Object.entries(bits).map(([name, x]) => {
      if (x.dtype !== 'f16') return [name, x];
      const { buffer, byteOffset, length } = x.data;
      return [name, { data: new Float16Array(buffer, byteOffset, length), shape: x.shape }];
    }),
  );
  const expected = native.recurrenceSync(bits).o;
  const { o } = native.recurrenceSync(call);
  assert.instance(o.data, Float16Array);
  assert.is(o.dtype, 'f16');
  const raw = new Uint16Array(o.data.buffer, o.data.byteOffset, o.data.length);
  expectSame('o', { ...o, data: raw }, expected);
});

mixtures.run();

const arithmetic = suite("dtypes: compute 'bf16'");

const dimensions = { B: 1, T: 70, H: 2, HV: 4, K: 48, V: 40, ...states };

if (info().isa === 'avx512bf16') {
  cells.forEach((cell, index) => {
    for (const dtype of ['f32', 'bf16'] as const) {
      arithmetic(`${nameOf(cell)}, ${dtype}`, () => {
        for (const betaMax of cell.update === 'delta' ? [1, 2] : [1]) {
          const spec: ProblemSpec = { ...dimensions, ...cell, betaMax, seed: 130 + index };
          const row = betaMax > 1 ? 'bf16 compute, beta to 2' : 'bf16 compute';
          checkProblem(spec, { dtype, row, cancels: true, engine: { compute: 'bf16' } });
        }
      });
    }
  });

  arithmetic('is not that of f32', () => {
    const spec = { B: 1, T: 256, H: 1, K: 64, V: 64, gate: 'token', update: 'additive' } as const;
    const { dO: _dO, ...forwardInputs } = makeProblem(spec);
    const run = (compute: string) => {
      return native.recurrenceSync(forwardInputs, { mode: 'chunk', compute }).o
        .data as Float32Array;
    };
    const [half, full] = [run('bf16'), run('f32')];
    assert.ok(half.some((x, i) => Math.abs(x - full[i]) > 1e-5 * Math.abs(full[i])));
  });
} else {
  arithmetic('is refused without its dot product', () => {
    const spec: ProblemSpec = { ...dimensions, gate: 'token', update: 'delta' };
    for (const dtype of ['f32', 'bf16'] as const) {
      const { given } = inDtype(makeProblem(spec), { dtype });
      const { dO: _dO, dFinalState: _dState, ...forwardInputs } = given;
      const pattern = /compute: expected 'f32'.*got 'bf16'/;
      const options = { compute: 'bf16' };
      throwsWith(() => native.recurrenceSync(forwardInputs, options), RangeError, pattern);
      throwsWith(() => native.recurrenceBackwardSync(given, options), RangeError, pattern);
    }
  });
}

arithmetic.run();

const bits = suite('dtypes: the same bits');

for (const cell of cells) {
  bits(`${nameOf(cell)}: any number of threads, async`, async () => {
    for (const dtype of halfDtypes) {
      const spec: ProblemSpec = {
        B: 2,
        T: 35,
        H: 2,
        HV: 4,
        K: 24,
        V: 70,
        seed: 9,
        ...states,
        ...cell,
      };
      const { given } = inDtype(makeProblem(spec), { dtype, halfGates: true });
      const options = { numHouseholder: cell.n };
      sameForThreads(dtype, () => everything(given, options));
      const { dO: _dO, dFinalState: _dState, ...forwardInputs } = given;
      const whole = { ...options, outputFinalState: true };
      const expected = native.recurrenceSync(forwardInputs, whole);
      expectSameBits(dtype, await native.recurrence(forwardInputs, whole), expected);
      const gradients = native.recurrenceBackwardSync(given, options);
      expectSameBits(dtype, await native.recurrenceBackward(given, options), gradients);
    }
  });
}

bits.run();
