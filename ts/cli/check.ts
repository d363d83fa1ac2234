// An operation of the package against its float64 reference.
import type { Row } from '#oracle/support/compare';
import { layouts, relativeErrors } from '#oracle/support/compare';
import { Random } from '#oracle/support/random';
import { join, slice } from '#oracle/support/slices';
import type { Tensor32, TensorLike } from '#oracle/support/tensor';
import type { Dtype } from './dtype';
import { encodeTensors, roundTensors, valuesOf } from './dtype';
import { engine, operationNamed } from './engine';
import type { Operation, References, Shape, Tensors } from './operation';
import { recurrentForms } from './operation';
import { fetched, placed, placeName, placeOption } from './place';

/** The ways through an operation that are checked: the modes of a forward, and the rest. */
export type Form =
  | 'forward'
  | 'forward-saving'
  | 'recurrent'
  | 'chunk'
  | 'auto'
  | 'decode'
  | 'backward';

const CHUNK_SIZES = [16, 32, 64, 128];

/** The worst result of a form. */
export interface Finding {
  form: Form;
  /** Name of the result. */
  tensor: string;
  /** Error as a share of the limit; above 1 is a failure. */
  fraction: number;
}

/** The forms of an operation that `verify` goes through. */
export function formsOf(op: Operation): Form[] {
  if (op.recurrent) return [...(op.forms ?? recurrentForms)];
  return op.passes.filter((pass) => pass !== 'forward-backward') as Form[];
}

interface Problem {
  op: Operation;
  shape: Shape;
  dtype: Dtype;
  inputs: Tensors;
  gradients: Tensors;
}

/** Seeded values, rounded to the dtype. */
export function makeProblem(op: Operation, shape: Shape, dtype: Dtype, seed = 1): Problem {
  const { inputs, gradients } = op.draw(shape, new Random(seed));
  roundTensors(inputs, dtype, op.float32);
  roundTensors(gradients, dtype, op.float32);
  return { op, shape, dtype, inputs, gradients };
}

/** Computes one problem in the given forms and holds every result against the reference. */
export function check(op: Operation, shape: Shape, dtype: Dtype, forms: readonly Form[]) {
  const problem = makeProblem(op, shape, dtype);
  let forward: References | undefined;
  return forms.map((form): Finding => {
    const backward = form === 'backward';
    if (!backward) forward ??= op.forward(problem.inputs);
    const expected = backward
      ? op.backward!({ ...problem.inputs, ...problem.gradients })
      : forward!;
    const worst = { form, tensor: '', fraction: 0 };
    for (const results of resultsOf(problem, form)) {
      for (const [name, reference] of Object.entries(expected)) {
        if (!reference) continue;
        const row = rowOf(op, name, shape, dtype);
        const starts = problem.inputs.cuSeqlens?.data;
        const fraction = fractionOfLimit(results[name], reference, row, starts);
        if (fraction >= worst.fraction) Object.assign(worst, { tensor: name, fraction });
      }
    }
    return worst;
  });
}

/** What is not float32 is multiplied in bf16 on a device. */
export function rowOf(op: Operation, name: string, shape: Shape, dtype: Dtype): Row {
  const products = placeName() !== 'cpu' && dtype !== 'f32';
  return op.row(name, shape, products ? 'bf16 compute' : dtype);
}

/** An operation of the package where the process computes, with arguments from the CPU and results there. */
export function checkedOperation(name: string): (inputs: object, options?: object) => any {
  const call = operationNamed(name);
  return (inputs, options) => fetched(call(placed(inputs), placed(options)));
}

/**
 * Error of a result as a share of what its row of the contract allows: the row's own error or a token's, whichever is
 * nearer to its limit. Infinity for a missing result, a wrong shape, and for anything that is not finite.
 */
export function fractionOfLimit(
  result: TensorLike | undefined,
  reference: TensorLike,
  { limit, layout }: Row,
  cuSeqlens?: ArrayLike<number>,
): number {
  const { shape } = reference;
  if (result?.shape.join() !== shape.join()) return Infinity;
  // A result per head has no token axis.
  const axes = shape.length === 1 && layout.kept.length > 0 ? layouts.heads : layout;
  const options = { shape, axes, cuSeqlens };
  const { row, token } = relativeErrors(valuesOf(result).data, reference.data, options);
  return Math.max(share(row.error, limit), share(token?.error ?? 0, 10 * limit));
}

function share(error: number, limit: number): number {
  return error === 0 ? 0 : error / limit;
}

/** What a call with a state does not take. */
export const STARTS = ['initialState', 'initialZ'];

type Results = Record<string, TensorLike | undefined>;

