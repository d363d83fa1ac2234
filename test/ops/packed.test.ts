/** cuSeqlens: packed sequences are separate calls, to the bit, whatever they are packed with. */

import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { createState } from '../../ts/index';
import * as reference from '../reference/presets.ts';
import { backward } from '../reference/recurrence.ts';
import type { Named } from '../support/bits.ts';
import { everything, expectSame, expectSameBits, sameForThreads } from '../support/bits.ts';
import type { Problem, ProblemSpec } from '../support/cases.ts';
import { makeProblem } from '../support/cases.ts';
import { contract, expectWithin, layouts, rowFor } from '../support/compare.ts';
import { decode } from '../support/half.ts';
import type { AnyTensor } from '../support/native.ts';
import {
  cells,
  checkProblem,
  compare,
  FEW_FORMS,
  inDtype,
  nameOf,
  native,
} from '../support/native.ts';
import fc from '../support/property.ts';
import { Random } from '../support/random.ts';
import { sequenceOf, slice } from '../support/slices.ts';
import type { Tensor32 } from '../support/tensor.ts';
import { sizeOf } from '../support/tensor.ts';
import { rejectsWith, throwsWith } from './helpers.ts';

const states = { withInitialState: true, withFinalStateGradient: true };

/** Boundaries of sequences of the lengths. */
function boundaries(lengths: readonly number[]): number[] {
  const bounds = [0];
  for (const length of lengths) bounds.push(bounds[bounds.length - 1] + length);
  return bounds;
}

const STATES = ['finalState', 'finalZ', 'dInitialState', 'dInitialZ'];

/** The rows of a packed result, by name and form, that belong to one sequence. */
function ownRows(all: Named, bounds: readonly number[], index: number, n: number): Named {
  const rows = Object.entries(all).map(([label, x]) => {
    const name = label.split(',')[0];
    const tensor = decode(x);
    if (STATES.includes(name)) return [label, slice(tensor, 0, index, index + 1)];
    const steps = ['dk', 'dv', 'dbeta'].includes(name) ? n : 1;
    return [label, slice(tensor, 1, bounds[index] * steps, bounds[index + 1] * steps)];
  });
  return Object.fromEntries(rows);
}

function without(all: Named, hidden: (name: string) => boolean): Named {
  return Object.fromEntries(Object.entries(all).filter(([label]) => !hidden(label.split(',')[0])));
}

function decoded(all: Named): Named {
  return Object.fromEntries(Object.entries(all).map(([name, x]) => [name, decode(x)]));
}

/** Packed against each sequence alone; a head's gate has one gradient for all of them. */
function checkSeparate(
  { spec, lengths }: { spec: Omit<ProblemSpec, 'B' | 'T' | 'N'>; lengths: readonly number[] },
  { options = {}, dtype }: { options?: object; dtype?: 'bf16' | 'f16' } = {},
): void {
  const [bounds, n] = [boundaries(lengths), spec.n ?? 1];
  const problem = makeProblem({ ...spec, B: 1, T: bounds[lengths.length], N: lengths.length });
  const call = { numHouseholder: n, ...options };
  const run = (part: Problem, extra: object): Named => {
    return everything(inDtype(part, { dtype, halfGates: true }).given, { ...call, ...extra });
  };
  const packed = run(problem, { cuSeqlens: Int32Array.from(bounds) });
  const shared = (name: string): boolean => name === 'dg' && spec.gate === 'head';
  const own = without(packed, shared);
  for (let s = 0; s < lengths.length; s++) {
    const alone = without(run(sequenceOf(problem, bounds, s, n), {}), shared);
    expectSameBits(`lengths ${lengths}, sequence ${s}`, ownRows(own, bounds, s, n), decoded(alone));
  }
}

const separate = suite('packed = separate');

const LENGTHS = [
  [5, 0, 17, 1, 33],
  [0, 0, 40, 3],
  [16, 32, 7, 0],
  [64, 65, 63],
  [0, 0, 0],
  [0],
  [37],
];

for (const cell of cells) {
  separate(nameOf(cell), () => {
    const spec = { H: 1, HV: 2, K: 18, V: 21, seed: 11, ...states, ...cell };
    for (const lengths of LENGTHS) checkSeparate({ spec, lengths });
    // Several blocks of V.
    checkSeparate({ spec: { ...spec, V: 70 }, lengths: [20, 3] });
    checkSeparate({ spec: { ...spec, withInitialState: false }, lengths: [9, 0, 30] });
  });
}

