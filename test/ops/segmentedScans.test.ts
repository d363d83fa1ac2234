/** Sequences in segments against the same sequences whole, forward and backward, for every cell of the grid. */

import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { backward, forward } from '../reference/recurrence.ts';
import { expectSame } from '../support/bits.ts';
import type { Problem } from '../support/cases.ts';
import { makeProblem } from '../support/cases.ts';
import { expectWithin, rowFor, type TensorName } from '../support/compare.ts';
import { encode } from '../support/half.ts';
import { normals } from '../support/layers.ts';
import { cells, nameOf, native } from '../support/native.ts';
import fc from '../support/property.ts';
import { Random } from '../support/random.ts';
import { activations, type Options, without } from '../support/segments.ts';
import { join, sequenceOf, slice } from '../support/slices.ts';
import type { Tensor32, TensorLike } from '../support/tensor.ts';
import { startsOf, throwsWith } from './helpers.ts';

const scan = suite('segments of a sequence');

/** The states between segments go from [R,HV,..] to [R,1,HV,..] and back. */
const chained = ({ data, shape }: TensorLike): any => ({
  data,
  shape: [shape[0], 1, ...shape.slice(1)],
});
const packed = ({ data, shape: [R, , ...rest] }: TensorLike): any => ({
  data,
  shape: [R, ...rest],
});

const plain = ['q', 'k', 'v', 'g', 'beta'];
const pick = (problem: object): any =>
  Object.fromEntries(Object.entries(problem).filter(([name]) => plain.includes(name)));

/** Forward and backward of one sequence in segments, as one process does it. */
function inSegments(problem: Problem, options: Options, starts: Int32Array) {
  const asked = { ...options, cuSeqlens: starts };
  const { initialState, dO, dFinalState } = problem;
  const inputs = pick(problem);
  const { transition, state } = native.segmentSummarySync(inputs, asked);
  const transitions = chained(transition);
  const states = native.composeStatesSync({ transitions, states: chained(state), initialState });
  const own = { ...inputs, initialState: packed(states.initialStates) };
  const { o } = native.recurrenceSync(own, asked);
  const { dInitialState: said } = native.segmentGradientSync({ ...inputs, dO }, asked);
  const { dStates, dInitialState } = native.composeStatesBackwardSync({
    ...{ transitions, dInitialStates: chained(said), initialState, dFinalState },
  });
  const backward = native.recurrenceBackwardSync(
    { ...own, dO, dFinalState: packed(dStates) },
    asked,
  );
  return {
    ...without(backward, 'dInitialState'),
    ...{ o, finalState: states.finalState, ...(dInitialState && { dInitialState }) },
    parts: { transition, state, said, initialStates: states.initialStates, dStates },
  };
}

function hold(label: string, actual: any, problem: Problem, options: Options): void {
  const expected: any = { ...forward(problem, options), ...backward(problem, options) };
  const names = ['o', 'finalState', 'dq', 'dk', 'dv', 'dg', 'dbeta', 'dInitialState'];
  for (const name of names) {
    if (!actual[name]) continue;
    const { data, shape } = actual[name];
    const row = rowFor(name as TensorName, problem.q.shape[1]);
    expectWithin(`${label}: ${name}`, data, expected[name].data, shape, row);
  }
}

const drawn = fc.record({
  lengths: fc.array(fc.oneof(fc.integer({ min: 0, max: 40 }), fc.constant(0)), {
    minLength: 1,
    maxLength: 6,
  }),
  cell: fc.constantFrom(...cells),
  perKeyHead: fc.integer({ min: 1, max: 2 }),
  K: fc.constantFrom(3, 16, 24),
  V: fc.constantFrom(5, 16, 40),
  withInitialState: fc.boolean(),
  withFinalStateGradient: fc.boolean(),
  seed: fc.integer({ min: 1, max: 1 << 30 }),
});

scan('any segmentation of any cell gives what the whole scan gives', () => {
  fc.assert(
    fc.property(drawn, ({ lengths, cell, perKeyHead, seed, ...rest }) => {
      const starts = Int32Array.from(startsOf([...lengths, 17]));
      const T = starts[starts.length - 1];
      const spec = { B: 1, T, H: 1, HV: perKeyHead, ...rest, ...cell, seed };
      const problem = makeProblem(spec);
      const options = { numHouseholder: cell.n };
      hold(nameOf(cell), inSegments(problem, options, starts), problem, options);
    }),
    { numRuns: 40, seed: 12 },
  );
});

