// What a benchmark runs.
import { fusedRun } from './bench/lora/runs';
import type { Traffic } from './bench/traffic';
import { trafficOf } from './bench/traffic';
import type { Form } from './check';
import { check, encode, makeProblem, optionsOf, STARTS, stateOf, without } from './check';
import type { Dtype } from './dtype';
import { operationNamed } from './engine';
import type { Mode, Operation, Pass, Shape, Tensors } from './operation';
import { shapeText } from './operation';
import { placed } from './place';

export interface Case {
  op: Operation;
  pass: Pass;
  shape: Shape;
  dtype: Dtype;
  mode: Mode;
  /** The model whose layer it is. */
  model?: string;
  /** The same text in cases that follow each other: these are timed in the same turns. */
  turns?: string;
}

/** `forward gatedDeltaNet B1 T512 ...` */
export function nameOf({ op, pass, shape }: Case): string {
  return `${pass} ${op.name} ${shapeText(shape)}`;
}

// What a check may cost the reference, in minimum flops, unless that is less than its fewest tokens or rows.
const CHECK_BUDGET = 1e8;
// More than a whole tile of rows, or a chunk of tokens.
const MOST_TOKENS = 70;
const FEWEST_TOKENS = 5;

/** The same widths, but few tokens, heads or rows; of the fused LoRA product, whose own check is another, small widths. */
export function smallShape({ op, shape }: Pick<Case, 'op' | 'shape'>): Shape {
  if (op.lora) {
    const { M, N, K } = shape;
    return { ...shape, M: Math.min(M, FEWEST_TOKENS), N: Math.min(N, 256), K: Math.min(K, 512) };
  }
  const { H, HV } = shape;
  const narrow = op.recurrent ? { ...shape, B: 1, H: 1, HV: Math.min(2, HV / H) } : shape;
  const ofToken = Math.max(1, op.flops('forward', { ...narrow, [op.tokens]: 1 }));
  const affordable = Math.max(FEWEST_TOKENS, Math.floor(CHECK_BUDGET / ofToken));
  const count = Math.min(MOST_TOKENS, affordable, shape[op.tokens]);
  // Decode of one token goes on from the state that others have left.
  if (op.recurrent) return { ...narrow, [op.tokens]: Math.max(FEWEST_TOKENS, count) };
  // The first query has as many keys before it as in the shape.
  const { S, T } = shape;
  return {
    ...narrow,
    ...(op.tokens === 'T' && S >= T && { S: S - T + count }),
    [op.tokens]: count,
  };
}

/** A wrong answer. */
export class CheckError extends Error {}

/** Worst error on the small problem, as a share of the contract's limit. @throws CheckError for one beyond it */
export function checkSmall(one: Case): number {
  const { op, dtype } = one;
  const form = formOf(one);
  const [{ tensor, fraction }] = check(op, smallShape(one), dtype, [form]);
  if (fraction <= 1) return fraction;
  throw new CheckError(
    `${op.name} ${form} ${dtype}: ${tensor} is off by ${fraction.toPrecision(3)} times the limit, not timed`,
  );
}

/** The check of a backward goes both ways: with what a forward saved, and without. */
function formOf({ op, pass, mode }: Case): Form {
  if (pass === 'forward') return op.recurrent ? mode : 'forward';
  return pass === 'backward-recomputing' || pass === 'forward-backward' ? 'backward' : pass;
}

export interface Prepared {
  run: () => unknown;
  traffic: Traffic;
}

/** One run of a case: no allocation where results can be written into given memory. */
export function prepare(one: Case): Prepared {
  if (one.op.lora) return fusedRun(one);
  return one.op.recurrent ? prepareRecurrence(one) : prepareLayer(one);
}

function prepareRecurrence({ op, pass, shape, dtype, mode }: Case): Prepared {
  const tokens = pass === 'decode' ? { ...shape, T: 1 } : shape;
  const { inputs, gradients } = makeProblem(op, tokens, dtype);
  const call = { op, dtype };
  const given = placed(encode(call, without(inputs, STARTS)));
  const options = placed({ ...optionsOf(op, inputs), mode });
  const forward = operationNamed(`${op.call}Sync`);
  if (pass === 'decode') {
    const { initialState, initialZ } = inputs;
    const one = { ...given, state: stateOf(inputs) };
    const out = forward(one, options);
    const traffic = trafficOf(given, out, { initialState, initialZ });
    return { run: () => forward(one, { ...options, out }), traffic };
  }
  if (pass === 'forward-saving') {
    const { saved: first, ...out } = forward(given, { ...options, saveForBackward: true });
    first.dispose();
    const saving = { ...options, saveForBackward: true, out };
    return { run: () => forward(given, saving).saved.dispose(), traffic: trafficOf(given, out) };
  }
  if (pass.startsWith('backward')) {
    const backward = operationNamed(`${op.call}BackwardSync`);
    const dOutput = placed(encode(call, without(gradients, ['dFinalState', 'dFinalZ'])));
    const recomputing: { saved?: object } = { ...given, ...dOutput };
    const out = backward(recomputing, options);
    const traffic = trafficOf(recomputing, out);
    if (pass === 'backward-recomputing') {
      return { run: () => backward(recomputing, { ...options, out }), traffic };
    }
    const { saved } = forward(given, { ...options, saveForBackward: true });
    return { run: () => backward({ ...recomputing, saved }, { ...options, out }), traffic };
  }
  const out = forward(given, options);
  return { run: () => forward(given, { ...options, out }), traffic: trafficOf(given, out) };
}

function prepareLayer({ op, pass, shape, dtype }: Case): Prepared {
  const { inputs: all, gradients } = makeProblem(op, shape, dtype);
  const inputs = without(all, op.unbenched ?? []);
  const backward = pass === 'backward';
  const taken = backward ? { ...without(inputs, op.forwardOnly ?? []), ...gradients } : inputs;
  const given = encode({ op, dtype }, taken) as Tensors;
  const call = operationNamed(`${op.call}${backward ? 'Backward' : ''}Sync`);
  const options = { ...optionsOf(op, all), ...(backward && op.backwardOptions?.(shape, inputs)) };
  const out = call(given, options);
  const traffic = layerTraffic(op, shape, given, out);
  const into = op.updated ? options : { ...options, out };
  return { run: () => call(given, into), traffic };
}

function layerTraffic(op: Operation, shape: Shape, given: Tensors, results: object): Traffic {
  const updated = op.updated ?? [];
  const both = Object.fromEntries(updated.map((name) => [name, given[name]]));
  const traffic = trafficOf(without(given, updated), results, both);
  for (const [name, share] of Object.entries(op.readShare?.(shape) ?? {})) {
    if (!(name in given)) continue;
    const unread = (1 - share) * given[name].data.byteLength;
    traffic.read -= unread;
    traffic.footprint -= unread;
  }
  return traffic;
}