const drawn = fc.record({
  cell: fc.constantFrom(...cells),
  lengths: fc.array(fc.oneof(fc.constant(0), fc.integer({ min: 1, max: 80 })), {
    minLength: 1,
    maxLength: 7,
  }),
  H: fc.integer({ min: 1, max: 2 }),
  perKeyHead: fc.integer({ min: 1, max: 3 }),
  K: fc.integer({ min: 1, max: 70 }),
  V: fc.integer({ min: 1, max: 70 }),
  dtype: fc.constantFrom(undefined, undefined, 'bf16' as const, 'f16' as const),
  withInitialState: fc.boolean(),
  withFinalStateGradient: fc.boolean(),
  seed: fc.integer({ min: 1, max: 1 << 30 }),
});

separate('drawn lengths and shapes', () => {
  const property = fc.property(drawn, ({ cell, lengths, H, perKeyHead, dtype, ...shape }) => {
    const spec = { ...shape, ...cell, H, HV: H * perKeyHead };
    checkSeparate({ spec, lengths }, { dtype });
  });
  fc.assert(property, { seed: 3000, numRuns: 60 });
});

separate('with activations and a normalizer', () => {
  const lengths = [7, 0, 40, 1];
  const spec = { H: 2, HV: 4, K: 18, V: 21, seed: 12, ...states };
  const gate = { aLog: { data: Float32Array.of(0, -1, 0.5, -2), shape: [4] }, lowerBound: -4 };
  const delta = { ...spec, update: 'delta' } as const;
  const options = { qkL2norm: true, betaActivation: 'sigmoid2', gate };
  // Gradients of the gate's own parameters are sums over the sequences.
  const only = (gateKind: 'token' | 'channel'): void => {
    const bounds = boundaries(lengths);
    const problem = makeProblem({ ...delta, gate: gateKind, B: 1, T: 48, N: 4 });
    const cuSeqlens = Int32Array.from(bounds);
    const own = without(everything({ ...problem }, { ...options, cuSeqlens }), isSum);
    for (let s = 0; s < 4; s++) {
      const alone = without(everything({ ...sequenceOf(problem, bounds, s) }, options), isSum);
      expectSameBits(`${gateKind}, sequence ${s}`, ownRows(own, bounds, s, 1), alone);
    }
  };
  only('token');
  only('channel');
  const additive = { ...spec, gate: 'none', update: 'additive', normalize: true } as const;
  checkSeparate({ spec: additive, lengths }, { options: { normalize: true, qkL2norm: true } });
});

function isSum(name: string): boolean {
  return name === 'dALog' || name === 'dDtBias';
}

separate.run();

const oracle = suite('packed: against float64');

cells.forEach((cell, index) => {
  oracle(nameOf(cell), () => {
    for (const lengths of [
      [9, 0, 24, 1],
      [0, 70],
    ]) {
      const cuSeqlens = boundaries(lengths);
      const [T, N] = [cuSeqlens[lengths.length], lengths.length];
      const shape = { B: 1, T, N, H: 2, HV: 4, K: 17, V: 20, seed: 60 + index };
      const options = { cuSeqlens: Int32Array.from(cuSeqlens) };
      checkProblem({ ...shape, ...states, ...cell }, { options, forms: FEW_FORMS, cancels: true });
    }
  });
});

oracle("the gradient of a head's gate is summed over the sequences", () => {
  const [bounds, T] = [[0, 12, 12, 30], 30];
  const spec: ProblemSpec = {
    B: 1,
    T,
    N: 3,
    H: 1,
    HV: 2,
    K: 16,
    V: 8,
    gate: 'head',
    update: 'delta',
  };
  const problem = makeProblem({ ...spec, ...states });
  const { dg } = native.recurrenceBackwardSync(problem, { cuSeqlens: Int32Array.from(bounds) });
  const sum = new Float64Array(2);
  for (const s of [0, 1, 2]) {
    const { dg: own } = backward(sequenceOf(problem, bounds, s));
    own!.data.forEach((x, h) => {
      sum[h] += x;
    });
  }
  expectWithin('dg', dg.data, sum, [2], rowFor('dg', T));
});

oracle.run();

const presets = suite('packed: presets');