for (const cell of cells.filter(({ n }) => n < 3))
  scan(`${nameOf(cell)}: apart, the segments have the bits that they have together`, () => {
    const spec = { B: 1, T: 90, H: 1, HV: 2, K: 20, V: 36, ...cell, seed: 4 };
    const problem = makeProblem({ ...spec, withInitialState: true });
    const options = { numHouseholder: cell.n, ...activations(cell, spec, 3) };
    const starts = Int32Array.of(0, 33, 64, 90);
    const whole = inSegments(problem, options, starts);
    const parts = [0, 1, 2].map((i) =>
      sequenceOf({ ...problem, initialState: undefined }, [...starts], i, cell.n),
    );
    for (const [i, part] of parts.entries()) {
      const inputs = pick(part);
      const { transition, state } = native.segmentSummarySync(inputs, options);
      const at = (x: TensorLike) => slice(x as Tensor32, 0, i, i + 1);
      expectSame('transition', transition, at(whole.parts.transition));
      expectSame('state', state, at(whole.parts.state));
      const initialState = packed(at(whole.parts.initialStates));
      const { o } = native.recurrenceSync({ ...inputs, initialState }, options);
      expectSame('o', o, slice(whole.o, 1, starts[i], starts[i + 1]));
      const { dInitialState } = native.segmentGradientSync({ ...inputs, dO: part.dO }, options);
      expectSame('dInitialState', dInitialState, at(whole.parts.said));
      const { dv } = native.recurrenceBackwardSync(
        { ...inputs, initialState, dO: part.dO, dFinalState: packed(at(whole.parts.dStates)) },
        options,
      );
      expectSame('dv', dv, slice(whole.dv, 1, starts[i] * cell.n, starts[i + 1] * cell.n));
    }
  });

scan('operation by operation: through the gradients of the summaries', () => {
  for (const cell of cells.filter(({ n }) => n < 3)) {
    const spec = { B: 1, T: 50, H: 1, HV: 2, K: 12, V: 9, ...cell, seed: 8 };
    const problem = makeProblem({ ...spec, withInitialState: true });
    const options = { numHouseholder: cell.n };
    const starts = Int32Array.of(0, 11, 32, 50);
    const asked = { ...options, cuSeqlens: starts };
    const { dO, initialState } = problem;
    const inputs = pick(problem);
    const { transition, state } = native.segmentSummarySync(inputs, asked);
    const chain = { transitions: chained(transition), initialState };
    const { initialStates } = native.composeStatesSync({ ...chain, states: chained(state) });
    // What the scans say, without a word of what follows them.
    const direct = native.recurrenceBackwardSync(
      { ...inputs, initialState: packed(initialStates), dO },
      asked,
    );
    const { dStates, dTransitions, dInitialState } = native.composeStatesBackwardSync({
      ...chain,
      initialStates,
      dInitialStates: chained(direct.dInitialState),
    });
    const through = native.segmentSummaryBackwardSync(
      { ...inputs, dTransition: packed(dTransitions), dState: packed(dStates) },
      asked,
    );
    const sum = (a: Tensor32, b?: Tensor32) =>
      b ? { ...a, data: a.data.map((x, i) => x + b.data[i]) } : a;
    const total: any = { dInitialState };
    for (const name of ['dq', 'dk', 'dv', 'dg', 'dbeta'])
      if (direct[name]) total[name] = sum(direct[name], through[name]);
    hold(nameOf(cell), total, problem, options);
  }
});

scan('strong gates, growing ones, and resets', () => {
  const values = [0, -1e-4, -3, -30, -90, -103.9, -110, -Infinity, 0.2];
  for (const gate of ['token', 'channel'] as const)
    for (const update of ['additive', 'delta'] as const) {
      const spec = { B: 1, T: 80, H: 1, HV: 2, K: 16, V: 18, gate, update, n: 1, seed: 6 };
      const problem = makeProblem({
        ...spec,
        withInitialState: true,
        withFinalStateGradient: true,
      });
      const random = new Random(9);
      const { data } = problem.g!;
      data.forEach((_, i) => {
        if (random.integer(3) === 0) data[i] = values[random.integer(values.length)];
      });
      const starts = Int32Array.of(0, 1, 29, 64, 80);
      const result = inSegments(problem, {}, starts);
      hold(`${gate} ${update}`, result, problem, {});
    }
});

scan('a reset makes an exact zero of the transition, whatever the state was', () => {
  const spec = { B: 1, T: 9, H: 1, K: 8, V: 4, n: 1, update: 'additive' } as const;
  for (const gate of ['token', 'channel', 'head'] as const) {
    const problem = makeProblem({ ...spec, gate });
    problem.g!.data.fill(-Infinity, 0, gate === 'channel' ? 8 : 1);
    const { transition } = native.segmentSummarySync(pick(problem));
    assert.ok(transition.data.every((x: number) => Object.is(x, 0)));
    const { initialStates } = native.composeStatesSync({
      transitions: join([chained(transition), chained(transition)], 0),
      states: normals(1)(2, 1, 1, 8, 4),
      initialState: { data: new Float32Array(32).fill(Infinity), shape: [1, 1, 8, 4] },
    });
    assert.ok(initialStates.data.subarray(32).every(Number.isFinite));
  }
});

scan('a slow decay over many tokens', () => {
  const [T, K] = [20000, 4];
  const normal = normals(2);
  for (const width of [[], [K]]) {
    const inputs = { k: normal(1, T, 1, K), v: normal(1, T, 1, 2), g: normal(1, T, 1, ...width) };
    inputs.g.data.fill(-3e-5);
    const { transition } = native.segmentSummarySync(inputs);
    for (const m of transition.data)
      assert.ok(Math.abs(m / Math.exp(Math.fround(-3e-5) * T) - 1) < 2e-7, `${m}`);
  }
});

