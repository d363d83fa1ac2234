/** compute: 'bf16' of the forward in chunks, against the float64 reference and against the float32 form. */

import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { createState, info } from '../../ts/index';
import type { RecurrenceOptions } from '../reference/recurrence.ts';
import { forward } from '../reference/recurrence.ts';
import type { Named } from '../support/bits.ts';
import { expectSame, expectSameBits, sameForThreads } from '../support/bits.ts';
import type { Problem, ProblemSpec } from '../support/cases.ts';
import { describeProblem, makeProblem } from '../support/cases.ts';
import { halfDtypes, unwritten } from '../support/half.ts';
import type { AnyTensor, DtypeOptions } from '../support/native.ts';
import { cells, compare, inDtype, nameOf, native } from '../support/native.ts';
import fc from '../support/property.ts';
import { Random } from '../support/random.ts';
import { tokensOf } from '../support/slices.ts';
import type { Tensor32 } from '../support/tensor.ts';
import { throwsWith } from './helpers.ts';

const bf16 = { compute: 'bf16' } as const;
const FORMS = [
  { mode: 'auto' },
  { mode: 'chunk', chunkSize: 16 },
  { mode: 'chunk', chunkSize: 64 },
];
const fewCells = cells.filter(({ n }) => n === 1 || n === 3);
const gatedCells = fewCells.filter(({ gate }) => gate !== 'none');

const available = info().isa === 'avx512bf16';

/** A suite of what only the dot product's instruction set computes. */
function bf16Suite(name: string) {
  const tests = suite(`bf16 compute: ${name}`);
  return { test: available ? tests : tests.skip, run: () => tests.run() };
}

const refused = suite('bf16 compute: elsewhere');

if (!available) {
  refused('is refused without its dot product', () => {
    const spec: ProblemSpec = { B: 1, T: 40, H: 1, K: 64, V: 64, gate: 'token', update: 'delta' };
    const { dO: _dO, ...inputs } = makeProblem(spec);
    for (const mode of ['auto', 'chunk', 'recurrent']) {
      const call = { ...bf16, mode };
      const pattern = /\[recurrence\] compute: expected 'f32'.*got 'bf16'/;
      throwsWith(() => native.recurrenceSync(inputs, call), RangeError, pattern);
    }
  });
}

refused.run();

interface Check extends DtypeOptions {
  edit?: (problem: Problem) => void;
  options?: RecurrenceOptions;
  forms?: readonly object[];
}

/** o and finalState of every form by the row of bf16 arithmetic. */
function check(
  spec: ProblemSpec,
  { edit, options = {}, forms = FORMS, ...dtypes }: Check = {},
): void {
  const { dO: _dO, dFinalState: _dState, ...made } = makeProblem(spec);
  edit?.(made as Problem);
  const { given, seen } = inDtype(made, dtypes);
  const asked = { ...options, update: spec.update, numHouseholder: spec.n ?? 1 };
  const expected = { ...forward(seen, asked) };
  const dtype = (spec.betaMax ?? 1) > 1 ? 'bf16 compute, beta to 2' : 'bf16 compute';
  for (const form of forms) {
    const out = {
      o: unwritten(dtypes.dtype ?? 'f32', expected.o.shape),
      finalState: unwritten('f32', expected.finalState.shape),
    };
    const call = { ...asked, ...bf16, ...form, outputFinalState: true, out };
    native.recurrenceSync(given, call);
    for (const [name, x] of Object.entries(out)) {
      const label = `${describeProblem(spec)}: ${name}, ${JSON.stringify(form)}`;
      const rules = { dtype, cuSeqlens: options.cuSeqlens } as const;
      compare(label, name, x, expected, spec.T, rules);
    }
  }
}

/** A problem as the engine takes it, and both arithmetics on it. */
function twice(spec: ProblemSpec, options: object = {}, edit?: (problem: Problem) => void) {
  const { dO: _dO, dFinalState: _dState, ...inputs } = makeProblem(spec);
  edit?.(inputs as Problem);
  const call = { numHouseholder: spec.n ?? 1, outputFinalState: true, ...options };
  const run = (extra: object): Named => {
    const { saved, ...results } = native.recurrenceSync(inputs, { ...call, ...extra });
    saved?.dispose();
    return results;
  };
  return { rounded: run(bf16), full: run({}) };
}

const listed = bf16Suite('every cell');

const SHAPES: Omit<ProblemSpec, 'gate' | 'update'>[] = [
  { B: 2, T: 77, H: 1, HV: 2, K: 47, V: 65, withInitialState: true },
  { B: 1, T: 97, H: 1, K: 64, V: 49, betaMax: 2, gateScale: 1 },
  { B: 1, T: 15, H: 2, K: 129, V: 36, withInitialState: true },
];

