/// <reference lib="esnext.disposable" preserve="true" />
import { binding, type Handle } from './binding';
import { type CudaDeviceName, type Device, deviceIndex, deviceName } from './device';
import { disposeSymbol } from './dispose';
import { rangeError, show, typeError, underName, unknownKey } from './errors';
import { TENSOR, writeTensor } from './header';
import { seal, stateBytes, unseal } from './stateBytes';
import type { ResultTensor, Tensor } from './types';

/** Dimensions of a {@link RecurrentState}. */
export interface StateShape {
  /** N: sequences, each with a state of its own; with `stateIndices` the slots of a pool. */
  batch: number;
  /** HV: value heads. */
  valueHeads: number;
  /** K: width of a key, 1 to 512. */
  keyDim: number;
  /** V: width of a value, 1 to 512. */
  valueDim: number;
  /** H: key heads, a divisor of valueHeads; given for calls with `normalize`, whose running sum z the state then holds. */
  keyHeads?: number;
  /** Where it is: default `'cpu'`. On a device keyDim and valueDim are at most 256. */
  device?: Device;
}

/** What only this file can give to the constructor. */
const OWN = Symbol('own');
const SIZES = ['batch', 'valueHeads', 'keyDim', 'valueDim', 'keyHeads'];
const FIELDS = [...SIZES, 'device'];

type Dimensions = readonly [number, number, number, number];

const COPY = 'RecurrentState.copyFrom';

/** The array of a float32 tensor of exactly this shape. */
function floats(
  name: string,
  tensor: Tensor,
  pattern: string,
  shape: readonly number[],
): Float32Array {
  const header = new Float64Array(TENSOR); // [rank, dtype, dimensions...]
  const data = writeTensor(COPY, name, tensor, header, 0);
  const [rank, dtype, ...dims] = header;
  if (dtype !== 0)
    throw typeError(COPY, `${name}: expected data in a Float32Array, got ${show(data)}`);
  if (rank !== shape.length || shape.some((d, i) => dims[i] !== d))
    throw rangeError(
      COPY,
      `${name}: expected shape ${pattern} = [${shape}], got [${dims.slice(0, rank)}]`,
    );
  return data as Float32Array;
}

/**
 * The recurrent state of a decode, float32 `[N,HV,K,V]`, owned by the engine. Passed as `state` to a forward of any
 * cell of the grid it is read and advanced in place, for one token or for many. It serves one call at a time: a second
 * call, or dispose(), while an asynchronous call uses it is an error. After a call that was aborted or failed half way
 * it is unusable until {@link RecurrentState.copyFrom}. On a device it is advanced there, and the copies are explicit.
 *
 * @example
 * using state = createState({ batch: 1, valueHeads: 4, keyDim: 64, valueDim: 64 });
 * for (const token of tokens) o = gatedDeltaNetSync({ ...token, state }).o;
 */
export class RecurrentState implements Disposable {
  readonly #handle: Handle;
  readonly #shape: Dimensions;
  readonly #keyHeads: number;
  readonly #device: number;
  #disposed = false;

  private constructor(
    own: symbol,
    handle: Handle,
    shape: Dimensions,
    keyHeads: number,
    device: number,
  ) {
    if (own !== OWN)
      throw typeError('RecurrentState', 'constructor: expected createState(), got a call of it');
    this.#handle = handle;
    this.#shape = Object.freeze(shape);
    this.#keyHeads = keyHeads;
    this.#device = device;
  }

  /** @internal */
  static of(handle: Handle, shape: Dimensions, keyHeads: number, device: number): RecurrentState {
    return new RecurrentState(OWN, handle, shape, keyHeads, device);
  }

  /** @internal */
  static handleOf(value: unknown): Handle | undefined {
    return typeof value === 'object' && value !== null && #handle in value
      ? value.#handle
      : undefined;
  }

  /** `[N,HV,K,V]` */
  get shape(): Dimensions {
    return this.#shape;
  }

