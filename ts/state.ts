/// <reference lib="esnext.disposable" preserve="true" />
import { binding, type Handle } from './binding';
import { rangeError, show, typeError, unknownKey } from './errors';
import { TENSOR, writeTensor } from './header';
import type { ResultTensor, Tensor } from './types';

/** @internal */
export const disposeSymbol: symbol = Symbol.dispose ?? Symbol.for('Symbol.dispose');

/** Dimensions of a {@link RecurrentState}. */
export interface StateShape {
  /** B: rows of the batch, each with a state of its own. */
  batch: number;
  /** HV: value heads. */
  valueHeads: number;
  /** K: width of a key, 1 to 512. */
  keyDim: number;
  /** V: width of a value, 1 to 512. */
  valueDim: number;
}

const FIELDS = ['batch', 'valueHeads', 'keyDim', 'valueDim'];

/**
 * The recurrent state of a decode, float32 `[B,HV,K,V]`, owned by the engine. Passed as `state` to a forward of any
 * cell of the grid it is read and advanced in place, for one token or for many. It serves one call at a time: a second
 * call, or dispose(), while an asynchronous call uses it is an error. After a call that was aborted or failed half way
 * it is unusable until {@link RecurrentState.copyFrom}.
 *
 * @example
 * using state = createState({ batch: 1, valueHeads: 4, keyDim: 64, valueDim: 64 });
 * for (const token of tokens) o = gatedDeltaNetSync({ ...token, state }).o;
 */
export class RecurrentState implements Disposable {
  readonly #handle: Handle;
  readonly #shape: readonly [number, number, number, number];
  #disposed = false;

  private constructor(handle: Handle, shape: readonly [number, number, number, number]) {
    this.#handle = handle;
    this.#shape = Object.freeze(shape);
  }

  /** @internal */
  static of(handle: Handle, shape: readonly [number, number, number, number]): RecurrentState {
    return new RecurrentState(handle, shape);
  }

  /** @internal */
  static handleOf(value: unknown): Handle | undefined {
    return typeof value === 'object' && value !== null && #handle in value
      ? value.#handle
      : undefined;
  }

  /** `[B,HV,K,V]` */
  get shape(): readonly [number, number, number, number] {
    return this.#shape;
  }

  /** Whether {@link RecurrentState.dispose} has been called. */
  get disposed(): boolean {
    return this.#disposed;
  }

  /**
   * A copy as a tensor `[B,HV,K,V]`.
   * @throws Error when it is disposed, in use by a call, or left half advanced by one; RangeError when there is no
   * memory for it
   */
  toTensor(): ResultTensor {
    const shape = [...this.#shape];
    let data: Float32Array;
    try {
      data = new Float32Array(this.#disposed ? 0 : shape.reduce((a, b) => a * b));
    } catch {
      throw rangeError('RecurrentState.toTensor', `out of memory for shape [${shape}]`);
    }
    binding.stateRead(this.#handle, data);
    return { data, shape, dtype: 'f32' };
  }

  /**
   * Overwrites the whole state, and makes it usable again after an aborted call.
   * @param tensor float32, of this state's shape
   * @throws TypeError or RangeError for another dtype or shape, Error when it is disposed or in use by a call
   */
  copyFrom(tensor: Tensor): void {
    const name = 'RecurrentState.copyFrom';
    const header = new Float64Array(TENSOR); // [rank, dtype, dimensions...]
    const data = writeTensor(name, 'tensor', tensor, header, 0);
    const [rank, dtype, ...dims] = header;
    if (dtype !== 0)
      throw typeError(name, `tensor: expected data in a Float32Array, got ${show(data)}`);
    if (rank !== 4 || this.#shape.some((d, i) => dims[i] !== d))
      throw rangeError(
        name,
        `tensor: expected shape [B,HV,K,V] = [${this.#shape}], got [${dims.slice(0, rank)}]`,
      );
    binding.stateWrite(this.#handle, data as Float32Array);
  }

  /** A second state with the same contents. */
  clone(): RecurrentState {
    return new RecurrentState(binding.stateClone(this.#handle), this.#shape);
  }

  /**
   * Frees the memory now; without it the garbage collector does. A second dispose() does nothing.
   * @throws Error while an asynchronous call uses the state
   */
  dispose(): void {
    binding.stateDispose(this.#handle);
    this.#disposed = true;
  }

  /** The same as {@link RecurrentState.dispose}, for `using`. */
  [Symbol.dispose](): void {
    this.dispose();
  }

  static {
    // Where the runtime has no Symbol.dispose, the method above got the name "undefined".
    if (!Symbol.dispose)
      (RecurrentState.prototype as any)[disposeSymbol] = RecurrentState.prototype.dispose;
  }
}

/**
 * A new {@link RecurrentState} of zeros.
 * @param shape batch, valueHeads, keyDim, valueDim: positive integers, the last two at most 512
 * @throws TypeError or RangeError for anything else, RangeError when there is no memory for it
 */
export function createState(shape: StateShape): RecurrentState {
  const name = 'createState';
  if (typeof shape !== 'object' || shape === null)
    throw typeError(name, `shape: expected {${FIELDS.join(', ')}}, got ${show(shape)}`);
  for (const key in shape)
    if (!FIELDS.includes(key)) throw unknownKey(name, 'an input', key, FIELDS);
  const { batch, valueHeads, keyDim, valueDim } = shape;
  for (const [field, value] of Object.entries({ batch, valueHeads, keyDim, valueDim }))
    if (typeof value !== 'number')
      throw typeError(name, `${field}: expected a positive integer, got ${show(value)}`);
  const handle = binding.createState(batch, valueHeads, keyDim, valueDim);
  return RecurrentState.of(handle, [batch, valueHeads, keyDim, valueDim]);
}