presets('hgrn2, retention, lightningAttention and gatedDeltaProduct', () => {
  const lengths = [13, 0, 20, 2];
  const cuSeqlens = Int32Array.from(boundaries(lengths));
  const shape = { B: 1, T: 35, N: 4, H: 2, K: 12, V: 10, seed: 21, ...states };
  const [T, names] = [35, { forward: ['o', 'finalState'] }];
  const runs: [string, Problem, object][] = [
    ['retention', makeProblem({ ...shape, HV: 4, gate: 'none', update: 'additive' }), {}],
    [
      'lightningAttention',
      makeProblem({ ...shape, gate: 'none', update: 'additive' }),
      { layer: 2, layers: 8 },
    ],
    ['hgrn2', makeProblem({ ...shape, gate: 'channel', update: 'additive', gateScale: 1 }), {}],
    [
      'gatedDeltaProduct',
      makeProblem({ ...shape, gate: 'token', update: 'delta', n: 2 }),
      { numHouseholder: 2 },
    ],
  ];
  for (const [name, problem, options] of runs) {
    const given: Partial<Problem> = { ...problem };
    if (name === 'hgrn2') delete given.k;
    const call = { ...options, cuSeqlens };
    const expected = {
      ...(reference as any)[name].forward(given, call),
      ...(reference as any)[name].backward(given, call),
    };
    const { dO: _dO, dFinalState: _dState, ...inputs } = given;
    for (const mode of ['recurrent', 'chunk']) {
      const results = native[`${name}Sync`](inputs, { ...call, mode, outputFinalState: true });
      for (const key of names.forward) {
        compare(`${name}: ${key}`, key, results[key], expected, T, { cuSeqlens });
      }
    }
    const gradients = native[`${name}BackwardSync`](given, call);
    for (const [key, x] of Object.entries(gradients as Named)) {
      compare(`${name}: ${key}`, key, x, expected, T, { cuSeqlens });
    }
    assert.ok(Object.keys(gradients).length >= 4, name);
  }
});

presets('mamba2', () => {
  const [T, HV, groups, N, P] = [35, 4, 2, 9, 12];
  const cuSeqlens = Int32Array.of(0, 13, 13, 33, 35);
  const random = new Random(23);
  const normal = (...shape: number[]): Tensor32 => {
    return { data: random.normals(sizeOf(shape)), shape };
  };
  const inputs = {
    x: normal(1, T, HV, P),
    dt: normal(1, T, HV),
    A: { data: Float32Array.of(-1, -0.2, -0.6, -2), shape: [HV] },
    B: normal(1, T, groups, N),
    C: normal(1, T, groups, N),
    D: normal(HV),
    dtBias: normal(HV),
    initialState: normal(4, HV, N, P),
  };
  const gradients = { ...inputs, dY: normal(1, T, HV, P), dFinalState: normal(4, HV, N, P) };
  const options = { dtSoftplus: true, cuSeqlens };
  const { y, finalState } = reference.mamba2(inputs, options);
  for (const mode of ['recurrent', 'chunk', 'auto']) {
    const results = native.mamba2Sync(inputs, { ...options, mode, outputFinalState: true });
    const row = { limit: contract.f32.o[0][1], layout: layouts.tokens };
    expectWithin(`y, ${mode}`, results.y.data, y.data, y.shape, row, { cuSeqlens });
    const { data } = results.finalState;
    expectWithin('state', data, finalState.data, finalState.shape, rowFor('finalState', T));
  }
  const actual = native.mamba2BackwardSync(gradients, options);
  for (const [name, { data, shape }] of Object.entries(
    reference.mamba2Backward(gradients, options),
  )) {
    const isState = name === 'dInitialState';
    const layout = isState ? layouts.state : shape.length === 1 ? layouts.heads : layouts.tokens;
    const { gate, state } = contract.f32;
    const limit = ['ddt', 'dA', 'dD', 'dDtBias'].includes(name) ? gate : state;
    const packedRows = layout === layouts.tokens ? { cuSeqlens } : {};
    expectWithin(name, actual[name].data, data, shape, { limit, layout }, packedRows);
  }
});

presets.run();

const calls = suite('packed: calls');

const spec: ProblemSpec = { B: 1, T: 30, N: 3, H: 2, K: 10, V: 12, gate: 'token', update: 'delta' };
const problem = makeProblem({ ...spec, ...states, seed: 31 });
const { dO, dFinalState, ...inputs } = problem;
const BOUNDS = [0, 11, 11, 30];

calls('a BigInt64Array is the same', () => {
  const expected = everything({ ...problem }, { cuSeqlens: Int32Array.from(BOUNDS) });
  const cuSeqlens = BigInt64Array.from(BOUNDS, BigInt);
  expectSameBits('i64', everything({ ...problem }, { cuSeqlens }), expected);
  const shifted = new Int32Array([7, ...BOUNDS]).subarray(1);
  expectSameBits('a view', everything({ ...problem }, { cuSeqlens: shifted }), expected);
});

