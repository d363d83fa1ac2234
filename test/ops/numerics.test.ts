/** Where float32 is easily lost: resets, slow and strong gates, saturated betas, NaN. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { RecurrenceOptions } from '../../ts/index';
import {
  createState,
  getNumThreads,
  recurrenceBackwardSync,
  recurrenceSync,
  setNumThreads,
} from '../../ts/index';
import { forward } from '../reference/recurrence.ts';
import type { Gate, Problem, ProblemSpec } from '../support/cases.ts';
import { makeProblem } from '../support/cases.ts';
import { expectWithin, rowFor } from '../support/compare.ts';
import type { Cell } from '../support/native.ts';
import { cells, checkProblem, comparisons, nameOf } from '../support/native.ts';
import { Random } from '../support/random.ts';
import { tokensOf } from '../support/slices.ts';
import type { Tensor32 } from '../support/tensor.ts';

const states = { withInitialState: true, withFinalStateGradient: true };
const gatedCells = cells.filter(({ gate }) => gate !== 'none');
const fewCells = cells.filter(({ n }) => n === 1 || n === 3);
const fewGated = fewCells.filter(({ gate }) => gate !== 'none');
const MODES: readonly RecurrenceOptions[] = [
  { mode: 'recurrent' },
  { mode: 'chunk', chunkSize: 16 },
  { mode: 'chunk', chunkSize: 128 },
];

/** The part of g that belongs to one token (a head's gate belongs to all). */
function gateOf({ g }: Problem, T: number, token: number): Float32Array {
  if (g!.shape.length === 1) return g!.data;
  const perToken = g!.data.length / T;
  return g!.data.subarray(token * perToken, (token + 1) * perToken);
}

const resets = suite('numerics: resets');

for (const cell of gatedCells) {
  for (const value of [-104.5, -1e4, -Infinity]) {
    const spec: ProblemSpec = {
      B: 1,
      T: 40,
      H: 1,
      HV: 2,
      K: 18,
      V: 21,
      seed: 3,
      ...states,
      ...cell,
    };
    resets(`${nameOf(cell)}: all gates ${value}`, () => {
      checkProblem(spec, { edit: ({ g }) => g!.data.fill(value) });
    });
    if (cell.gate === 'head') continue;
    resets(`${nameOf(cell)}: some gates ${value}`, () => {
      const random = new Random(17);
      for (const share of [0.05, 0.5]) {
        // Per channel these are resets of single rows.
        const edit = ({ g }: Problem): void => {
          g!.data.forEach((_, i) => {
            if (random.uniform() < share) g!.data[i] = value;
          });
        };
        checkProblem(spec, { edit });
      }
    });
  }
}

for (const cell of fewGated) {
  resets(`${nameOf(cell)}: clears NaN and infinities, wherever it falls`, () => {
    const T = 36;
    const spec: ProblemSpec = { B: 1, T, H: 1, K: 18, V: 21, seed: 4, ...states, ...cell };
    const tokens = cell.gate === 'head' ? [0] : [0, 1, 2, 3, 14, 15, 16, 17, 31, 32, 33, 34];
    for (const token of tokens) checkCleared(spec, token);
  });

  resets(`${nameOf(cell)}: the state becomes +0`, () => {
    for (const T of [1, 2, 15, 16, 17, 18]) {
      const spec: ProblemSpec = { B: 1, T, H: 1, K: 18, V: 21, seed: 6, ...states, ...cell };
      const { dO: _dO, dFinalState: _dState, ...inputs } = makeProblem(spec);
      inputs.initialState!.data.fill(-Infinity);
      gateOf(inputs as Problem, T, T - 1).fill(-Infinity);
      inputs.k.data.fill(0, (T - 1) * cell.n * 18);
      for (const mode of MODES) {
        const options = { ...mode, numHouseholder: cell.n, outputFinalState: true };
        const { finalState } = recurrenceSync(inputs, options);
        const zero = finalState!.data.every((x) => Object.is(x, 0));
        assert.ok(zero, `T = ${T} ${JSON.stringify(mode)}: not +0`);
      }
    }
  });

  resets(`${nameOf(cell)}: dg is 0, no gradient passes`, () => {
    const [T, at] = [40, cell.gate === 'head' ? 0 : 21];
    const spec: ProblemSpec = { B: 1, T, H: 1, K: 18, V: 21, seed: 8, ...states, ...cell };
    const problem = makeProblem(spec);
    gateOf(problem, T, at).fill(-Infinity);
    const options = { numHouseholder: cell.n };
    const clean = recurrenceBackwardSync(problem, options);
    const isZero = (x: number): boolean => x === 0;
    const dg = gateOf({ g: clean.dg } as unknown as Problem, T, at);
    assert.ok(dg.every(isZero), 'dg at the reset');
    if (cell.gate === 'head') assert.ok(clean.dInitialState!.data.every(isZero), 'dInitialState');
    // What comes after the reset cannot be felt before it, were it NaN.
    problem.dO.data.fill(NaN, (at + 3) * 21);
    if (cell.gate !== 'head') problem.dFinalState!.data.fill(Infinity);
    const poisoned = recurrenceBackwardSync(problem, options);
    const poisonedDg = gateOf({ g: poisoned.dg } as unknown as Problem, T, at);
    assert.ok(poisonedDg.every(isZero), 'dg at the reset, under NaN');
    for (const name of ['dq', 'dk', 'dv', 'dbeta'] as const) {
      if (!clean[name]) continue;
      const size = (clean[name].data.length / T) * at;
      const before = poisoned[name]!.data.subarray(0, size);
      assert.equal(before, clean[name].data.subarray(0, size), `${name} before the reset`);
    }
  });
}

