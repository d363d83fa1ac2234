/** One sequence, cut anywhere: forms, splits and the in-place state agree. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { RecurrenceOptions, Tensor } from '../../ts/index';
import { createState, recurrence, recurrenceSync } from '../../ts/index';
import type { Problem, ProblemSpec } from '../support/cases.ts';
import { makeProblem } from '../support/cases.ts';
import { expectWithin, rowFor } from '../support/compare.ts';
import type { Cell } from '../support/native.ts';
import { cells, nameOf } from '../support/native.ts';
import { join, tokensOf } from '../support/slices.ts';
import type { Tensor32 } from '../support/tensor.ts';

const shape = { B: 2, H: 1, HV: 2, withInitialState: true, seed: 5 };

function problemOf(cell: Cell, T: number, K = 20, V = 37): { problem: Problem; n: number } {
  return { problem: makeProblem({ ...shape, ...cell, T, K, V } as ProblemSpec), n: cell.n };
}

function run(problem: Problem, options: RecurrenceOptions): { o: Tensor32; finalState: Tensor32 } {
  const { dO: _unused, ...inputs } = problem;
  const { o, finalState } = recurrenceSync(inputs, { ...options, outputFinalState: true });
  return { o, finalState: finalState! };
}

/** Native results against native results, by the rows of the contract. */
function expectSame(label: string, a: Tensor, b: Tensor, name: 'o' | 'finalState'): void {
  assert.equal(a.shape, b.shape, label);
  expectWithin(`${label}: ${name}`, a.data, b.data, a.shape, rowFor(name, 1));
}

const splits = suite('recurrence: split anywhere = whole');

for (const cell of cells) {
  splits(nameOf(cell), () => {
    const T = 37;
    const { problem, n } = problemOf(cell, T);
    const options = { numHouseholder: n };
    const whole = run(problem, options);
    for (let cut = 1; cut < T; cut++) {
      const first = run({ ...problem, ...tokensOf(problem, 0, cut, n) }, options);
      const rest = { ...problem, ...tokensOf(problem, cut, T, n), initialState: first.finalState };
      const second = run(rest, options);
      expectSame(`cut ${cut}`, join([first.o, second.o], 1), whole.o, 'o');
      expectSame(`cut ${cut}`, second.finalState, whole.finalState, 'finalState');
    }
  });
}

splits.run();

const forms = suite('recurrence: chunk = recurrent');

for (const cell of cells) {
  forms(nameOf(cell), () => {
    const { problem, n } = problemOf(cell, 150, 33, 20);
    const recurrent = run(problem, { numHouseholder: n, mode: 'recurrent' });
    for (const chunkSize of [16, 32, 64, 128] as const) {
      const chunk = run(problem, { numHouseholder: n, mode: 'chunk', chunkSize });
      expectSame(`chunks of ${chunkSize}`, chunk.o, recurrent.o, 'o');
      expectSame(`chunks of ${chunkSize}`, chunk.finalState, recurrent.finalState, 'finalState');
    }
  });
}

forms.run();

const decode = suite('recurrence: prefill, then decode in place');

const dimensions = { batch: shape.B, valueHeads: shape.HV, keyDim: 20, valueDim: 37 };

for (const cell of cells) {
  decode(nameOf(cell), async () => {
    const [T, prefill] = [45, 19];
    const { problem, n } = problemOf(cell, T);
    const options = { numHouseholder: n };
    const whole = run(problem, options);
    const state = createState(dimensions);
    state.copyFrom(problem.initialState!);
    const outputs = [recurrenceSync({ ...tokensOf(problem, 0, prefill, n), state }, options).o];
    for (let t = prefill; t < T; t++) {
      const inputs = { ...tokensOf(problem, t, t + 1, n), state };
      const { o } = t % 2 ? recurrenceSync(inputs, options) : await recurrence(inputs, options);
      outputs.push(o);
    }
    expectSame('decoded', join(outputs as Tensor32[], 1), whole.o, 'o');
    expectSame('decoded', state.toTensor(), whole.finalState, 'finalState');
    state.dispose();
  });

  decode(`${nameOf(cell)}: the state in place is finalState`, () => {
    for (const T of [1, 2, 3, 40]) {
      for (const mode of ['recurrent', 'chunk', 'auto'] as const) {
        const { problem, n } = problemOf(cell, T);
        const whole = run(problem, { numHouseholder: n, mode });
        const state = createState(dimensions);
        state.copyFrom(problem.initialState!);
        const inputs = { ...tokensOf(problem, 0, T, n), state };
        const { o } = recurrenceSync(inputs, { numHouseholder: n, mode });
        assert.equal(o.data, whole.o.data, `${mode} T = ${T}`);
        assert.equal(state.toTensor().data, whole.finalState.data, `${mode} T = ${T}`);
        state.dispose();
      }
    }
  });
}

decode('a new state is zero, a clone is its own', () => {
  const { problem } = problemOf({ gate: 'token', update: 'delta', n: 1 }, 9);
  const { initialState: _none, ...fromZero } = problem;
  const expected = run(fromZero, {});
  const state = createState(dimensions);
  const kept = state.clone();
  const { o } = recurrenceSync({ ...tokensOf(problem, 0, 9), state });
  assert.equal(o.data, expected.o.data);
  assert.equal(state.toTensor().data, expected.finalState.data);
  assert.ok(kept.toTensor().data.every((x) => x === 0));
});

decode.run();