/** Results of every call that makes up a form. */
function resultsOf(problem: Problem, form: Form): Results[] {
  switch (form) {
    case 'decode':
      return [decode(problem)];
    case 'backward':
      return backward(problem);
    case 'forward':
      return [plainForward(problem)];
    case 'forward-saving':
      return [savingForward(problem)];
    case 'chunk':
      return CHUNK_SIZES.map((chunkSize) => forwardOf(problem, { mode: form, chunkSize }));
    default:
      return [forwardOf(problem, { mode: form })];
  }
}

/** Inputs as a call takes them, less those that stand among its options. */
export function encode({ op, dtype }: Pick<Problem, 'op' | 'dtype'>, tensors: Tensors): object {
  return encodeTensors(without(tensors, op.nested?.names ?? []), dtype, op.float32);
}

export function without(tensors: Tensors, names: readonly string[]): Tensors {
  return Object.fromEntries(Object.entries(tensors).filter(([name]) => !names.includes(name)));
}

/** The options of every call on a problem. */
export function optionsOf(op: Operation, inputs: Tensors): object {
  return { ...op.options, ...op.nested?.options(inputs) };
}

function forwardOf(problem: Problem, mode: object): Results {
  const { op, inputs } = problem;
  const options = { ...optionsOf(op, inputs), ...mode, outputFinalState: true };
  return checkedOperation(`${op.call}Sync`)(encode(problem, inputs), options);
}

function savingForward(problem: Problem): Results {
  const { saved, ...results } = forwardOf(problem, { saveForBackward: true }) as Results & {
    saved: { dispose(): void };
  };
  saved.dispose();
  return results;
}

function plainForward(problem: Problem): Results {
  const { op, inputs } = problem;
  const given: Tensors = { ...inputs };
  for (const name of op.updated ?? []) {
    given[name] = { ...inputs[name], data: inputs[name].data.slice() } as Tensor32;
  }
  const results = called(problem, 'Sync', given, optionsOf(op, inputs));
  return op.updated ? given : results;
}

/** One call of a plain function. */
function called(problem: Problem, suffix: string, tensors: Tensors, options: object): Results {
  const { op } = problem;
  const run = checkedOperation(`${op.call}${suffix}`);
  const given = encode(problem, tensors);
  if (!op.bind) return run(given, options);
  const bound = op.bind(given as Tensors);
  try {
    return bound.results(run(bound.inputs, options));
  } finally {
    bound.dispose();
  }
}

/** With what the forward saved, where it saves, and without. */
function backward(problem: Problem): Results[] {
  const { op, shape, inputs, gradients } = problem;
  const tensors = { ...without(inputs, op.forwardOnly ?? []), ...gradients };
  const options = { ...optionsOf(op, inputs), ...op.backwardOptions?.(shape, inputs) };
  if (!op.recurrent) return [called(problem, 'BackwardSync', tensors, options)];
  const given = encode(problem, tensors);
  const run = checkedOperation(`${op.call}BackwardSync`);
  const results = [run(given, options)];
  const saving = { ...optionsOf(op, inputs), saveForBackward: true };
  const { saved } = checkedOperation(`${op.call}Sync`)(encode(problem, inputs), saving);
  results.push(run({ ...given, saved }, options));
  saved.dispose();
  return results;
}

/** A state that starts where the inputs say. */
export function stateOf({ initialState, initialZ }: Tensors) {
  const [batch, valueHeads, keyDim, valueDim] = initialState.shape;
  const keyHeads = initialZ?.shape[1];
  const sizes = { batch, valueHeads, keyDim, valueDim, keyHeads };
  const state = engine().createState({ ...sizes, ...placeOption() } as never);
  state.copyFrom(initialState as Tensor32, initialZ as Tensor32 | undefined);
  return state;
}

/** Token by token on a state that is advanced in place. */
function decode(problem: Problem): Results {
  const { op, shape, inputs } = problem;
  const state = stateOf(inputs);
  const perToken = without(inputs, [...STARTS, ...(op.nested?.names ?? [])]);
  const options = optionsOf(op, inputs);
  const run = checkedOperation(`${op.call}Sync`);
  const outputs: Results[] = [];
  for (let t = 0; t < shape.T; t++) {
    const given = encode(problem, tokenOf(perToken, t, shape.T));
    outputs.push(run({ ...given, state }, options));
  }
  const finalState = state.toTensor();
  const finalZ = state.zToTensor();
  state.dispose();
  const [name] = Object.keys(outputs[0]);
  const whole = join(
    outputs.map((results) => valuesOf(results[name]!) as Tensor32),
    1,
  );
  return { [name]: whole, finalState, finalZ };
}

/** The inputs of one token. Those of rank 1 belong to heads. */
export function tokenOf(inputs: Tensors, t: number, tokens: number): Tensors {
  const parts = Object.entries(inputs).map(([name, tensor]) => {
    if (tensor.shape.length === 1) return [name, tensor];
    const n = tensor.shape[1] / tokens;
    return [name, slice(tensor as Tensor32, 1, t * n, (t + 1) * n)];
  });
  return Object.fromEntries(parts);
}