/** Outputs from the reset on are those of a run that starts there, whatever came before. */
function checkCleared(spec: ProblemSpec, token: number): void {
  const { T, n } = { n: 1, ...spec };
  for (const poison of [NaN, Infinity]) {
    const { dO: _dO, dFinalState: _dState, ...inputs } = makeProblem(spec);
    gateOf(inputs as Problem, T, token).fill(-1e4);
    const options = { numHouseholder: n, outputFinalState: true };
    const rest = tokensOf(inputs, token, T, n);
    const expected = recurrenceSync(rest, { ...options, mode: 'recurrent' });
    inputs.initialState!.data.fill(poison);
    if (token > 0) inputs.v.data.fill(poison, (token * n - 1) * spec.V, token * n * spec.V);
    for (const mode of MODES) {
      const { o, finalState } = recurrenceSync(inputs, { ...options, ...mode });
      const label = `${poison}, reset at ${token}, ${JSON.stringify(mode)}`;
      expectClose(`o, ${label}`, o.data.subarray(token * spec.V), expected.o.data);
      expectClose(`finalState, ${label}`, finalState!.data, expected.finalState!.data);
    }
  }
}

function expectClose(label: string, a: Float32Array, b: Float32Array): void {
  assert.is(a.length, b.length, label);
  const difference = Math.hypot(...a.map((x, i) => x - b[i]));
  assert.ok(difference <= 3e-6 * Math.hypot(...b), `${label}: off by ${difference}`);
}

resets.run();

const decays = suite('numerics: slow, strong and growing gates');

for (const cell of gatedCells.filter(({ n }) => n < 3)) {
  decays(`${nameOf(cell)}: g = -3e-5 over 8192 tokens`, () => {
    const spec: ProblemSpec = { B: 1, T: 8192, H: 1, K: 8, V: 8, seed: 2, ...states, ...cell };
    // A head's gate has one gradient, a sum over 8192 tokens.
    checkProblem(spec, { edit: ({ g }) => g!.data.fill(-3e-5), cancels: cell.gate === 'head' });
  });
}

const PATTERNS: Record<string, number[]> = {
  'strong and slow': [-0.01, -60, -1e-4, -8, 0, -103, -0.5],
  'around -20': [-19.9, -20, -20.1],
  'around -50': [-49.9, -50.1, -50],
  'halves of -50': [-25, -25.1, -24.9, -0.1, -12.5],
  'growth past 20 and back': [20.1, -20.1, 19.9, -20, 20, -40, 0.5],
  'growth to e^45 and back': [45, -45, 22.5, 22.5, -45, 0.1, -30],
  'growth in steps': [10, 10.1, 9.9, -10, -10.1, -9.9, -20, -50],
  'resets between': [-1, -200, 12, -Infinity, -0.1, -104, -104.1, 3],
};