calls('asynchronous, and the array changed after the call', async () => {
  const options = { cuSeqlens: Int32Array.from(BOUNDS), outputFinalState: true };
  const expected = native.recurrenceSync(inputs, options);
  const gradients = native.recurrenceBackwardSync(problem, { cuSeqlens: options.cuSeqlens });
  for (const make of [Int32Array, BigInt64Array] as const) {
    const cuSeqlens: any =
      make === Int32Array ? Int32Array.from(BOUNDS) : BigInt64Array.from(BOUNDS, BigInt);
    const pending = [
      native.recurrence(inputs, { ...options, cuSeqlens }),
      native.recurrenceBackward(problem, { cuSeqlens }),
    ];
    cuSeqlens.fill(make === Int32Array ? -5 : -5n);
    expectSameBits('forward', await pending[0], expected);
    expectSameBits('backward', await pending[1], gradients);
  }
});

calls('a state in place', () => {
  const state = createState({ batch: 3, valueHeads: 2, keyDim: 10, valueDim: 12 });
  const { initialState, ...rest } = inputs;
  state.copyFrom(initialState!);
  const cuSeqlens = Int32Array.from(BOUNDS);
  const expected = native.recurrenceSync(inputs, { cuSeqlens, outputFinalState: true });
  expectSame('o', native.recurrenceSync({ ...rest, state }, { cuSeqlens }).o, expected.o);
  expectSame('state', state.toTensor(), expected.finalState);
  // An empty sequence keeps its state.
  expectSame('empty', slice(expected.finalState, 0, 1, 2), slice(initialState!, 0, 1, 2));
});

calls('any number of threads', () => {
  for (const cell of cells.filter(({ n }) => n < 3)) {
    const shape = { B: 1, T: 60, N: 5, H: 1, HV: 2, K: 20, V: 70, seed: 33, ...states };
    const made = makeProblem({ ...shape, ...cell });
    const cuSeqlens = Int32Array.of(0, 1, 18, 18, 50, 60);
    const options = { cuSeqlens, numHouseholder: cell.n };
    sameForThreads(nameOf(cell), () => everything({ ...made }, options));
  }
});

calls('a saved of other boundaries', () => {
  const cuSeqlens = Int32Array.from(BOUNDS);
  const { saved } = native.recurrenceSync(inputs, { cuSeqlens, saveForBackward: true });
  for (const options of [{ cuSeqlens: Int32Array.of(0, 10, 11, 30) }]) {
    throwsWith(
      () => native.recurrenceBackwardSync({ ...problem, saved }, options),
      RangeError,
      /^\[recurrenceBackward\] saved: /,
    );
  }
  saved.dispose();
});

calls.run();

const nan = suite('packed: NaN stays in its sequence');

const poisons: [string, number][] = [
  ['q', NaN],
  ['k', NaN],
  ['v', Infinity],
  ['g', NaN],
  ['beta', NaN],
  ['initialState', NaN],
  ['dO', NaN],
  ['dFinalState', -Infinity],
];

for (const cell of cells) {
  nan(nameOf(cell), () => {
    const bounds = [0, 9, 25, 25, 47, 50];
    const shape = { B: 1, T: 50, N: 5, H: 1, HV: 2, K: 11, V: 35, seed: 41, ...states };
    const clean = makeProblem({ ...shape, ...cell });
    const options = { numHouseholder: cell.n, cuSeqlens: Int32Array.from(bounds) };
    const hidden = (name: string): boolean => name === 'dg' && cell.gate === 'head';
    const expected = without(everything({ ...clean }, options), hidden);
    for (const [name, value] of poisons) {
      const tensor = (clean as any)[name] as Tensor32 | undefined;
      if (!tensor || (name === 'g' && cell.gate === 'head')) continue;
      const data = tensor.data.slice();
      const isState = tensor.shape[0] === 5;
      // One element of sequence 1.
      const at = isState ? 1.5 / 5 : 15.5 / 50;
      data[Math.floor(at * data.length)] = value;
      const poisoned: Record<string, AnyTensor> = { ...clean, [name]: { ...tensor, data } };
      const actual = without(everything(poisoned, options), hidden);
      let reached = 0;
      for (let s = 0; s < 5; s++) {
        const [mine, theirs] = [actual, expected].map((all) => ownRows(all, bounds, s, cell.n));
        if (s !== 1) expectSameBits(`${name} in sequence 1, sequence ${s}`, mine, theirs);
        else reached = Object.values(mine).filter((x) => !x.data.every(Number.isFinite)).length;
      }
      assert.ok(reached > 0, `${name} reached nothing`);
    }
  });
}

