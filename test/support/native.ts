/** Native calls on problems of the grid, held against the float64 reference. */

import * as assert from 'uvu/assert';
import type { RecurrenceOptions } from '../../ts/index';
import * as rankone from '../../ts/index';
import type { RecurrenceOptions as ReferenceOptions } from '../reference/recurrence.ts';
import { backward, forward } from '../reference/recurrence.ts';
import type { Gate, Problem, ProblemSpec, Update } from './cases.ts';
import { describeProblem, gates, makeProblem } from './cases.ts';
import type { ContractDtype, TensorName } from './compare.ts';
import { expectWithin, rowFor } from './compare.ts';
import type { FloatDtype } from './half.ts';
import { decode, encode, unwritten } from './half.ts';
import { Random } from './random.ts';
import type { Tensor32, Tensor64, TensorLike } from './tensor.ts';

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

/** A tensor of any float type, as the engine takes and returns it. */
export interface AnyTensor {
  readonly data: Float32Array | Uint16Array;
  readonly shape: readonly number[];
  readonly dtype?: string;
}

type Results = Record<string, AnyTensor | undefined>;
type References = Record<string, Tensor64 | undefined>;

let where: ((name: string, f: any) => any) | undefined;

/** From now on `native`'s functions go through this one. */
export function callThrough(wrapper: (name: string, f: any) => any): void {
  where = wrapper;
}

/** The engine without its types, for calls that are put together from parts. */
export const native = new Proxy(rankone as any, {
  get: (all, name: string) => (where ? where(name, all[name]) : all[name]),
}) as Record<string, (inputs: object, options?: object) => any>;

const FORMS: readonly RecurrenceOptions[] = [
  { mode: 'recurrent' },
  { mode: 'auto' },
  ...([16, 32, 64, 128] as const).map((chunkSize) => ({ mode: 'chunk' as const, chunkSize })),
];

/** Fewer forms, where it is not the chunks that are tested. */
export const FEW_FORMS: readonly RecurrenceOptions[] = FORMS.filter(({ chunkSize }) => {
  return chunkSize === undefined || chunkSize === 16 || chunkSize === 64;
});

/** How often a comparison of this process needed the noise of `expectWithin`. */
export const comparisons = { made: 0, noisy: 0 };

export interface CheckOptions extends DtypeOptions {
  /** Results may cancel, so that their condition decides what can be asked of them. */
  cancels?: boolean;
  /** Changes the problem before it runs. */
  edit?: (problem: Problem) => void;
  /** Options that the reference and the engine both take. */
  options?: ReferenceOptions;
  forms?: readonly RecurrenceOptions[];
  /** Options of the engine alone, and the row of the contract that they ask for; default that of the dtype. */
  engine?: object;
  row?: ContractDtype;
}

export interface DtypeOptions {
  /** Of q, k, v, o and dO; default f32. */
  dtype?: FloatDtype;
  /** g and beta have it too. */
  halfGates?: boolean;
}

const HALVES = ['q', 'k', 'v', 'dO'];
const HALF_GATES = ['g', 'beta'];

/** The dtype of an argument, and with `gradDtype: 'input'` of its gradient. */
export function dtypeOf(argument: string, { dtype = 'f32', halfGates }: DtypeOptions): FloatDtype {
  const names = halfGates ? [...HALVES, ...HALF_GATES] : HALVES;
  return names.includes(argument) ? dtype : 'f32';
}

/** The tensors as the engine gets them, and the values that it then sees. */
export function inDtype<T extends Partial<Problem>>(
  problem: T,
  options: DtypeOptions,
): { given: Record<string, AnyTensor>; seen: T } {
  const tensors = Object.entries(problem) as [string, Tensor32][];
  const given = tensors.map(([name, x]) => [name, encode(dtypeOf(name, options), x)] as const);
  const seen = given.map(([name, x]) => [name, decode(x)]);
  return { given: Object.fromEntries(given), seen: Object.fromEntries(seen) as T };
}

/** Every form of the forward, a state in place, and the backward with and without `saved`. */
export function checkProblem(spec: ProblemSpec, check: CheckOptions = {}): void {
  const { cancels, edit, forms = FORMS, options: common = {}, dtype = 'f32' } = check;
  const made = makeProblem(spec);
  edit?.(made);
  const { given, seen: problem } = inDtype(made, check);
  const label = describeProblem(spec);
  const asked = { ...common, numHouseholder: spec.n ?? 1, update: spec.update };
  const options = { ...check.engine, ...asked };
  const run = (problem: Problem): References => reference(problem, asked);
  const expected = run(problem);
  let shaken: References | undefined;
  const noise = (): References => {
    shaken ??= sensitivity(problem, run);
    if (spec.gate === 'head') shaken.dg = termsOfHeadGate(problem, spec, asked);
    return shaken;
  };
  const { dO, dFinalState, dFinalZ, ...inputs } = given;
  const { cuSeqlens } = common;
  const hold = (form: string, actual: Results, wanted: readonly string[]): void => {
    for (const [name, tensor] of Object.entries(pick(actual, wanted))) {
      const where = `${label}: ${name}, ${form}`;
      assert.is(tensor.dtype ?? 'f32', name === 'o' ? dtype : 'f32', where);
      const rules = { dtype: check.row ?? dtype, cuSeqlens, noise: cancels && noise };
      compare(where, name, tensor, expected, spec.T, rules);
    }
  };
  const ends = common.normalize ? ['finalState', 'finalZ'] : ['finalState'];
  const outputs = ['o', ...ends];
  const poisoned = (name: string): AnyTensor => {
    return unwritten(name === 'o' ? dtype : 'f32', expected[name]!.shape);
  };
  const outOf = (names: readonly string[]): Results => {
    return Object.fromEntries(names.map((name) => [name, poisoned(name)]));
  };
  for (const form of forms) {
    const out = outOf(outputs);
    const results = native.recurrenceSync(inputs, {
      ...options,
      ...form,
      outputFinalState: true,
      out,
    });
    assert.is(results.o, out.o);
    hold(`${form.mode} ${form.chunkSize ?? ''}`, results, outputs);
  }
  const keeping = { ...options, outputFinalState: true, saveForBackward: true };
  const { saved, ...kept } = native.recurrenceSync(inputs, keeping);
  hold('saving', kept, outputs);
  hold('in place', inPlace(inputs, options, expected), outputs);

  const names = Object.keys(gradientsOf(problem, options));
  for (const using of [undefined, saved]) {
    const out = outOf(names);
    const results = native.recurrenceBackwardSync({ ...given, saved: using }, { ...options, out });
    hold(using ? 'with saved' : 'recomputed', results, names);
    if (dtype === 'f32') continue;
    const call = { ...options, gradDtype: 'input' };
    const rounded = native.recurrenceBackwardSync({ ...given, saved: using }, call);
    expectRounded(`${label}: gradDtype 'input'`, pick(rounded, names), out, check);
  }
  saved.dispose();
}

