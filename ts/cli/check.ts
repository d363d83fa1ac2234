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

/** The ways through an operation that are checked: the modes of a forward, and the rest. */
export type Form = 'forward' | 'recurrent' | 'chunk' | 'auto' | 'decode' | 'backward';

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
  if (op.recurrent) return ['recurrent', 'chunk', 'decode', 'backward'];
  return [...op.passes] as Form[];
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
        const fraction = fractionOfLimit(results[name], reference, op.row(name, shape, dtype));
        if (fraction >= worst.fraction) Object.assign(worst, { tensor: name, fraction });
      }
    }
    return worst;
  });
}

/**
 * Error of a result as a share of what its row of the contract allows: the row's own error or a token's, whichever is
 * nearer to its limit. Infinity for a missing result, a wrong shape, and for anything that is not finite.
 */
export function fractionOfLimit(
  result: TensorLike | undefined,
  reference: TensorLike,
  { limit, layout }: Row,
): number {
  const { shape } = reference;
  if (result?.shape.join() !== shape.join()) return Infinity;
  // A result per head has no token axis.
  const axes = shape.length === 1 && layout.kept.length > 0 ? layouts.heads : layout;
  const { row, token } = relativeErrors(valuesOf(result).data, reference.data, { shape, axes });
  return Math.max(share(row.error, limit), share(token?.error ?? 0, 10 * limit));
}

function share(error: number, limit: number): number {
  return error === 0 ? 0 : error / limit;
}

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
    case 'chunk':
      return CHUNK_SIZES.map((chunkSize) => forwardOf(problem, { mode: form, chunkSize }));
    default:
      return [forwardOf(problem, { mode: form })];
  }
}

function encode({ op, dtype }: Problem, tensors: Tensors): object {
  return encodeTensors(tensors, dtype, op.float32);
}

function forwardOf(problem: Problem, mode: object): Results {
  const { op, inputs } = problem;
  const options = { ...op.options, ...mode, outputFinalState: true };
  return operationNamed(`${op.call}Sync`)(encode(problem, inputs), options);
}

function plainForward(problem: Problem): Results {
  const { op, inputs } = problem;
  const given: Tensors = { ...inputs };
  for (const name of op.updated ?? []) {
    given[name] = { ...inputs[name], data: inputs[name].data.slice() } as Tensor32;
  }
  const results = operationNamed(`${op.call}Sync`)(encode(problem, given), op.options);
  return op.updated ? given : results;
}

/** With what the forward saved, where it saves, and without. */
function backward(problem: Problem): Results[] {
  const { op, shape, inputs, gradients } = problem;
  const kept = Object.entries(inputs).filter(([name]) => !op.forwardOnly?.includes(name));
  const given = encode(problem, { ...Object.fromEntries(kept), ...gradients });
  const options = { ...op.options, ...op.backwardOptions?.(shape) };
  const run = operationNamed(`${op.call}BackwardSync`);
  const results = [run(given, options)];
  if (!op.recurrent) return results;
  const saving = { ...op.options, saveForBackward: true };
  const { saved } = operationNamed(`${op.call}Sync`)(encode(problem, inputs), saving);
  results.push(run({ ...given, saved }, options));
  saved.dispose();
  return results;
}

/** Token by token on a state that is advanced in place. */
function decode(problem: Problem): Results {
  const { op, shape, inputs } = problem;
  const { initialState, ...perToken } = inputs;
  const [batch, valueHeads, keyDim, valueDim] = initialState.shape;
  const state = engine().createState({ batch, valueHeads, keyDim, valueDim });
  state.copyFrom(initialState as Tensor32);
  const run = operationNamed(`${op.call}Sync`);
  const outputs: Results[] = [];
  for (let t = 0; t < shape.T; t++) {
    const given = encode(problem, tokenOf(perToken, t, shape.T));
    outputs.push(run({ ...given, state }, op.options));
  }
  const finalState = state.toTensor();
  state.dispose();
  const [name] = Object.keys(outputs[0]);
  const whole = join(
    outputs.map((results) => valuesOf(results[name]!) as Tensor32),
    1,
  );
  return { [name]: whole, finalState };
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