cells.forEach((cell, index) => {
  listed.test(nameOf(cell), () => {
    for (const shape of SHAPES) check({ seed: 300 + index, ...shape, ...cell });
  });
  listed.test(`${nameOf(cell)}: half-width types`, () => {
    for (const dtype of halfDtypes) {
      for (const halfGates of [false, true]) {
        const spec = { B: 1, T: 50, H: 1, HV: 2, K: 40, V: 50, seed: 320 + index, ...cell };
        check({ ...spec, withInitialState: true }, { dtype, halfGates });
      }
    }
  });
});

listed.test('long sequences', () => {
  for (const { n: _n, ...cell } of fewCells.filter(({ n }) => n === 1)) {
    const betaMax = cell.update === 'delta' ? 2 : 1;
    check({ B: 1, T: 1500, H: 1, K: 48, V: 48, betaMax, ...cell }, { forms: [{ mode: 'auto' }] });
  }
});

const drawnShapes = fc.record({
  cell: fc.constantFrom(...cells),
  T: fc.integer({ min: 5, max: 120 }),
  K: fc.integer({ min: 32, max: 140 }),
  V: fc.integer({ min: 48, max: 140 }),
  H: fc.integer({ min: 1, max: 2 }),
  perKeyHead: fc.integer({ min: 1, max: 2 }),
  betaMax: fc.constantFrom(1, 2),
  gateScale: fc.constantFrom(1 / 64, 1 / 16, 1, 4),
  withInitialState: fc.boolean(),
  seed: fc.integer({ min: 1, max: 1 << 30 }),
  dtype: fc.constantFrom('f32' as const, 'f32' as const, ...halfDtypes),
});

listed.test('drawn shapes', () => {
  const property = fc.property(drawnShapes, ({ cell, perKeyHead, dtype, ...shape }) => {
    const HV = shape.H * perKeyHead;
    const T = Math.max(
      5,
      Math.min(shape.T, Math.floor(800_000 / (HV * cell.n * shape.K * shape.V))),
    );
    check({ B: 1, ...shape, ...cell, HV, T }, { dtype, forms: [FORMS[0]] });
  });
  const { errorInstance } = fc.check(property, { seed: 2100, numRuns: 60, endOnFailure: true });
  if (errorInstance) throw errorInstance;
});

listed.run();

const path = bf16Suite('where it is used');

path.test('forwards in chunks are rounded, all others are the float32 form', () => {
  for (const cell of fewCells) {
    const spec: ProblemSpec = { B: 1, T: 64, H: 1, K: 64, V: 64, seed: 8, ...cell };
    for (const mode of ['auto', 'chunk']) {
      const { rounded, full } = twice(spec, { mode });
      for (const [name, x] of Object.entries(full)) {
        const same = x.data.filter((value, i) => value === rounded[name].data[i]).length;
        assert.ok(same < x.data.length / 8, `${nameOf(cell)}, ${mode}: ${name} has ${same} equal`);
      }
    }
    for (const options of [{ mode: 'recurrent' }, { saveForBackward: true }]) {
      const { rounded, full } = twice(spec, options);
      expectSameBits(JSON.stringify(options), rounded, full);
    }
    for (const small of [{ T: 2 }, { T: 4 }, { K: 31 }, { K: 32, V: 32 }]) {
      const { rounded, full } = twice({ ...spec, ...small });
      expectSameBits(JSON.stringify(small), rounded, full);
    }
  }
});

path.test('the backward is the float32 one', () => {
  const spec: ProblemSpec = { B: 1, T: 40, H: 1, K: 64, V: 64, gate: 'token', update: 'delta' };
  const problem = makeProblem(spec);
  const expected = native.recurrenceBackwardSync(problem);
  expectSameBits('gradients', native.recurrenceBackwardSync(problem, bf16), expected);
});

path.run();

const gated = bf16Suite('gates');

/** Values into g: which of them a gate becomes is drawn. */
function someGates(share: number, values: readonly number[], seed: number) {
  return ({ g }: Problem): void => {
    const random = new Random(seed);
    for (let i = 0; i < g!.data.length; i++) {
      if (random.uniform() < share) g!.data[i] = values[random.integer(values.length)];
    }
  };
}

