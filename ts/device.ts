/// <reference lib="esnext.disposable" preserve="true" />
import { binding, type Handle } from './binding';
import { cudaLibrary } from './cuda';
import { disposeSymbol } from './dispose';
import { rangeError, show, typeError } from './errors';
import { type DeviceEntry, deviceTensors } from './handles';
import { arrayKind, DTYPES, TENSOR, writeTensor } from './header';
import type { DTypeOf, FloatDType, FloatTensor, ResultsByDType } from './types';

/** Where tensors are: the CPU, or a CUDA device by number; `'cuda'` is `'cuda:0'`. */
export type Device = 'cpu' | 'cuda' | CudaDeviceName;

/** A CUDA device. */
export type CudaDeviceName = `cuda:${number}`;

/**
 * A device's number; -1 for the CPU.
 * @throws TypeError or RangeError for what is no device of this machine
 * @internal
 */
export function deviceIndex(operation: string, value: unknown): number {
  if (value === undefined || value === 'cpu') return -1;
  if (typeof value !== 'string')
    throw typeError(operation, `device: expected 'cpu', 'cuda' or 'cuda:N', got ${show(value)}`);
  const [, digits] = /^cuda(?::(\d{1,4}))?$/.exec(value) ?? [undefined, 'none'];
  if (digits === 'none')
    throw rangeError(operation, `device: expected 'cpu', 'cuda' or 'cuda:N', got ${show(value)}`);
  const { devices } = cudaLibrary(operation);
  const index = Number(digits ?? 0);
  if (index >= devices.length)
    throw rangeError(
      operation,
      `device: expected one of cuda:0 to cuda:${devices.length - 1}, got '${value}'`,
    );
  return index;
}

function cudaIndex(operation: string, value: unknown): number {
  const index = deviceIndex(operation, value);
  if (index < 0)
    throw rangeError(operation, `device: expected 'cuda' or 'cuda:N', got ${show(value)}`);
  return index;
}

/** As results and errors name it. @internal */
export function deviceName(index: number): 'cpu' | CudaDeviceName {
  return index < 0 ? 'cpu' : `cuda:${index}`;
}

/** What only this file can give to the constructor. */
const OWN = Symbol('own');

/**
 * A contiguous tensor in the memory of a device, made by {@link toDevice} or returned by an operation whose inputs are
 * there. Operations with a CUDA form take it wherever they take float tensors; all tensors of a call are on one device.
 * Engine-owned; freed by {@link DeviceTensor.dispose}, at the end of a `using` block, or with the object. Calls that are
 * under way keep what they use.
 *
 * @example
 * using q = await toDevice(queries, 'cuda');
 * using o = glaSync({ q, k, v, g }).o;   // enqueued: the device may still be at work
 * const { data } = await o.toHost();
 */
export class DeviceTensor<out D extends FloatDType = FloatDType> implements Disposable {
  readonly #entry: DeviceEntry;
  readonly #device: number;
  #disposed = false;

  private constructor(own: symbol, entry: DeviceEntry, device: number) {
    if (own !== OWN)
      throw typeError('DeviceTensor', 'constructor: expected toDevice(), got a call of it');
    this.#entry = entry;
    this.#device = device;
    Object.freeze(entry.shape);
    deviceTensors.set(this, entry);
  }

  /** @internal */
  static of(entry: DeviceEntry, device: number): DeviceTensor<any> {
    return new DeviceTensor(OWN, entry, device);
  }

  /** Its sizes, outermost first. */
  get shape(): readonly number[] {
    return this.#entry.shape;
  }

