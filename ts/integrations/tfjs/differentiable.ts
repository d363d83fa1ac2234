import type { Tensor } from '@tensorflow/tfjs-core';
import { description } from '../../binding';
import { show, typeError } from '../../errors';
import { synchronous } from '../../marshal';
import type { SavedForward } from '../../saved';
import { tf } from './core';
import { type Plain, plainTensor, tensorOf } from './plain';
import { recordOnce } from './record';

type Native = (inputs: object, options: object) => Record<string, unknown>;

/** What an operation's gradients do not follow from its names. @internal */
export interface Rules {
  /** Inputs of int32, which have no gradient. */
  indices?: readonly string[];
  /** Inputs of float32 that are taken as constants. */
  fixed?: readonly string[];
  /** Inputs that the backward does not take. */
  forwardOnly?: readonly string[];
  /** Outputs that have no gradient. */
  constants?: readonly string[];
  /** Options of the backward that follow from the inputs. */
  backwardOptions?: (inputs: Record<string, Plain | undefined>) => object;
}

const FORWARD_OPTIONS = ['outputFinalState', 'saveForBackward'];

/** The name of an output's gradient: dO, dFinalState. */
function gradientOf(output: string): string {
  return `d${output[0].toUpperCase()}${output.slice(1)}`;
}

function without(object: object, names: readonly string[]): Record<string, any> {
  return Object.fromEntries(Object.entries(object).filter(([name]) => !names.includes(name)));
}

/** The tensors of a call as the engine takes them: no copy where the backend keeps them in this process's memory. */
class Arguments {
  readonly inputs: Record<string, any> = {};
  readonly options: Record<string, any> = {};
  readonly names: string[] = [];
  readonly tensors: Tensor[] = [];
  readonly #operation: string;

  constructor(operation: string, indices: readonly string[], inputs: any, options: any) {
    this.#operation = operation;
    if (typeof inputs !== 'object' || inputs === null)
      throw typeError(operation, `inputs: expected an object of tensors, got ${show(inputs)}`);
    if (typeof options !== 'object' || options === null)
      throw typeError(operation, `options: expected an object, got ${show(options)}`);
    for (const name in inputs) {
      const value = inputs[name];
      const asIs = value === undefined || name === 'state';
      this.inputs[name] = asIs
        ? value
        : this.#add(name, value, indices.includes(name) ? 'int32' : 'float32');
    }
    for (const name in options) {
      if (name === 'out') {
        if (options.out === undefined) continue;
        throw typeError(operation, 'out: expected no such option beside tf.Tensors, got one');
      }
      this.options[name] = this.#withPlainTensors(name, options[name]);
    }
  }

  /** An option may be an object of tensors and numbers, such as a gate's. */
  #withPlainTensors(name: string, value: any): unknown {
    if (typeof value !== 'object' || value === null) return value;
    const prototype = Object.getPrototypeOf(value);
    if (prototype !== Object.prototype && prototype !== null) return value;
    const result: Record<string, unknown> = {};
    for (const key of Object.keys(value)) {
      const inner = value[key];
      const isNumber = typeof inner !== 'object' || inner === null;
      result[key] = isNumber ? inner : this.#add(`${name}.${key}`, inner, 'float32');
    }
    return result;
  }

  #add(name: string, tensor: any, dtype: 'float32' | 'int32'): Plain {
    const plain = plainTensor(this.#operation, name, tensor, dtype);
    this.names.push(name);
    this.tensors.push(tensor);
    return plain;
  }
}

/**
 * The engine's function `name` over tf.Tensors. Its gradients are those that `nameBackward` returns: an output `finalState`
 * hands its gradient over as `dFinalState`, an input `initialState` or an option `gate.aLog` takes its own from
 * `dInitialState` and `dALog`.
 *
 * @internal
 */
export function differentiable(
  name: string,
  rules: Rules = {},
  forward: Native = synchronous(name),
  backward: Native = synchronous(`${name}Backward`),
): (inputs: any, options?: any) => any {
  const { indices = [], fixed = [], forwardOnly = [], constants = [], backwardOptions } = rules;
  const makesSaved = description.entries.some((e) => e.name === name && e.makesSaved);

  function operation(inputs: any, options: any = {}): Record<string, Tensor> {
    const given = new Arguments(name, indices, inputs, options);
    const forwardOptions = { ...given.options };
    const keeps = makesSaved && (options.saveForBackward ?? true) === true;
    if (keeps)
      forwardOptions.saveForBackward = tf.engine().isTapeOn() && given.inputs.state === undefined;
    let outputs: string[] = [];
    let saved: SavedForward | undefined;

    const compute = (): Tensor[] => {
      const { saved: kept, ...results } = forward(given.inputs, forwardOptions);
      saved = kept as SavedForward | undefined;
      outputs = Object.keys(results);
      return Object.values(results).map((result) => tensorOf(result as Plain));
    };

    const gradient = (dOutputs: Tensor[]): Tensor[] => {
      if (given.inputs.state !== undefined)
        throw new Error(`[${name}] state: a call that advances a state has no gradients`);
      const backwardInputs = without(given.inputs, ['state', ...forwardOnly]);
      for (const [i, output] of outputs.entries()) {
        const dOutput = plainTensor(name, gradientOf(output), dOutputs[i], 'float32');
        if (!constants.includes(output)) backwardInputs[gradientOf(output)] = dOutput;
        else if (dOutput.data.some((x) => x !== 0))
          throw new Error(`[${name}] ${output}: this output has no gradient`);
      }
      if (saved) backwardInputs.saved = saved;
      const results = backward(backwardInputs, {
        ...without(given.options, FORWARD_OPTIONS),
        ...backwardOptions?.(given.inputs),
      });
      // Inside of another tf.grad the tape may come back to this call; else this was the last time. What no gradient is
      // asked of goes with the tape, by garbage collection.
      if (tf.engine().state.gradientDepth === 0) {
        saved?.dispose();
        saved = undefined;
      }
      const byName = new Map(
        Object.entries(results).map(([key, value]) => [key.slice(1).toLowerCase(), value as Plain]),
      );
      return given.names.map((input, i) => {
        if (indices.includes(input) || fixed.includes(input))
          return tf.zeros(given.tensors[i].shape);
        const result = byName.get(input.slice(input.indexOf('.') + 1).toLowerCase());
        if (!result) throw new Error(`[${name}] ${input}: this argument has no gradient`);
        return tensorOf(result);
      });
    };

    const results = recordOnce(name, given.tensors, { compute, gradient });
    return Object.fromEntries(results.map((result, i) => [outputs[i], result]));
  }

  return Object.defineProperty(operation, 'name', { value: name });
}