for (const cell of gatedCells) {
  const spec: ProblemSpec = {
    B: 1,
    T: 50,
    H: 1,
    HV: 2,
    K: 17,
    V: 20,
    seed: 12,
    ...states,
    ...cell,
  };
  decays(`${nameOf(cell)}: positive gates`, () => {
    checkProblem({ ...spec, gateScale: -1 / 16 }, { cancels: cell.gate === 'head' });
  });
  if (cell.gate === 'head') continue;
  for (const [label, values] of Object.entries(PATTERNS)) {
    decays(`${nameOf(cell)}: ${label}`, () => {
      const decaying = cell.gate === 'channel' && values.every((x) => x <= 0);
      const edit = (problem: Problem): void => {
        for (let t = 0; t < spec.T; t++) {
          // Channels run through a decaying pattern out of step; a growing one would never shrink.
          gateOf(problem, spec.T, t).forEach((_, i, row) => {
            row[i] = values[(t + (decaying ? i : 0)) % values.length];
          });
        }
      };
      checkProblem(spec, { edit, cancels: true });
    });
  }
}

decays('few of these results cancel', () => {
  const { made, noisy } = comparisons;
  assert.ok(noisy <= made / 200, `${noisy} of ${made} comparisons needed their noise`);
});

decays.run();

const inputs = suite('numerics: saturated inputs');

for (const cell of fewCells) {
  const spec: ProblemSpec = {
    B: 1,
    T: 50,
    H: 1,
    HV: 2,
    K: 17,
    V: 20,
    seed: 14,
    ...states,
    ...cell,
  };
  const cancels = cell.gate === 'head';
  if (cell.update === 'delta') {
    for (const beta of [0, 1, 2]) {
      const edit = (problem: Problem): void => void problem.beta!.data.fill(beta);
      inputs(`${nameOf(cell)}: beta = ${beta}`, () => checkProblem(spec, { edit, cancels }));
    }
  }
  inputs(`${nameOf(cell)}: zero keys`, () => {
    const edit = ({ k }: Problem): void => void k.data.fill(0, 17 * 5, 17 * 30);
    checkProblem(spec, { edit, cancels });
    checkProblem(spec, { edit: ({ k }) => k.data.fill(0), cancels });
  });
}

inputs.run();

const spread = suite('numerics: NaN reaches what depends on it');

const spreadShape = { B: 2, T: 40, H: 2, HV: 4, K: 9, V: 19, seed: 15, withInitialState: true };

/** Output elements that NaN in `poison` changed, as [b, t, h, column]. */
function touched(cell: Cell, options: RecurrenceOptions, poison: (p: Problem) => void): number[][] {
  const run = (edit?: (p: Problem) => void): Tensor32 => {
    const problem = makeProblem({ ...spreadShape, ...cell });
    edit?.(problem);
    const { dO: _dO, ...given } = problem;
    return recurrenceSync(given, { ...options, numHouseholder: cell.n }).o;
  };
  const [clean, poisoned] = [run(), run(poison)];
  const { T, HV, V } = spreadShape;
  const changed: number[][] = [];
  clean.data.forEach((x, i) => {
    if (Object.is(x, poisoned.data[i])) return;
    const [row, column] = [Math.floor(i / V), i % V];
    changed.push([Math.floor(row / HV / T), Math.floor(row / HV) % T, row % HV, column]);
  });
  return changed;
}