nan.run();

const errors = suite('packed: bad boundaries');

const wrong: [string, unknown, any, RegExp][] = [
  ['falling', Int32Array.of(0, 20, 11, 30), RangeError, /cuSeqlens: /],
  ['negative', Int32Array.of(0, -4, 11, 30), RangeError, /cuSeqlens: /],
  ['not from 0', Int32Array.of(1, 11, 11, 30), RangeError, /cuSeqlens: /],
  ['not to T', Int32Array.of(0, 11, 11, 29), RangeError, /cuSeqlens: /],
  ['beyond T', Int32Array.of(0, 11, 11, 31), RangeError, /cuSeqlens: /],
  ['beyond and back', Int32Array.of(0, 31, 31, 30), RangeError, /cuSeqlens: /],
  ['beyond 32 bits', BigInt64Array.of(0n, 2n ** 32n, 11n, 30n), RangeError, /cuSeqlens: /],
  ['wrapping to T', BigInt64Array.of(0n, 11n, 11n, 2n ** 32n + 30n), RangeError, /cuSeqlens: /],
  ['the least', BigInt64Array.of(0n, -(2n ** 63n), 11n, 30n), RangeError, /cuSeqlens: /],
  ['none', new Int32Array(0), RangeError, /cuSeqlens: /],
  ['fewer than the states', Int32Array.of(0, 11, 30), RangeError, /(initialState|cuSeqlens): /],
  ['more than the states', Int32Array.of(0, 1, 2, 3, 30), RangeError, /(initialState|cuSeqlens): /],
  ['an array', BOUNDS, TypeError, /cuSeqlens: .*Int32Array.*got an array/],
  ['floats', Float32Array.from(BOUNDS), TypeError, /cuSeqlens: .*Int32Array.*Float32Array/],
  ['unsigned', Uint32Array.from(BOUNDS), TypeError, /cuSeqlens: .*Uint32Array/],
  ['unsigned, 64 bits', BigUint64Array.from(BOUNDS, BigInt), TypeError, /cuSeqlens: /],
  ['a view', new DataView(new ArrayBuffer(16)), TypeError, /cuSeqlens: /],
  ['a tensor', { data: Int32Array.from(BOUNDS), shape: [4] }, TypeError, /cuSeqlens: /],
  ['null', null, TypeError, /cuSeqlens: /],
  ['a number', 30, TypeError, /cuSeqlens: /],
];

for (const [name, cuSeqlens, kind, pattern] of wrong) {
  errors(name, async () => {
    const o = { data: new Float32Array(30 * 2 * 12).fill(7), shape: [1, 30, 2, 12] };
    const named = (op: string): RegExp => new RegExp(`^\\[${op}\\] ${pattern.source}`);
    throwsWith(
      () => native.recurrenceSync(inputs, { cuSeqlens, out: { o } }),
      kind,
      named('recurrence'),
    );
    await rejectsWith(
      () => native.gatedDeltaNet(inputs, { cuSeqlens, out: { o } }),
      kind,
      named('gatedDeltaNet'),
    );
    throwsWith(
      () => native.recurrenceBackwardSync(problem, { cuSeqlens }),
      kind,
      named('recurrenceBackward'),
    );
    assert.ok(o.data.every((x) => x === 7));
  });
}

errors('more than one batch row', () => {
  const made = makeProblem({ ...spec, B: 2, N: 2 });
  const { dO: _dO, ...two } = made;
  const cuSeqlens = Int32Array.of(0, 11, 30);
  const pattern = /^\[recurrence\] (cuSeqlens|q): .*B/;
  throwsWith(() => native.recurrenceSync(two, { cuSeqlens }), RangeError, pattern);
});

errors('detached', () => {
  const cuSeqlens = Int32Array.from(BOUNDS);
  structuredClone(cuSeqlens, { transfer: [cuSeqlens.buffer as ArrayBuffer] });
  throwsWith(() => native.recurrenceSync(inputs, { cuSeqlens }), RangeError, /cuSeqlens: /);
});

errors('a state of another number of sequences', () => {
  const state = createState({ batch: 2, valueHeads: 2, keyDim: 10, valueDim: 12 });
  const { initialState: _none, ...rest } = inputs;
  const cuSeqlens = Int32Array.from(BOUNDS);
  throwsWith(
    () => native.recurrenceSync({ ...rest, state }, { cuSeqlens }),
    RangeError,
    /^\[recurrence\] state: /,
  );
  state.dispose();
});

errors.run();