for (const cell of gatedCells) {
  const states = { withInitialState: true, seed: 21 };
  const spec: ProblemSpec = { B: 1, T: 90, H: 1, HV: 2, K: 40, V: 50, ...states, ...cell };
  gated.test(`${nameOf(cell)}: resets and strong gates`, () => {
    const values = [-Infinity, -104.5, -1e4, -103, -61, -40, -20];
    for (const share of [0.01, 0.05, 0.3, 1]) {
      check(spec, { edit: someGates(share, values, 5), forms: [FORMS[0]] });
    }
  });
  gated.test(`${nameOf(cell)}: all gates alike`, () => {
    for (const value of [-Infinity, -104.5, -60.5, -59, -31, -8, -2, -1e-5, 0]) {
      check(spec, { edit: ({ g }) => g!.data.fill(value), forms: [FORMS[0]] });
    }
  });
  gated.test(`${nameOf(cell)}: gates above zero`, () => {
    for (const value of [1e-3, 0.05, 0.5]) {
      check(spec, { edit: ({ g }) => g!.data.fill(value), forms: [FORMS[0]] });
      check(spec, { edit: someGates(0.1, [value], 6), forms: [FORMS[0]] });
    }
    check({ ...spec, T: 20 }, { edit: ({ g }) => g!.data.fill(3), forms: [FORMS[0]] });
  });
}

gated.test('what grows without end, and what splits at nearly every token, is float32', () => {
  const spec: ProblemSpec = { B: 1, T: 70, H: 1, K: 64, V: 64, gate: 'channel', update: 'delta' };
  for (const value of [0.1, -70]) {
    const { rounded, full } = twice(spec, { mode: 'chunk' }, ({ g }) => g!.data.fill(value));
    expectSameBits(`gates of ${value}`, rounded, full);
  }
});

gated.run();

const sequences = bf16Suite('sequences and states');

const LENGTHS = [33, 0, 5, 1, 64, 2, 17];

for (const cell of fewCells) {
  const [N, T] = [LENGTHS.length, LENGTHS.reduce((a, b) => a + b, 0)];
  const shape = { B: 1, T, N, H: 1, HV: 2, K: 40, V: 70, seed: 31, withInitialState: true };
  const spec: ProblemSpec = { ...shape, ...cell };
  const bounds = [0];
  for (const length of LENGTHS) bounds.push(bounds[bounds.length - 1] + length);
  const cuSeqlens = Int32Array.from(bounds);

  sequences.test(`${nameOf(cell)}: packed`, () => {
    check(spec, { options: { cuSeqlens }, forms: [FORMS[0]] });
  });

  sequences.test(`${nameOf(cell)}: a sequence alone has the bits that it has among others`, () => {
    const { dO: _dO, ...problem } = makeProblem(spec);
    const call = { ...bf16, numHouseholder: cell.n, outputFinalState: true };
    const packed = native.recurrenceSync(problem, { ...call, cuSeqlens });
    LENGTHS.forEach((length, s) => {
      const size = 2 * spec.K * spec.V;
      const rows = (x: Tensor32, from: number, to: number, shape: number[]): AnyTensor => {
        return { data: x.data.slice(from, to), shape };
      };
      const state = [1, 2, spec.K, spec.V];
      const tokens = tokensOf(problem, bounds[s], bounds[s + 1], cell.n);
      const initialState = rows(problem.initialState!, s * size, (s + 1) * size, state);
      const alone = native.recurrenceSync({ ...tokens, initialState }, call);
      const perToken = 2 * spec.V;
      const [from, to] = [bounds[s] * perToken, bounds[s + 1] * perToken];
      expectSame(`o of ${s}`, alone.o, rows(packed.o, from, to, [1, length, 2, spec.V]));
      const final = rows(packed.finalState, s * size, (s + 1) * size, state);
      expectSame(`state of ${s}`, alone.finalState, final);
    });
  });

  sequences.test(`${nameOf(cell)}: split anywhere, in place`, () => {
    const { dO: _dO, ...problem } = makeProblem({ ...spec, N: 1, T: 60 });
    const { initialState, ...inputs } = problem;
    const options = { numHouseholder: cell.n };
    const expected = { ...forward(problem, options) };
    const state = createState({ batch: 1, valueHeads: 2, keyDim: spec.K, valueDim: spec.V });
    state.copyFrom(initialState!);
    const o = new Float32Array(60 * 2 * spec.V);
    for (const [from, to] of [
      [0, 37],
      [37, 38],
      [38, 60],
    ]) {
      const part = tokensOf(inputs as Problem, from, to, cell.n);
      const call = { ...options, ...bf16 };
      o.set(native.recurrenceSync({ ...part, state }, call).o.data, from * 2 * spec.V);
    }
    const row = { dtype: 'bf16 compute' } as const;
    compare('o', 'o', { data: o, shape: expected.o.shape }, expected, 60, row);
    const final = state.toTensor() as AnyTensor;
    compare('state', 'finalState', final, expected, 60, row);
    state.dispose();
  });
}