/** A forward that advances a state in place; o, and the state's contents as results. */
function inPlace(inputs: Results, options: ReferenceOptions, expected: References): Results {
  const { initialState, initialZ, ...rest } = inputs;
  const [batch, valueHeads, keyDim, valueDim] = expected.finalState!.shape;
  const keyHeads = options.normalize ? { keyHeads: inputs.q!.shape[2] } : {};
  const state: any = native.createState({ batch, valueHeads, keyDim, valueDim, ...keyHeads });
  if (initialState) state.copyFrom(initialState, initialZ);
  const { o } = native.recurrenceSync({ ...rest, state }, options);
  const results = { o, finalState: state.toTensor(), finalZ: state.zToTensor?.() };
  state.dispose();
  return results;
}

/** Gradients in the dtypes of their arguments are those in float32, rounded once. */
function expectRounded(label: string, actual: Results, full: Results, options: DtypeOptions): void {
  for (const [name, tensor] of Object.entries(actual)) {
    // dq belongs to q, dInitialState to initialState.
    const argument = name[1].toLowerCase() + name.slice(2);
    const dtype = dtypeOf(argument, options);
    assert.is(tensor!.dtype ?? 'f32', dtype, `${label}: dtype of ${name}`);
    const expected = encode(dtype, full[name]!);
    assert.equal(tensor!.data, expected.data, `${label}: ${name}`);
  }
}

/** Gradients that a problem has, by name. */
export function gradientsOf(
  problem: Partial<Problem>,
  { gate }: ReferenceOptions = {},
): Partial<Record<TensorName, true>> {
  return {
    dq: true,
    dk: true,
    dv: true,
    ...(problem.g && { dg: true }),
    ...(problem.beta && { dbeta: true }),
    ...(problem.initialState && { dInitialState: true }),
    ...(problem.initialZ && { dInitialZ: true }),
    ...(gate && { dALog: true }),
    ...(gate?.dtBias && { dDtBias: true }),
  };
}

/** Results by name; a missing one is an error. */
export function pick<T extends AnyTensor = AnyTensor>(
  results: Readonly<Record<string, T | undefined>> | object,
  names: readonly string[],
): Record<string, T> {
  return Object.fromEntries(
    names.map((name) => {
      const tensor = (results as Record<string, T | undefined>)[name];
      if (!tensor) throw new Error(`${name}: missing`);
      return [name, tensor];
    }),
  );
}

export interface CompareOptions {
  dtype?: ContractDtype;
  cuSeqlens?: ArrayLike<number>;
  /** See `expectWithin`. */
  noise?: false | (() => References);
}

/** One result against its row of the contract. */
export function compare(
  label: string,
  name: string,
  actual: AnyTensor,
  expected: References,
  T: number,
  { dtype = 'f32', cuSeqlens, noise }: CompareOptions = {},
): void {
  const ref = expected[name];
  if (!ref) throw new Error(`${label}: no reference`);
  if (actual.shape.join() !== ref.shape.join()) {
    throw new Error(`${label}: shape [${actual.shape}], reference [${ref.shape}]`);
  }
  const row = rowFor(name as TensorName, T, dtype);
  const { data } = decode(actual);
  comparisons.made++;
  try {
    expectWithin(label, data, ref.data, ref.shape, row, { cuSeqlens });
  } catch (error) {
    if (!noise) throw error;
    comparisons.noisy++;
    const allowed = { cuSeqlens, noise: noise()[name]!.data };
    expectWithin(label, data, ref.data, ref.shape, row, allowed);
  }
}

function reference(problem: Problem, options: ReferenceOptions): References {
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
function termsOfHeadGate(problem: Problem, spec: ProblemSpec, options: ReferenceOptions): Tensor64 {
  const { B, T, K } = spec;
  const [, , HV] = problem.v.shape;
  const g = { data: new Float64Array(B * T * HV * K), shape: [B, T, HV, K] };
  const headOf = (i: number): number => Math.floor(i / K) % HV;
  g.data.forEach((_, i) => {
    g.data[i] = problem.g!.data[headOf(i)];
  });
  const { dg } = backward({ ...problem, g }, options);
  const terms = { data: new Float64Array(HV), shape: [HV] };
  dg!.data.forEach((x, i) => {
    terms.data[headOf(i)] += Math.abs(x) / 2 ** 23;
  });
  return terms;
}
