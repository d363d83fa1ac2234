import { loadAddon } from './addon';

/** A public function as the engine describes it. @internal */
export interface EntryDescription {
  name: string;
  /** `group`: `''` stands among the options, a name inside the option of that name. */
  inputs: {
    name: string;
    slot: number;
    required: boolean;
    dtypes: string[];
    update: boolean;
    group?: string;
  }[];
  inputCount: number;
  options: {
    name: string;
    slot: number;
    kind: 'flag' | 'integer' | 'number' | 'choice' | 'pair' | 'device';
    choices?: string;
    group?: string;
  }[];
  optionCount: number;
  /** `offered`: the caller may give the memory. */
  outputs: { name: string; slot: number; offered: boolean }[];
  outputCount: number;
  takesState: boolean;
  makesSaved: boolean;
  takesSaved: boolean;
  takesBase: boolean;
  takesBank: boolean;
  takesCache: boolean;
  makesBase: boolean;
  /** An option of this name stands among the inputs. */
  inputGroup?: string;
  /** Its function of the package has arguments or results of another form. */
  wrapped: boolean;
}

/** Functions of this build, and where in a call's header things stand. @internal */
export interface Description {
  entries: EntryDescription[];
  maxRank: number;
  headerSize: number;
  optionsAt: number;
  outputsAt: number;
  stateAt: number;
  savedAt: number;
  baseAt: number;
  bankAt: number;
  cacheAt: number;
  jobAt: number;
  resultsAt: number;
  deviceAt: number;
  isa: string;
  availableIsas: string[];
}

/** An engine-owned object, opaque to JavaScript. @internal */
export type Handle = object & { readonly handle: unique symbol };

/**
 * What a call returns, as the header's number at `resultsAt` says. 0: nothing; 1: the one typed array that it made, or
 * the handle of a tensor on the device that the number at `deviceAt` names; 2: an array of them in the spec's order (or
 * null), then the handle of a `saved` or of a packed weight. @internal
 */
export type RawResults =
  | undefined
  | Float32Array
  | Uint16Array
  | Int32Array
  | Handle
  | (Float32Array | Uint16Array | Int32Array | Handle | null | undefined)[];

/** A CUDA device of this machine. */
export interface CudaDevice {
  name: string;
  /** Of the form `'9.0'`. */
  computeCapability: string;
  multiprocessors: number;
  memoryBytes: number;
  freeBytes: number;
  /** Its blocks run on the processor: a backend for tests. */
  emulated: boolean;
  /** Why the device cannot be used; nothing else is known of it then. */
  reason?: string;
}

/** The CUDA backend's library. @internal */
export interface CudaLibrary {
  path: string;
  devices: CudaDevice[];
}

/** The addon's exports. @internal */
export interface Binding {
  describe(): Description;
  call(entry: number, header: Float64Array, ...values: unknown[]): RawResults;
  callAsync(entry: number, header: Float64Array, ...values: unknown[]): Promise<RawResults>;
  cancel(job: number): void;
  getNumThreads(): number;
  setNumThreads(n: number): void;
  /** Multiply-add rate of the processor in GF/s, measured for about that long; blocks. 'bf16' on avx512bf16 only. */
  measurePeak(kind: 'f32' | 'bf16' | 'int8', seconds: number): number;
  /** GB/s over a working set of so many bytes per thread; 'update' counts what it reads and what it writes. Blocks. */
  measureBandwidth(traffic: 'read' | 'update', bytes: number, seconds: number): number;
  createState(
    batch: number,
    valueHeads: number,
    keyDim: number,
    valueDim: number,
    keyHeads: number | undefined,
    device?: number,
  ): Handle;
  stateRead(state: Handle, into: Float32Array, z: Float32Array | undefined): void;
  stateWrite(state: Handle, from: Float32Array, z: Float32Array | undefined): void;
  stateClone(state: Handle): Handle;
  stateDispose(state: Handle): void;
  savedDispose(saved: Handle): void;
  /** `[out, in, format, bytes]` */
  packedInfo(packed: Handle): [number, number, number, number];
  packedRead(packed: Handle, into: Float32Array): void;
  packedDispose(packed: Handle): void;
  packedToDevice(packed: Handle, device: number): Promise<Handle>;
  packedToDeviceSync(packed: Handle, device: number): Handle;
  /** window 0: none. dtype: as in a header. */
  createCache(
    batch: number,
    kvHeads: number,
    keyDim: number,
    valueDim: number,
    capacity: number,
    window: number,
    dtype: number,
  ): Handle;
  /** Tokens that a slot has seen. */
  cacheLength(cache: Handle, slot: number): number;
  /** Of all slots without one. */
  cacheReset(cache: Handle, slot: number | undefined): void;
  cacheTruncate(cache: Handle, slot: number, length: number): void;
  cacheRead(cache: Handle, slot: number, k: ArrayBufferView, v: ArrayBufferView): void;
  cacheDispose(cache: Handle): void;
  createBank(inFeatures: number, outFeatures: number, device?: number): Handle;
  bankEvict(bank: Handle, id: number): void;
  bankHas(bank: Handle, id: number): boolean;
  bankIds(bank: Handle): number[];
  /** `[adapters, used bytes, reserved bytes, pages, bytes of a page, bytes of the largest free run]` */
  bankMemory(bank: Handle): [number, number, number, number, number, number];
  bankDispose(bank: Handle): void;
  externalMemory(): number;
  /** Opens the CUDA backend's library, unless one is open already, which stays. */
  cudaOpen(path: string): CudaLibrary;
  deviceUpload(device: number, array: ArrayBufferView, dtype: number): Handle;
  deviceUploadAsync(device: number, array: ArrayBufferView, dtype: number): Promise<Handle>;
  deviceDownload(tensor: Handle, into: ArrayBufferView): void;
  /** Nobody else may have `into` before the promise is settled. */
  deviceDownloadAsync(tensor: Handle, into: ArrayBufferView): Promise<unknown>;
  deviceClone(tensor: Handle): Handle;
  /** Elements of the same memory. */
  deviceView(tensor: Handle, first: number, count: number): Handle;
  deviceDispose(tensor: Handle): void;
  deviceSynchronize(device: number): void;
  deviceSynchronizeAsync(device: number): Promise<void>;
  /** `[bytes in use, bytes held]` */
  deviceMemory(device: number): [number, number];
  /** Operations per nanosecond of bf16 products on the tensor cores, or of float32 multiply-adds; blocks. */
  devicePeak(device: number, kind: string): number;
}

const loaded = loadAddon();

/** Where the addon was loaded from. @internal */
export function bindingPath(): string {
  return loaded.file;
}

/** @internal */
export const binding = loaded.addon as Binding;
/** @internal */
export const description: Description = binding.describe();