  /** Where it is: `'cpu'`, or of the form `'cuda:0'`. Only tensors there go into a call with it. */
  get device(): 'cpu' | CudaDeviceName {
    return deviceName(this.#device);
  }

  /** Shape of the running sum of keys, `[N,H,K]`; absent where the state was made without `keyHeads`. */
  get zShape(): readonly [number, number, number] | undefined {
    const [batch, , keyDim] = this.#shape;
    return this.#keyHeads > 0 ? [batch, this.#keyHeads, keyDim] : undefined;
  }

  /** Whether {@link RecurrentState.dispose} has been called. */
  get disposed(): boolean {
    return this.#disposed;
  }

  /**
   * A copy as a tensor `[N,HV,K,V]`.
   * @throws Error when it is disposed, in use by a call, or left half advanced by one; RangeError when there is no
   * memory for it
   */
  toTensor(): ResultTensor {
    return this.#read('RecurrentState.toTensor').state;
  }

  /**
   * A copy of the running sum of keys, `[N,H,K]`, that `normalize` divides by; undefined where the state holds none.
   * @throws as {@link RecurrentState.toTensor}
   */
  zToTensor(): ResultTensor | undefined {
    return this.#read('RecurrentState.zToTensor').z;
  }

  /**
   * The state, its dimensions and its running sum of keys as bytes, for a file or another process: little-endian on every
   * machine, with a version and a checksum. {@link deserializeState} reads them.
   * @throws as {@link RecurrentState.toTensor}
   */
  serialize(): Uint8Array {
    const operation = 'RecurrentState.serialize';
    const made = stateBytes(operation, [...this.#shape, this.#keyHeads]);
    underName(operation, () => binding.stateRead(this.#handle, made.state, made.z));
    return seal(made);
  }

  #read(operation: string): { state: ResultTensor; z: ResultTensor | undefined } {
    const make = (shape: readonly number[]): ResultTensor => {
      try {
        const size = this.#disposed ? 0 : shape.reduce((a, b) => a * b);
        return { data: new Float32Array(size), shape: [...shape], dtype: 'f32' };
      } catch {
        throw rangeError(operation, `out of memory for shape [${shape}]`);
      }
    };
    const state = make(this.#shape);
    const z = this.zShape && make(this.zShape);
    underName(operation, () => binding.stateRead(this.#handle, state.data, z?.data));
    return { state, z };
  }

  /**
   * Overwrites the whole state, and makes it usable again after an aborted call.
   * @param tensor float32, of this state's shape
   * @param z float32 `[N,H,K]`, only where the state was made with `keyHeads`; absent means zeros
   * @throws TypeError or RangeError for another dtype or shape, Error when it is disposed or in use by a call
   */
  copyFrom(tensor: Tensor, z?: Tensor): void {
    const state = floats('tensor', tensor, '[N,HV,K,V]', this.#shape);
    if (z !== undefined && !this.zShape)
      throw typeError(COPY, 'z: expected none, this state was made without keyHeads');
    const sums = z === undefined ? undefined : floats('z', z, '[N,H,K]', this.zShape!);
    binding.stateWrite(this.#handle, state, sums);
  }

  /** A second state with the same contents. */
  clone(): RecurrentState {
    const handle = binding.stateClone(this.#handle);
    return new RecurrentState(OWN, handle, this.#shape, this.#keyHeads, this.#device);
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
 * @param shape batch, valueHeads, keyDim, valueDim and, for `normalize`, keyHeads: positive integers, keyDim and valueDim
 * at most 512
 * @throws TypeError or RangeError for anything else, RangeError when there is no memory for it
 */
export function createState(shape: StateShape): RecurrentState {
  const name = 'createState';
  if (typeof shape !== 'object' || shape === null)
    throw typeError(name, `shape: expected {${SIZES.join(', ')}}, got ${show(shape)}`);
  for (const key in shape)
    if (!FIELDS.includes(key)) throw unknownKey(name, 'an input', key, FIELDS);
  const { batch, valueHeads, keyDim, valueDim, keyHeads } = shape;
  for (const [field, value] of Object.entries({ batch, valueHeads, keyDim, valueDim, keyHeads }))
    if (typeof value !== 'number' && !(field === 'keyHeads' && value === undefined))
      throw typeError(name, `${field}: expected a positive integer, got ${show(value)}`);
  const device = deviceIndex(name, shape.device);
  const handle = binding.createState(batch, valueHeads, keyDim, valueDim, keyHeads, device);
  return RecurrentState.of(handle, [batch, valueHeads, keyDim, valueDim], keyHeads ?? 0, device);
}

/**
 * The state whose {@link RecurrentState.serialize} gave these bytes: same dimensions, same bits.
 * @param bytes all of them and no more
 * @param device where the state shall be; default `'cpu'`
 * @throws TypeError for anything but a Uint8Array; RangeError for bytes that are cut off, of another format or version,
 * too many, or changed, and when there is no memory for the state
 */
export function deserializeState(bytes: Uint8Array, device: Device = 'cpu'): RecurrentState {
  const index = deviceIndex('deserializeState', device);
  const { dims, state, z } = unseal(bytes);
  const [batch, valueHeads, keyDim, valueDim, keyHeads] = dims;
  const shape: Dimensions = [batch, valueHeads, keyDim, valueDim];
  return underName('deserializeState', () => {
    const handle = binding.createState(...shape, keyHeads || undefined, index);
    binding.stateWrite(handle, state, z);
    return RecurrentState.of(handle, shape, keyHeads, index);
  });
}
