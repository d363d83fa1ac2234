/// <reference lib="esnext.disposable" preserve="true" />
import { binding, type Handle } from '../binding';
import { type CudaDeviceName, deviceName } from '../device';
import { disposeSymbol } from '../dispose';
import { rangeError, typeError } from '../errors';
import { handles } from '../handles';
import type { ResultTensor } from '../types';

/**
 * How a {@link PackedWeight} holds its elements.
 *
 * | format | an element is | bits |
 * |---|---|---|
 * | `'f32'`, `'f16'`, `'bf16'` | a number of that type | 32, 16, 16 |
 * | `'int8'` | a signed byte times its row's scale | 8 |
 * | `'q8'` | a signed byte times the scale of its block of 32 in the row | 9 |
 * | `'q4'` | (a code from 0 to 15, less 8) times the scale of its block of 32 in the row | 5 |
 * | `'nf4'` | one of NF4's sixteen values times the scale of its block of 64, which run on over the ends of rows | 4.5 |
 */
export type WeightFormat = 'f32' | 'f16' | 'bf16' | 'int8' | 'nf4' | 'q4' | 'q8';

/** In the engine's order. */
const FORMATS: readonly WeightFormat[] = ['f32', 'bf16', 'f16', 'int8', 'q8', 'nf4', 'q4'];

/** What only this file can give to the constructor. */
const OWN = Symbol('own');

/**
 * A weight `[out,in]` in the order in which products read it, made once by {@link packWeight}, {@link packQuantised} or
 * {@link mergeAdapter} and passed as `base` to any number of calls. Engine-owned; freed by {@link PackedWeight.dispose}, at
 * the end of a `using` block, or with the object. Calls that are under way keep what they use.
 */
export class PackedWeight implements Disposable {
  readonly #handle: Handle;
  readonly #outFeatures: number;
  readonly #inFeatures: number;
  readonly #format: WeightFormat;
  readonly #bytes: number;
  readonly #device: number;
  #disposed = false;

  private constructor(own: symbol, handle: Handle, device: number) {
    if (own !== OWN)
      throw typeError('PackedWeight', 'constructor: expected packWeight(), got a call of it');
    this.#handle = handle;
    const [outFeatures, inFeatures, format, bytes] = binding.packedInfo(handle);
    this.#outFeatures = outFeatures;
    this.#inFeatures = inFeatures;
    this.#format = FORMATS[format];
    this.#bytes = bytes;
    this.#device = device;
    handles.base.set(this, handle);
  }

  /** @internal */
  static of(handle: Handle, device = -1): PackedWeight {
    return new PackedWeight(OWN, handle, device);
  }

  /** Rows of the weight. */
  get outFeatures(): number {
    return this.#outFeatures;
  }

  /** Columns of the weight. */
  get inFeatures(): number {
    return this.#inFeatures;
  }

  /** How its elements are stored. */
  get format(): WeightFormat {
    return this.#format;
  }

  /** Where it is: `'cpu'`, or of the form `'cuda:0'`. Only tensors there go into a call with it. */
  get device(): 'cpu' | CudaDeviceName {
    return deviceName(this.#device);
  }

  /** Size in memory, scales included; what is disposed has none. */
  get bytes(): number {
    return this.#disposed ? 0 : this.#bytes;
  }

  /** Whether {@link PackedWeight.dispose} has been called. */
  get disposed(): boolean {
    return this.#disposed;
  }

  /**
   * The values that the weight stands for, `[out,in]`.
   * @throws Error when it is disposed, RangeError when there is no memory for them
   */
  toTensor(): ResultTensor {
    const shape = [this.#outFeatures, this.#inFeatures];
    let data: Float32Array;
    try {
      data = new Float32Array(this.#disposed ? 0 : shape[0] * shape[1]);
    } catch {
      throw rangeError('PackedWeight.toTensor', `out of memory for shape [${shape}]`);
    }
    binding.packedRead(this.#handle, data);
    return { data, shape, dtype: 'f32' };
  }

  /** Frees the memory once no call uses it any more. A later use as `base` is an error; a second dispose() is not. */
  dispose(): void {
    binding.packedDispose(this.#handle);
    this.#disposed = true;
  }

  /** The same as {@link PackedWeight.dispose}. */
  [Symbol.dispose](): void {
    this.dispose();
  }

  static {
    // Where the runtime has no Symbol.dispose, the method above got the name "undefined".
    if (!Symbol.dispose)
      (PackedWeight.prototype as any)[disposeSymbol] = PackedWeight.prototype.dispose;
  }
}
