/** Every cell of the grid, every form, forward and backward, against goldens and float64. */

import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { recurrenceBackwardSync } from '../../ts/index';
import { backward, forward } from '../reference/recurrence.ts';
import type { ProblemSpec } from '../support/cases.ts';
import { makeProblem } from '../support/cases.ts';
import { goldenFiles, loadGolden } from '../support/golden.ts';
import type { Cell } from '../support/native.ts';
import {
  cells,
  checkProblem,
  compare,
  comparisons,
  nameOf,
  native,
  pick,
} from '../support/native.ts';
import fc from '../support/property.ts';

const golden = suite('recurrence: golden vectors');

for (const file of goldenFiles()) {
  golden(file, () => checkGolden(file));
}

function checkGolden(file: string): void {
  const { op, numHouseholder, inputs, gate, dO, dFinalState, expected } = loadGolden(file);
  const retention = op === 'retention';
  const fused = gate && { gate, qkL2norm: true, betaActivation: 'sigmoid2' };
  const options = retention ? {} : { numHouseholder, ...fused };
  const run = native[retention ? 'retentionSync' : 'recurrenceSync'];
  const runBackward = native[retention ? 'retentionBackwardSync' : 'recurrenceBackwardSync'];
  const T = inputs.q.shape[1];
  const names = Object.keys(expected);
  const gradients = names.filter((name) => name.startsWith('d'));
  const outputs = names.filter((name) => !gradients.includes(name));
  const check = (form: string, results: object, wanted: string[]): void => {
    for (const [name, tensor] of Object.entries(pick(results, wanted))) {
      compare(`${name}, ${form}`, name, tensor, expected, T);
    }
  };
  for (const mode of ['recurrent', 'chunk', 'auto'] as const) {
    check(mode, run(inputs, { ...options, mode, outputFinalState: true }), outputs);
  }
  const { saved } = run(inputs, { ...options, saveForBackward: true });
  const given = { ...inputs, dO, dFinalState };
  check('recomputed', runBackward(given, options), gradients);
  check('with saved', runBackward({ ...given, saved }, options), gradients);
}

golden.run();

const drawn = suite('recurrence: drawn shapes');

// Elements of state traffic that a drawn problem may cost the float64 reference.
const BUDGET = 400_000;

const odd = [1, 2, 3, 5, 7, 13, 17, 31, 33, 63, 65, 67, 97, 127, 129, 131, 193, 199];
const width = fc.oneof(fc.integer({ min: 1, max: 200 }), fc.constantFrom(...odd));

type Drawn = Omit<ProblemSpec, keyof Cell> & { perKeyHead: number };

const shapes: fc.Arbitrary<Drawn> = fc.record({
  T: fc.oneof(fc.integer({ min: 1, max: 150 }), fc.integer({ min: 1, max: 20 })),
  K: width,
  V: width,
  H: fc.integer({ min: 1, max: 3 }),
  perKeyHead: fc.constantFrom(1, 1, 2, 3, 4),
  B: fc.integer({ min: 1, max: 2 }),
  betaMax: fc.constantFrom(1, 2),
  gateScale: fc.constantFrom(1 / 64, 1 / 16, 1, 8),
  withInitialState: fc.boolean(),
  withFinalStateGradient: fc.boolean(),
  seed: fc.integer({ min: 1, max: 1 << 30 }),
});

function specOf(cell: Cell, shape: Drawn): ProblemSpec {
  const { perKeyHead, ...spec } = shape;
  const HV = spec.H * perKeyHead;
  // Many steps on few keys erase nearly all of the state: see 'erased states'.
  const K = Math.max(spec.K, cell.n > 1 ? 2 * cell.n : 1);
  const perToken = spec.B * HV * cell.n * K * spec.V;
  const T = Math.max(1, Math.min(spec.T, Math.floor(BUDGET / perToken)));
  return { ...spec, ...cell, HV, K, T };
}

cells.forEach((cell, index) => {
  drawn(nameOf(cell), () => {
    const property = fc.property(shapes, (shape) => {
      checkProblem(specOf(cell, shape), { cancels: true });
    });
    // Not shrunk: a small problem may fail for another reason, that its one number cancels.
    const options = { seed: 1000 + index, numRuns: 12, endOnFailure: true };
    const { errorInstance } = fc.check(property, options);
    if (errorInstance) throw errorInstance;
  });
});

drawn('few of these results cancel', () => {
  const { made, noisy } = comparisons;
  assert.ok(noisy <= made / 200, `${noisy} of ${made} comparisons needed their noise`);
});

drawn.run();

const listed = suite('recurrence: listed shapes');

const states = { withInitialState: true, withFinalStateGradient: true };

cells.forEach((cell, index) => {
  const run = (label: string, spec: Omit<ProblemSpec, keyof Cell>): void => {
    // The gradient of a head's gate is one number per head, a sum over all tokens that may cancel.
    const cancels = cell.gate === 'head';
    const full = { seed: 7 + index, ...spec, ...cell };
    listed(`${nameOf(cell)}: ${label}`, () => checkProblem(full, { cancels }));
  };
  run('one token', { B: 2, T: 1, H: 2, K: 24, V: 40, ...states });
  for (const T of [15, 16, 17, 31, 33, 65]) {
    run(`tail of ${T}`, { B: 1, T, H: 1, K: 16, V: 24, ...states });
  }
  run('head width 64', { B: 1, T: 50, H: 1, K: 64, V: 64, ...states });
  run('head width 128', { B: 1, T: 18, H: 1, K: 128, V: 128, ...states });
  run('K = 512, V = 3', { B: 1, T: 35, H: 1, K: 512, V: 3, ...states });
  run('K = 3, V = 512', { B: 1, T: 35, H: 1, K: 3, V: 512, ...states });
  run('HV = 4H', { B: 2, T: 20, H: 2, HV: 8, K: 20, V: 12, ...states });
});

for (const gate of ['head', 'token', 'channel'] as const) {
  for (const K of [1, 2, 3, 7]) {
    for (const n of [2, 3, 8]) {
      // Hardly anything is left of the state. A head's dg is one sum over tokens of what is left, and
      // is held against the terms that went in; the others against themselves.
      listed(`erased states: ${gate}, K = ${K}, n = ${n}`, () => {
        const spec = { B: 1, T: 9, H: 1, K, V: 20, gate, update: 'delta', n, ...states } as const;
        const problem = makeProblem(spec);
        const options = { numHouseholder: n };
        const expected = backward(problem, options);
        const results = pick(recurrenceBackwardSync(problem, options), Object.keys(expected));
        for (const [name, tensor] of Object.entries(results)) {
          if (name === 'dg' && gate === 'head') continue;
          compare(name, name, tensor, { ...expected }, spec.T);
        }
        if (gate !== 'head') return;
        const { o } = forward(problem, options);
        const terms = Math.hypot(...o.data) * Math.hypot(...problem.dO.data);
        const wrong = Math.hypot(...results.dg.data.map((x, i) => x - expected.dg!.data[i]));
        assert.ok(wrong <= 1e-6 * terms, `dg is off by ${wrong} of ${terms}`);
      });
    }
  }
}

listed.run();