for (const cell of fewCells) {
  const { T, H, HV, K, V } = spreadShape;
  const { n } = cell;
  const first = 21;
  const inV = ({ v }: Problem): void => {
    v.data[((T + first) * n * HV + 1) * V + 7] = NaN; // batch row 1, value head 1, column 7
  };
  const inK = ({ k }: Problem): void => {
    k.data[(first * n * H + 1) * K + 2] = Infinity; // batch row 0, key head 1
  };

  spread(`${nameOf(cell)}: recurrent, one column of v`, () => {
    const changed = touched(cell, { mode: 'recurrent' }, inV);
    const expected = Array.from({ length: T - first }, (_, i) => [1, first + i, 1, 7]);
    assert.equal(changed, expected);
  });

  spread(`${nameOf(cell)}: recurrent, a key`, () => {
    const changed = touched(cell, { mode: 'recurrent' }, inK);
    const expected: number[][] = [];
    for (let t = first; t < T; t++) {
      for (const h of [2, 3]) for (let c = 0; c < V; c++) expected.push([0, t, h, c]);
    }
    assert.equal(changed, expected);
  });

  spread(`${nameOf(cell)}: chunk, no other sequence or head, no earlier chunk`, () => {
    for (const chunkSize of [16, 32] as const) {
      const chunk = Math.floor(first / chunkSize) * chunkSize;
      const inside = touched(cell, { mode: 'chunk', chunkSize }, inV);
      assert.ok(inside.length >= T - first, 'what depends on it');
      assert.ok(
        inside.every(([b, t, h]) => b === 1 && t >= chunk && h === 1),
        'v',
      );
      const byKey = touched(cell, { mode: 'chunk', chunkSize }, inK);
      assert.ok(
        byKey.every(([b, t, h]) => b === 0 && t >= chunk && h >= 2),
        'k',
      );
    }
  });

  if (cell.gate === 'none') continue;
  spread(`${nameOf(cell)}: a gate`, () => {
    const gate: Gate = cell.gate;
    const from = gate === 'head' ? 0 : first;
    const inG = ({ g }: Problem): void => {
      const row = gate === 'head' ? 3 : first * HV + 3; // batch row 0, value head 3
      g!.data[gate === 'channel' ? row * K : row] = NaN;
    };
    const changed = touched(cell, { mode: 'recurrent' }, inG);
    const reached = ([b, t, h]: number[]): boolean => {
      return h === 3 && t >= from && (b === 0 || gate === 'head');
    };
    assert.ok(changed.every(reached));
    assert.is(changed.length, (T - from) * V * (gate === 'head' ? 2 : 1));
  });
}

spread.run();

const large = suite('numerics: near the end of float32');

// e^-c of a folded decay would take these values beyond it; what they stand for stays well inside.
for (const cell of fewGated) {
  large(`${nameOf(cell)}: values of 1e31`, () => {
    const spec: ProblemSpec = { B: 1, T: 40, H: 1, K: 16, V: 20, seed: 21, ...cell };
    const problem = makeProblem(spec);
    problem.g!.data.fill(-2);
    problem.v.data.forEach((x, i) => {
      problem.v.data[i] = 1e31 * x;
    });
    const options = { update: cell.update, numHouseholder: cell.n };
    const expected = forward(problem, options).o;
    const { dO: _, dFinalState: __, ...inputs } = problem;
    for (const mode of MODES) {
      const { o } = recurrenceSync(inputs, { ...options, ...mode });
      expectWithin(
        `${nameOf(cell)}, ${mode.mode}`,
        o.data,
        expected.data,
        o.shape,
        rowFor('o', spec.T),
      );
    }
  });
}

large('the bits of other columns do not depend on how the columns were split', () => {
  const spec: ProblemSpec = { B: 1, T: 70, H: 1, K: 16, V: 100, gate: 'token', update: 'delta' };
  const { dO: _, dFinalState: __, ...inputs } = makeProblem(spec);
  inputs.g!.data.fill(-2);
  for (let i = 0; i < inputs.v.data.length; i += spec.V) inputs.v.data[i] *= 1e31;
  const threads = getNumThreads();
  const results = [1, 2, 5].map((n) => {
    setNumThreads(n);
    return recurrenceSync(inputs).o.data;
  });
  setNumThreads(threads);
  assert.ok(results[0].every(Number.isFinite));
  assert.equal(results[1], results[0]);
  assert.equal(results[2], results[0]);
});

large('a state in place is read before it is written, also where columns are scanned again', () => {
  const spec: ProblemSpec = { B: 1, T: 40, H: 1, K: 16, V: 100, gate: 'token', update: 'delta' };
  const { dO: _, dFinalState: __, ...inputs } = makeProblem({ ...spec, withInitialState: true });
  inputs.g!.data.fill(-2);
  inputs.v.data.forEach((x, i) => {
    inputs.v.data[i] = 1e31 * x;
  });
  const { initialState, initialZ: ___, ...rest } = inputs;
  const expected = recurrenceSync(inputs, { outputFinalState: true });
  const state = createState({ batch: 1, valueHeads: 1, keyDim: spec.K, valueDim: spec.V });
  state.copyFrom(initialState!);
  assert.equal(recurrenceSync({ ...rest, state }).o.data, expected.o.data);
  assert.equal(state.toTensor().data, expected.finalState!.data);
});

large.run();