  /** The type of its elements. */
  get dtype(): D {
    return DTYPES[this.#entry.dtype] as D;
  }

  /** Of the form `'cuda:0'`. */
  get device(): CudaDeviceName {
    return `cuda:${this.#device}`;
  }

  /** Size on the device; what is disposed has none. */
  get bytes(): number {
    return this.#disposed ? 0 : this.#size() * (this.dtype === 'f32' ? 4 : 2);
  }

  /** Whether {@link DeviceTensor.dispose} has been called. */
  get disposed(): boolean {
    return this.#disposed;
  }

  /**
   * A copy on the CPU of what the calls that have been made so far leave in the tensor; later ones may write to it.
   * @throws (rejects) Error when it is disposed, or where one of these calls failed on the device; RangeError when there
   * is no memory for it
   */
  async toHost(): Promise<ResultsByDType[D]> {
    const array = this.#array();
    await binding.deviceDownloadAsync(this.#entry.handle, array);
    return this.#host(array);
  }

  /**
   * {@link DeviceTensor.toHost}, waiting for the device.
   * @throws the same errors, synchronously
   */
  toHostSync(): ResultsByDType[D] {
    const array = this.#array();
    binding.deviceDownload(this.#entry.handle, array);
    return this.#host(array);
  }

  /** A copy on the same device. */
  clone(): DeviceTensor<D> {
    const entry = { ...this.#entry, shape: [...this.shape] };
    entry.handle = binding.deviceClone(this.#entry.handle);
    return DeviceTensor.of(entry, this.#device);
  }

  /** Frees the memory once no call uses it any more. A later use is an error; a second dispose() is not. */
  dispose(): void {
    binding.deviceDispose(this.#entry.handle);
    this.#disposed = true;
  }

  /** The same as {@link DeviceTensor.dispose}. */
  [Symbol.dispose](): void {
    this.dispose();
  }

  #size(): number {
    return this.shape.includes(0) ? 0 : this.shape.reduce((a, b) => a * b, 1);
  }

  #array(): Float32Array | Uint16Array {
    const size = this.#disposed ? 0 : this.#size();
    try {
      return this.dtype === 'f32' ? new Float32Array(size) : new Uint16Array(size);
    } catch {
      throw rangeError('DeviceTensor.toHost', `out of memory for shape [${this.shape}]`);
    }
  }

  #host(array: Float32Array | Uint16Array): ResultsByDType[D] {
    const { buffer, length } = array;
    const data = this.#entry.float16
      ? new (globalThis as any).Float16Array(buffer, 0, length)
      : array;
    return { data, shape: [...this.shape], dtype: this.dtype } as any;
  }

  static {
    // Where the runtime has no Symbol.dispose, the method above got the name "undefined".
    if (!Symbol.dispose)
      (DeviceTensor.prototype as any)[disposeSymbol] = DeviceTensor.prototype.dispose;
  }
}

/** `shape`'s elements of a tensor from the given one on, in the same memory. @internal */
export function partOf(tensor: DeviceTensor, first: number, shape: number[]): DeviceTensor {
  const entry = deviceTensors.get(tensor)!;
  const count = shape.reduce((a, b) => a * b, 1);
  const handle = binding.deviceView(entry.handle, first, count);
  return DeviceTensor.of({ ...entry, handle, shape }, Number(tensor.device.slice('cuda:'.length)));
}

interface Upload {
  index: number;
  data: any;
  entry: Omit<DeviceEntry, 'handle'>;
}

function readUpload(operation: string, tensor: unknown, device: unknown): Upload {
  const index = cudaIndex(operation, device);
  const header = new Float64Array(TENSOR); // [rank, dtype, dimensions...]
  if (deviceTensors.has(tensor as object))
    throw typeError(operation, 'tensor: expected a tensor on the CPU, got a DeviceTensor');
  const data = writeTensor(operation, 'tensor', tensor, header, 0);
  const [rank, dtype, ...dims] = header;
  if (dtype > 2)
    throw typeError(operation, `tensor: expected dtype f32, bf16 or f16, got ${DTYPES[dtype]}`);
  const shape = dims.slice(0, rank);
  const size = shape.includes(0) ? 0 : shape.reduce((a, b) => a * b, 1);
  const { length } = data as Float32Array;
  if (length !== size)
    throw rangeError(
      operation,
      `tensor: expected data of length ${size} for shape [${shape}], got ${length}`,
    );
  return { index, data, entry: { dtype, shape, float16: arrayKind(data) === 'Float16Array' } };
}

/**
 * Copies a tensor to a device. The tensor's memory is free again when this returns its promise.
 * @param device `'cuda'`, which is `'cuda:0'`, or `'cuda:N'`
 * @throws (rejects) TypeError or RangeError for anything but a float tensor and a device of this machine, RangeError
 * `cuda unavailable: <reason>` where there is none, and when the device has no memory for it
 */
export async function toDevice<T extends FloatTensor>(
  tensor: T,
  device: Device,
): Promise<DeviceTensor<DTypeOf<T>>> {
  const { index, data, entry } = readUpload('toDevice', tensor, device);
  const handle = await binding.deviceUploadAsync(index, data, entry.dtype);
  return DeviceTensor.of({ handle, ...entry }, index);
}

/**
 * {@link toDevice} on the caller's thread.
 * @throws the same errors, synchronously
 */
export function toDeviceSync<T extends FloatTensor>(
  tensor: T,
  device: Device,
): DeviceTensor<DTypeOf<T>> {
  const { index, data, entry } = readUpload('toDevice', tensor, device);
  const handle: Handle = binding.deviceUpload(index, data, entry.dtype);
  return DeviceTensor.of({ handle, ...entry }, index);
}

/**
 * Resolves when the device has done all that this thread has asked of it so far. An error on the device surfaces here, or
 * with the next result that is fetched.
 */
export async function synchronize(device: Device): Promise<void> {
  await binding.deviceSynchronizeAsync(cudaIndex('synchronize', device));
}

/** {@link synchronize}, waiting for the device. */
export function synchronizeSync(device: Device): void {
  binding.deviceSynchronize(cudaIndex('synchronize', device));
}

/** What {@link deviceMemory} returns. */
export interface DeviceMemory {
  /** Of tensors, states, weights and adapters, and of what calls that are under way work with. */
  usedBytes: number;
  /** What this thread holds of the device's memory: what is free of it serves its next calls. */
  reservedBytes: number;
}

/** How much of a device's memory this thread uses. */
export function deviceMemory(device: Device): DeviceMemory {
  const [usedBytes, reservedBytes] = binding.deviceMemory(cudaIndex('deviceMemory', device));
  return { usedBytes, reservedBytes };
}