sequences.run();

const fused = bf16Suite('activations and the normalizer');

for (const cell of fewCells) {
  fused.test(nameOf(cell), () => {
    const spec: ProblemSpec = { B: 1, T: 70, H: 1, HV: 2, K: 48, V: 50, seed: 41, ...cell };
    const random = new Random(42);
    const own = cell.gate === 'token' || cell.gate === 'channel';
    const draw = (...shape: number[]): Tensor32 => {
      return {
        data: random.normals(
          shape.reduce((a, b) => a * b, 1),
          0.5,
        ),
        shape,
      };
    };
    const dtBias = cell.gate === 'channel' ? draw(2, 48) : draw(2);
    const gates = own
      ? [
          { aLog: draw(2), dtBias },
          { aLog: draw(2), lowerBound: -5 },
        ]
      : [undefined];
    for (const gate of gates) {
      const delta = cell.update === 'delta';
      const options: RecurrenceOptions = {
        qkL2norm: true,
        ...(gate && { gate }),
        ...(delta && { betaActivation: 'sigmoid' }),
      };
      const edit = ({ q, k, g, beta }: Problem): void => {
        for (const { data } of [q, k]) data.set(data.map(() => 3 * random.normal()));
        if (gate) g!.data.set(g!.data.map(() => random.normal() - 2));
        beta?.data.set(beta.data.map(() => 1.5 * random.normal()));
      };
      check(spec, { options, edit });
      check(spec, { options, edit, dtype: 'bf16', halfGates: true, forms: [FORMS[0]] });
    }
  });
}

fused.test('normalize', () => {
  const shape = { B: 2, T: 70, H: 2, HV: 4, K: 48, V: 50, normalize: true, withInitialState: true };
  check({ ...shape, gate: 'none', update: 'additive' }, { options: { normalize: true } });
});

fused.run();

const bits = bf16Suite('the same bits');

for (const cell of fewCells) {
  bits.test(`${nameOf(cell)}: any number of threads`, () => {
    for (const shape of [
      { B: 1, H: 1, V: 130 },
      { B: 2, H: 2, HV: 6, V: 50 },
    ]) {
      const spec: ProblemSpec = {
        T: 70,
        K: 64,
        seed: 51,
        withInitialState: true,
        ...shape,
        ...cell,
      };
      sameForThreads(nameOf(cell), () => twice(spec).rounded);
    }
  });
}

bits.test('async', async () => {
  const spec: ProblemSpec = { B: 2, T: 70, H: 2, K: 64, V: 64, gate: 'channel', update: 'delta' };
  const { dO: _dO, ...inputs } = makeProblem(spec);
  const call = { ...bf16, outputFinalState: true };
  expectSameBits(
    'async',
    await native.recurrence(inputs, call),
    native.recurrenceSync(inputs, call),
  );
});

bits.run();

const range = bf16Suite('range');

const DIMENSIONS = { B: 1, T: 80, H: 2, K: 64, V: 70, seed: 61 };

for (const cell of gatedCells) {
  range.test(`${nameOf(cell)}: folded values that leave float32 are computed otherwise`, () => {
    const scaled = (by: number) => {
      return ({ v, g }: Problem): void => {
        v.data.set(v.data.map((x) => x * by));
        g!.data.fill(-1.8);
      };
    };
    for (const by of [1e30, 1e-30]) check({ ...DIMENSIONS, ...cell }, { edit: scaled(by) });
  });
}

range.test('NaN and Infinity stay with their head and, before the chunk, off its tokens', () => {
  for (const cell of fewCells) {
    const spec: ProblemSpec = { ...DIMENSIONS, ...cell };
    const { dO: _dO, ...clean } = makeProblem(spec);
    const call = { ...bf16, numHouseholder: cell.n };
    const expected = native.recurrenceSync(clean, call).o.data as Float32Array;
    for (const value of [NaN, Infinity]) {
      const data = Float32Array.from(clean.k.data);
      data[50 * cell.n * 2 * 64 + 3] = value; // token 50, head 0
      const o = native.recurrenceSync({ ...clean, k: { ...clean.k, data } }, call).o.data;
      for (let i = 0; i < expected.length; i++) {
        const [token, head] = [Math.floor(i / 140), Math.floor(i / 70) % 2];
        if (head === 1) assert.is(o[i], expected[i], `${nameOf(cell)}: ${token}`);
        else if (token < 32) assert.ok(Number.isFinite(o[i]), `${nameOf(cell)}: ${token}`);
        else if (token >= 50) assert.not.ok(Number.isFinite(o[i]), `${nameOf(cell)}: ${token}`);
      }
    }
  }
});

range.run();
