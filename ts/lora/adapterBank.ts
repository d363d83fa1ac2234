/// <reference lib="esnext.disposable" preserve="true" />
import { binding, type Handle } from '../binding';
import { type CudaDeviceName, type Device, deviceIndex, deviceName } from '../device';
import { disposeSymbol } from '../dispose';
import { show, typeError } from '../errors';
import { handles } from '../handles';
import { checkKeys } from '../linalg/arguments';
import { synchronous } from '../marshal';
import { type AdapterSpec, readSpec } from './adapterSpec';

/** Sizes of the layer that a bank's adapters belong to. */
export interface AdapterBankShape {
  inFeatures: number;
  outFeatures: number;
  /** Where the adapters shall be; default `'cpu'`. load() and replace() take tensors on the CPU in either case. */
  device?: Device;
}

/** What {@link AdapterBank.memory} returns. */
export interface AdapterBankMemory {
  /** How many are loaded. */
  adapters: number;
  /** Of the pages that adapters lie in, those of evicted and replaced ones that a call still uses among them. */
  usedBytes: number;
  /** What the bank has of the system. */
  reservedBytes: number;
  /** reservedBytes in pages. */
  pages: number;
  pageBytes: number;
  /** The longest run of free pages: what fits without more of the system's memory. */
  largestFreeBytes: number;
}

/** What only this file can give to the constructor. */
const OWN = Symbol('own');

const load = synchronous('AdapterBank.load');
const replace = synchronous('AdapterBank.replace');

/** What the engine says before it knows an id is an argument of a method. */
function checkId(method: string, id: unknown): number {
  if (typeof id !== 'number')
    throw typeError(`AdapterBank.${method}`, `id: expected a number, got ${show(id)}`);
  return id;
}

/**
 * Adapters of one layer, of any ranks, thousands of them, in pages of one pool. Calls name them by id.
 *
 * load(), replace() and evict() take effect at once and as a whole, or, where they throw, not at all. A call that has been
 * made keeps the adapters it names as they were, whatever happens to the bank until it ends.
 *
 * @example
 * using bank = createAdapterBank({ inFeatures: 4096, outFeatures: 4096 });
 * const id = bank.load({ a, b, scale: 2 });
 * const { y } = await loraLinear({ x, base, bank, routing: { kind: 'one', id } });
 */
export class AdapterBank implements Disposable {
  readonly #handle: Handle;
  readonly #inFeatures: number;
  readonly #outFeatures: number;
  readonly #device: number;
  #disposed = false;

  private constructor(
    own: symbol,
    handle: Handle,
    inFeatures: number,
    outFeatures: number,
    device: number,
  ) {
    if (own !== OWN)
      throw typeError('AdapterBank', 'constructor: expected createAdapterBank(), got a call of it');
    this.#handle = handle;
    this.#inFeatures = inFeatures;
    this.#outFeatures = outFeatures;
    this.#device = device;
    handles.bank.set(this, handle);
  }

  /** @internal */
  static of(handle: Handle, inFeatures: number, outFeatures: number, device: number): AdapterBank {
    return new AdapterBank(OWN, handle, inFeatures, outFeatures, device);
  }

  /** Columns of the layer that the adapters are for. */
  get inFeatures(): number {
    return this.#inFeatures;
  }

  /** Rows of the layer that the adapters are for. */
  get outFeatures(): number {
    return this.#outFeatures;
  }

  /** Where it is: `'cpu'`, or of the form `'cuda:0'`. Only tensors there go into a call with it. */
  get device(): 'cpu' | CudaDeviceName {
    return deviceName(this.#device);
  }

  /** Whether {@link AdapterBank.dispose} has been called. */
  get disposed(): boolean {
    return this.#disposed;
  }

  /** How many adapters are loaded. */
  get size(): number {
    return binding.bankMemory(this.#handle)[0];
  }

  /**
   * Copies an adapter into the bank.
   * @returns its id, from 0 on and never used again
   * @throws TypeError for a wrong type, dtype or unknown key; RangeError for a wrong shape or value, indices out of range,
   * and when there is no memory; Error when the bank is disposed
   */
  load(spec: AdapterSpec): number {
    const [inputs, options] = readSpec('AdapterBank.load', spec);
    return load({ ...inputs, bank: this }, options).id.data[0];
  }

  /**
   * Puts an adapter in the place of a loaded one, which may have had other ranks and parts. The id stays.
   * @throws as {@link AdapterBank.load}, and RangeError for an id that is not loaded
   */
  replace(id: number, spec: AdapterSpec): void {
    const [inputs, options] = readSpec('AdapterBank.replace', spec);
    replace({ ...inputs, bank: this }, { ...options, id: checkId('replace', id) });
  }

  /**
   * Takes an adapter out. Its memory is free once no call uses it any more.
   * @throws RangeError for an id that is not loaded, Error when the bank is disposed
   */
  evict(id: number): void {
    binding.bankEvict(this.#handle, checkId('evict', id));
  }

  /** Whether the adapter is loaded. */
  has(id: number): boolean {
    return binding.bankHas(this.#handle, checkId('has', id));
  }

  /** Of all loaded adapters, in ascending order. */
  ids(): number[] {
    return [...binding.bankIds(this.#handle)];
  }

  /** What the bank holds, and how much memory it takes. */
  memory(): AdapterBankMemory {
    const [adapters, usedBytes, reservedBytes, pages, pageBytes, largestFreeBytes] =
      binding.bankMemory(this.#handle);
    return { adapters, usedBytes, reservedBytes, pages, pageBytes, largestFreeBytes };
  }

  /** Evicts all adapters. Any later use but of the sizes is an error; a second dispose() is not. */
  dispose(): void {
    binding.bankDispose(this.#handle);
    this.#disposed = true;
  }

  /** The same as {@link AdapterBank.dispose}. */
  [Symbol.dispose](): void {
    this.dispose();
  }

  static {
    // Where the runtime has no Symbol.dispose, the method above got the name "undefined".
    if (!Symbol.dispose)
      (AdapterBank.prototype as any)[disposeSymbol] = AdapterBank.prototype.dispose;
  }
}

/**
 * A new {@link AdapterBank} without adapters.
 * @param shape sizes of the layer, 1 to 2^31 - 1
 * @throws TypeError or RangeError for anything else
 */
export function createAdapterBank(shape: AdapterBankShape): AdapterBank {
  const operation = 'createAdapterBank';
  checkKeys(operation, 'an input', shape, ['inFeatures', 'outFeatures', 'device']);
  const { inFeatures, outFeatures } = shape;
  const device = deviceIndex(operation, shape.device);
  const handle = binding.createBank(inFeatures, outFeatures, device);
  return AdapterBank.of(handle, inFeatures, outFeatures, device);
}
