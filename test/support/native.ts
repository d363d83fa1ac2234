/** Native calls on problems of the grid, held against the float64 reference. */

import type { RecurrenceBackwardOptions, RecurrenceOptions, Tensor } from '../../ts/index';
import { recurrenceBackwardSync, recurrenceSync } from '../../ts/index';
import type { RecurrenceOptions as ReferenceOptions } from '../reference/recurrence.ts';
import { backward, forward } from '../reference/recurrence.ts';
import type { Gate, Problem, ProblemSpec, Update } from './cases.ts';
import { describeProblem, gates, makeProblem } from './cases.ts';
import type { TensorName } from './compare.ts';
import { expectWithin, rowFor } from './compare.ts';
import { Random } from './random.ts';
import type { Tensor64, TensorLike } from './tensor.ts';

export interface Cell {
  gate: Gate;
  update: Update;
  n: number;
}

/** The twelve cells of the grid, Householder products with three counts. */
export const cells: readonly Cell[] = gates.flatMap((gate) => [
  { gate, update: 'additive', n: 1 },
  ...[1, 2, 3, 8].map((n) => ({ gate, update: 'delta' as const, n })),
]);

export function nameOf({ gate, update, n }: Cell): string {
  return `${gate} ${update}${n > 1 ? ` n = ${n}` : ''}`;
}

type Results = Record<string, Tensor | undefined>;
type References = Record<string, Tensor64 | undefined>;

const FORMS: readonly RecurrenceOptions[] = [
  { mode: 'recurrent' },
  { mode: 'auto' },
  ...([16, 32, 64, 128] as const).map((chunkSize) => ({ mode: 'chunk' as const, chunkSize })),
];

/** How often a comparison of this process needed the noise of `expectWithin`. */
export const comparisons = { made: 0, noisy: 0 };

export interface CheckOptions {
  /** Results may cancel, so that their condition decides what can be asked of them. */
  cancels?: boolean;
  /** Changes the problem before it runs. */
  edit?: (problem: Problem) => void;
}

/** Every form of the forward, and the backward with and without `saved`. */
export function checkProblem(spec: ProblemSpec, { cancels, edit }: CheckOptions = {}): void {
  const problem = makeProblem(spec);
  edit?.(problem);
  const label = describeProblem(spec);
  const run = (given: Problem): References => reference(given, spec);
  const expected = run(problem);
  let shaken: References | undefined;
  const noise = (): References => {
    shaken ??= sensitivity(problem, run);
    if (spec.gate === 'head') shaken.dg = termsOfHeadGate(problem, spec);
    return shaken;
  };
  const { dO, dFinalState, ...inputs } = problem;
  const given: ReferenceOptions = { numHouseholder: spec.n ?? 1, update: spec.update };
  const check = (form: string, actual: Results): void => {
    for (const [name, tensor] of Object.entries(actual)) {
      if (tensor)
        compare(`${label}: ${name}, ${form}`, name, tensor, expected, spec.T, cancels && noise);
    }
  };
  for (const form of FORMS) {
    const out = { o: unset(expected.o!), finalState: unset(expected.finalState!) };
    const options = { ...given, ...form, outputFinalState: true, out };
    const { o, finalState } = recurrenceSync(inputs, options);
    check(`${form.mode} ${form.chunkSize ?? ''}`, { o, finalState: finalState! });
  }
  const options = { ...given, outputFinalState: true, saveForBackward: true };
  const { saved, o, finalState } = recurrenceSync(inputs, options);
  check('saving', { o, finalState: finalState! });
  for (const kept of [undefined, saved]) {
    const names = Object.keys(gradientsOf(problem));
    const out = Object.fromEntries(names.map((name) => [name, unset(expected[name]!)]));
    const call: RecurrenceBackwardOptions = { ...given, out };
    const result = recurrenceBackwardSync({ ...problem, saved: kept }, call);
    check(kept ? 'with saved' : 'recomputed', pick(result, names));
  }
  saved!.dispose();
}

/** Gradients that a problem has, by name. */
export function gradientsOf(problem: Problem): Partial<Record<TensorName, true>> {
  return {
    dq: true,
    dk: true,
    dv: true,
    ...(problem.g && { dg: true }),
    ...(problem.beta && { dbeta: true }),
    ...(problem.initialState && { dInitialState: true }),
  };
}

/** Results by name; a missing one is an error. */
export function pick(results: object, names: readonly string[]): Record<string, Tensor> {
  return Object.fromEntries(
    names.map((name) => {
      const tensor = (results as Results)[name];
      if (!tensor) throw new Error(`${name}: missing`);
      return [name, tensor];
    }),
  );
}

/** One result against its row of the contract. */
export function compare(
  label: string,
  name: string,
  actual: Tensor,
  expected: References,
  T: number,
  noise?: false | (() => References),
): void {
  const ref = expected[name];
  if (!ref) throw new Error(`${label}: no reference`);
  if (actual.shape.join() !== ref.shape.join()) {
    throw new Error(`${label}: shape [${actual.shape}], reference [${ref.shape}]`);
  }
  const row = rowFor(name as TensorName, T);
  comparisons.made++;
  try {
    expectWithin(label, actual.data, ref.data, ref.shape, row);
  } catch (error) {
    if (!noise) throw error;
    comparisons.noisy++;
    expectWithin(label, actual.data, ref.data, ref.shape, row, { noise: noise()[name]!.data });
  }
}

function reference(problem: Problem, spec: ProblemSpec): References {
  const options: ReferenceOptions = { numHouseholder: spec.n ?? 1, update: spec.update };
  return { ...forward(problem, options), ...backward(problem, options) };
}

/** By how much the results of a reference move when every input is off by a rounding of float32. */
export function sensitivity<T extends object>(
  inputs: T,
  run: (inputs: T) => References,
): References {
  const random = new Random(987);
  const shake = (x: number): number => x * (1 + random.uniform(-1, 1) / 2 ** 23);
  const runs = [0, 1].map(() => {
    const shaken = Object.entries(inputs).map(([name, { data, shape }]: [string, TensorLike]) => {
      return [name, { data: Float64Array.from(data, shake), shape }];
    });
    return run(Object.fromEntries(shaken) as T);
  });
  const moved = Object.entries(run(inputs)).map(([name, x]) => {
    const data = x!.data.map((value, i) => {
      return Math.hypot(...runs.map((results) => results[name]!.data[i] - value));
    });
    return [name, { data, shape: x!.shape }];
  });
  return Object.fromEntries(moved) as References;
}

/** One rounding of the terms that the gradient of a head's gate sums: dg of each token and channel. */
function termsOfHeadGate(problem: Problem, spec: ProblemSpec): Tensor64 {
  const { B, T, K } = spec;
  const [, , HV] = problem.v.shape;
  const g = { data: new Float64Array(B * T * HV * K), shape: [B, T, HV, K] };
  const headOf = (i: number): number => Math.floor(i / K) % HV;
  g.data.forEach((_, i) => {
    g.data[i] = problem.g!.data[headOf(i)];
  });
  const { dg } = backward({ ...problem, g }, { numHouseholder: spec.n ?? 1 });
  const terms = { data: new Float64Array(HV), shape: [HV] };
  dg!.data.forEach((x, i) => {
    terms.data[headOf(i)] += Math.abs(x) / 2 ** 23;
  });
  return terms;
}

/** A result tensor that holds NaN, so that an element never written shows. */
function unset({ data, shape }: Tensor64): Tensor {
  return { data: new Float32Array(data.length).fill(NaN), shape };
}
