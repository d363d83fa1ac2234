// What a benchmark runs, and the check that must pass before.
import type { Form } from './check';
import { check, encode, makeProblem, optionsOf, STARTS, stateOf, without } from './check';
import type { Dtype } from './dtype';
import { operationNamed } from './engine';
import type { Operation, Pass, Shape } from './operation';
import type { Timing } from './timing';
import { time } from './timing';

export type Mode = 'auto' | 'recurrent' | 'chunk';

export interface Case {
  op: Operation;
  pass: Pass;
  shape: Shape;
  dtype: Dtype;
  mode: Mode;
}

export interface Measurement extends Timing {
  /** Worst error of the check as a share of the contract's limit. */
  error: number;
  nsPerTokenHead?: number;
  gflops?: number;
  /** gflops / peak */
  share?: number;
}

/** Checks a case on a small problem and times it. Throws when the check fails: nothing is timed then. */
export async function measure(one: Case, seconds: number): Promise<Measurement> {
  const { op, pass, shape } = one;
  const error = checkSmall(one);
  const timing = await time(prepare(one), seconds);
  const { median, peak } = timing;
  const heads = op.tokenHeads?.(pass, shape);
  const gflops = op.flops && op.flops(pass, shape) / median;
  return {
    ...timing,
    error,
    ...(heads && { nsPerTokenHead: median / heads }),
    ...(gflops && { gflops, share: gflops / peak }),
  };
}

// State updates of the reference that a check may cost, and rows of a matrix.
const CHECK_BUDGET = 4_000_000;
const CHECK_ROWS = 5;

/** The same widths, but few tokens, heads or rows. */
function smallShape({ op, shape }: Case): Shape {
  if (!op.recurrent) return { ...shape, M: Math.min(shape.M, CHECK_ROWS) };
  const { T, H, HV, K, V } = shape;
  const tokens = Math.max(3, Math.min(T, 70, Math.floor(CHECK_BUDGET / (K * V))));
  return { B: 1, T: tokens, H: 1, HV: Math.min(2, HV / H), K, V };
}

function checkSmall(one: Case): number {
  const { op, pass, dtype, mode } = one;
  const form: Form = pass === 'forward' && op.recurrent ? mode : pass;
  const [{ tensor, fraction }] = check(op, smallShape(one), dtype, [form]);
  if (fraction <= 1) return fraction;
  throw new CheckError(
    `${op.name} ${form} ${dtype}: ${tensor} is off by ${fraction.toPrecision(3)} times the limit, not timed`,
  );
}

/** A wrong answer. */
export class CheckError extends Error {}

/** One run of a case: no allocation where results can be written into given memory. */
export function prepare(one: Case): () => unknown {
  return one.op.recurrent ? prepareRecurrence(one) : prepareLayer(one);
}

function prepareRecurrence({ op, pass, shape, dtype, mode }: Case): () => unknown {
  const tokens = pass === 'decode' ? { ...shape, T: 1 } : shape;
  const { inputs, gradients } = makeProblem(op, tokens, dtype);
  const rest = without(inputs, STARTS);
  const dOutput = without(gradients, ['dFinalState', 'dFinalZ']);
  const call = { op, dtype };
  const given = encode(call, rest);
  const options = { ...optionsOf(op, inputs), mode };
  const forward = operationNamed(`${op.call}Sync`);
  if (pass === 'decode') {
    const one = { ...given, state: stateOf(inputs) };
    return () => forward(one, options);
  }
  if (pass === 'backward') {
    const { saved } = forward(given, { ...options, saveForBackward: true });
    const backward = operationNamed(`${op.call}BackwardSync`);
    const withSaved = { ...given, ...encode(call, dOutput), saved };
    return () => backward(withSaved, options);
  }
  const out = forward(given, options);
  return () => forward(given, { ...options, out });
}

function prepareLayer({ op, pass, shape, dtype }: Case): () => unknown {
  const { inputs, gradients } = makeProblem(op, shape, dtype);
  const backward = pass === 'backward';
  const kept = without(inputs, op.forwardOnly ?? []);
  const given = encode({ op, dtype }, { ...kept, ...(backward && gradients) });
  const call = operationNamed(`${op.call}${backward ? 'Backward' : ''}Sync`);
  const out = call(given, op.options);
  return () => call(given, { ...op.options, out });
}