scan('linear attention with its normalizer', () => {
  const spec = { B: 1, T: 75, H: 1, HV: 2, K: 14, V: 10, n: 1 } as const;
  const cell = { gate: 'none', update: 'additive', normalize: true } as const;
  const problem = makeProblem({ ...spec, ...cell, withInitialState: true });
  const starts = Int32Array.of(0, 30, 31, 75);
  const asked = { normalize: true, cuSeqlens: starts };
  const { dO, initialState, initialZ } = problem;
  const inputs = pick(problem);
  const { transition, state, z } = native.segmentSummarySync(inputs, asked);
  const transitions = chained(transition);
  const column = ({ data, shape }: TensorLike): any => ({ data, shape: [...shape, 1] });
  const row = ({ data, shape }: TensorLike): any => ({ data, shape: shape.slice(0, -1) });
  const ones = { data: new Float32Array(3).fill(1), shape: [3, 1, 1] };
  const states = native.composeStatesSync({ transitions, states: chained(state), initialState });
  const sums = native.composeStatesSync({
    transitions: ones,
    states: column(chained(z)),
    initialState: column(initialZ!),
  });
  const own = {
    ...inputs,
    initialState: packed(states.initialStates),
    initialZ: row(packed(sums.initialStates)),
  };
  const { o } = native.recurrenceSync(own, asked);
  const said = native.recurrenceBackwardSync({ ...own, dO }, asked);
  const back = native.composeStatesBackwardSync({
    ...{ transitions, dInitialStates: chained(said.dInitialState) },
    initialState,
  });
  const backZ = native.composeStatesBackwardSync({
    transitions: ones,
    dInitialStates: column(chained(said.dInitialZ)),
  });
  const gradients = native.recurrenceBackwardSync(
    { ...own, dO, dFinalState: packed(back.dStates), dFinalZ: row(packed(backZ.dStates)) },
    asked,
  );
  const all = { ...gradients, o, dInitialState: back.dInitialState };
  hold('normalize', all, problem, { normalize: true });
});

scan('bad input', () => {
  const problem = makeProblem({
    ...{ B: 1, T: 6, H: 1, K: 4, V: 3, n: 2, gate: 'token', update: 'delta' },
  });
  const { q, k, v, g, beta, dO } = problem;
  const summary = (inputs: object, options: object, pattern: RegExp, kind: any = RangeError) =>
    throwsWith(
      () =>
        native.segmentSummarySync({ k, v, g, beta, ...inputs }, { numHouseholder: 2, ...options }),
      kind,
      pattern,
    );
  summary({}, { numHouseholder: 5 }, /\[segmentSummary\] k: expected a multiple of numHouseholder/);
  summary({}, { numHouseholder: 9 }, /numHouseholder: expected/);
  summary({ v: q }, {}, /v: expected shape/);
  summary({ k: g }, {}, /k: expected shape \[B,T\*n,H,K\], got/);
  summary({ g: v }, {}, /g: expected/);
  summary({ beta: undefined }, { update: 'delta' }, /beta: the delta update needs it/, TypeError);
  summary({ v: encode('bf16', v) }, {}, /v: expected dtype f32 \(that of k\)/, TypeError);
  summary({ initialState: dO }, {}, /initialState/, TypeError);
  summary({}, { normalize: true }, /normalize: expected the additive update/, TypeError);
  summary({}, { scale: 1 }, /scale/, TypeError);
  summary({}, { cuSeqlens: Int32Array.of(0, 7) }, /cuSeqlens/);
  summary({ k: normals(1)(1, 12, 1, 513) }, {}, /k: expected a size from 1 to 512/);
  const gradient = (inputs: object, pattern: RegExp, kind: any = RangeError) =>
    throwsWith(
      () => native.segmentGradientSync({ q, k, dO, g, beta, ...inputs }, { numHouseholder: 2 }),
      kind,
      pattern,
    );
  gradient({ dO: v }, /\[segmentGradient\] dO: expected shape \[B,T,HV,V\]/);
  gradient({ dO: encode('f16', dO) }, /dO: expected dtype f32 \(that of q\)/, TypeError);
  gradient({ q: v }, /expected shape/);
  throwsWith(
    () =>
      native.segmentSummaryBackwardSync(
        { k, v, g, beta, dTransition: normals(1)(1, 1, 4) },
        { numHouseholder: 2 },
      ),
    RangeError,
    /\[segmentSummaryBackward\] dTransition: expected shape \[1,1,4,4\]/,
  );
});

scan('a transition can be left out', () => {
  const { k, v, beta } = makeProblem({
    ...{ B: 1, T: 6, H: 1, K: 4, V: 3, n: 1, gate: 'none', update: 'delta' },
  });
  const both = native.segmentSummarySync({ k, v, beta });
  const one = native.segmentSummarySync({ k, v, beta }, { outputTransition: false });
  assert.equal(Object.keys(one), ['state']);
  expectSame('state', one.state, both.state);
});

scan.run();
