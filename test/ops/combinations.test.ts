/** Dtypes, packed sequences, activations and the normalizer together, on drawn cells and shapes. */

import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { FusedGate } from '../reference/activations.ts';
import type { RecurrenceOptions } from '../reference/recurrence.ts';
import type { Problem, ProblemSpec } from '../support/cases.ts';
import type { CheckOptions } from '../support/native.ts';
import { cells, checkProblem, comparisons, FEW_FORMS } from '../support/native.ts';
import fc from '../support/property.ts';
import { Random } from '../support/random.ts';

const test = suite('combinations');

// Elements of state traffic that a drawn problem may cost the float64 reference.
const BUDGET = 250_000;

const drawn = fc.record({
  cell: fc.constantFrom(...cells),
  dtype: fc.constantFrom('f32', 'bf16', 'f16'),
  halfGates: fc.boolean(),
  lengths: fc.option(
    fc.array(fc.oneof(fc.constant(0), fc.integer({ min: 1, max: 50 })), {
      minLength: 1,
      maxLength: 5,
    }),
  ),
  T: fc.integer({ min: 6, max: 150 }),
  B: fc.integer({ min: 1, max: 2 }),
  H: fc.integer({ min: 1, max: 3 }),
  perKeyHead: fc.integer({ min: 1, max: 3 }),
  K: fc.integer({ min: 2, max: 140 }),
  V: fc.integer({ min: 12, max: 140 }),
  gateScale: fc.constantFrom(1 / 64, 1 / 8, 1, 4),
  withInitialState: fc.boolean(),
  withFinalStateGradient: fc.boolean(),
  qkL2norm: fc.boolean(),
  fused: fc.boolean(),
  biased: fc.boolean(),
  lowerBound: fc.option(fc.constantFrom(-5, -1, -0.05), { nil: undefined }),
  betaActivation: fc.constantFrom('none', 'sigmoid', 'sigmoid2'),
  normalize: fc.boolean(),
  seed: fc.integer({ min: 1, max: 1 << 30 }),
});

type Drawn = typeof drawn extends fc.Arbitrary<infer T> ? T : never;

/** Null where no token was drawn. */
function problemOf(given: Drawn): { spec: ProblemSpec; check: CheckOptions } | null {
  const { cell, lengths, perKeyHead } = given;
  const HV = given.H * perKeyHead;
  const K = Math.max(given.K, 2 * cell.n);
  const affordable = Math.max(6, Math.floor(BUDGET / (HV * cell.n * K * given.V)));
  const options: RecurrenceOptions = { qkL2norm: given.qkL2norm };
  const spec: ProblemSpec = { ...given, ...cell, HV, K, normalize: false };
  spec.T = Math.min(given.T, Math.ceil(affordable / given.B));
  if (lengths) {
    const most = Math.ceil(affordable / lengths.length);
    const bounds = [0];
    for (const length of lengths) bounds.push(bounds[bounds.length - 1] + Math.min(length, most));
    Object.assign(spec, { B: 1, N: lengths.length, T: bounds[lengths.length] });
    options.cuSeqlens = Int32Array.from(bounds);
  }
  if (spec.T === 0) return null;
  // Rows of few elements are off by more than the average rounding.
  const dtype = spec.T * spec.V < 300 ? 'f32' : given.dtype;
  const random = new Random(given.seed + 1);
  if (given.fused && (cell.gate === 'token' || cell.gate === 'channel')) {
    options.gate = gateOf(spec, given, random);
  }
  if (cell.update === 'delta') options.betaActivation = given.betaActivation;
  // A first token from nothing leaves a quotient that does not depend on q.
  const plain = cell.update === 'additive' && cell.gate === 'none';
  if (plain && given.normalize && (given.withInitialState || !lengths)) {
    options.normalize = true;
    spec.normalize = true;
  }
  const edit = (problem: Problem): void => raw(problem, options, random);
  const { halfGates } = given;
  return { spec, check: { dtype, halfGates, options, edit, cancels: true, forms: FEW_FORMS } };
}

function gateOf(spec: ProblemSpec, { biased, lowerBound }: Drawn, random: Random): FusedGate {
  const { HV = 1, K } = spec;
  const shape = spec.gate === 'channel' ? [HV, K] : [HV];
  const size = shape.reduce((a, b) => a * b);
  return {
    aLog: { data: random.normals(HV, 0.7), shape: [HV] },
    ...(biased && { dtBias: { data: random.normals(size, 0.5), shape } }),
    ...(lowerBound !== undefined && { lowerBound }),
  };
}

/** What an option activates is given raw. */
function raw({ q, k, g, beta }: Problem, options: RecurrenceOptions, random: Random): void {
  const redraw = (data: Float32Array, draw: (x: number) => number): void =>
    data.set(data.map(draw));
  if (options.qkL2norm) {
    for (const { data } of [q, k]) redraw(data, (x) => x * random.uniform(1, 5));
  }
  if (options.gate) redraw(g!.data, () => -2 + 1.5 * random.normal());
  if (beta && options.betaActivation !== 'none') redraw(beta.data, () => 1.5 * random.normal());
}

for (const share of [0, 1, 2]) {
  test(`drawn, ${share + 1} of 3`, () => {
    let made = 0;
    const property = fc.property(drawn, (given) => {
      const problem = problemOf(given);
      if (!problem) return;
      made++;
      checkProblem(problem.spec, problem.check);
    });
    // Not shrunk: a small problem may fail for another reason, that its one number cancels.
    const options = { seed: 6000 + share, numRuns: 50, endOnFailure: true };
    const { errorInstance } = fc.check(property, options);
    if (errorInstance) throw errorInstance;
    assert.ok(made >= 35, `${made} problems`);
  });
}

test('few of these results cancel', () => {
  const { made, noisy } = comparisons;
  assert.ok(noisy <= made / 100, `${noisy} of ${made} comparisons needed their noise`);
});

test.run();
