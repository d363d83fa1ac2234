/**
 * Linear-recurrent sequence kernels and the layer parts around them, native, forward and backward.
 *
 * Every operation `foo` comes as `foo` (a promise; inputs copied at the call, computed on the engine's threads) and
 * `fooSync` (on the caller's thread and memory), and where it has gradients as `fooBackward` and `fooBackwardSync`.
 * Tensors are plain objects `{data, shape}`.
 *
 * @module rankone
 */
export type { CudaDevice } from './binding';
export {
  type CudaDeviceName,
  type Device,
  type DeviceMemory,
  DeviceTensor,
  deviceMemory,
  synchronize,
  synchronizeSync,
  toDevice,
  toDeviceSync,
} from './device';
export {
  createKvCache,
  KvCache,
  type KvCacheContents,
  type KvCacheOfAll,
  type KvCacheOfWindow,
  type KvCacheShape,
  type KvCacheSizes,
} from './kvCache';
export * from './linalg/randomizedSvd';
export type { SketchOptions } from './linalg/sketch';
export {
  AdapterBank,
  type AdapterBankMemory,
  type AdapterBankShape,
  createAdapterBank,
} from './lora/adapterBank';
export type { AdapterSpec, RankActivation } from './lora/adapterSpec';
export * from './lora/doraAdapter';
export type * from './lora/initAdapter';
export * from './lora/initCorda';
export * from './lora/initEva';
export * from './lora/initGradient';
export * from './lora/initNf4';
export * from './lora/initQuantised';
export * from './lora/initRandom';
export * from './lora/initWeight';
export * from './lora/loraLinear';
export * from './lora/loraLinearBackward';
export * from './lora/mergeAdapter';
export * from './lora/optim';
export * from './lora/packedWeight';
export * from './lora/packQuantised';
export * from './lora/packWeight';
export * from './ops/adamW';
export * from './ops/additivePresets';
export * from './ops/attention';
export * from './ops/basisCombination';
export * from './ops/bidirectionalLinearAttention';
export * from './ops/composeStates';
export * from './ops/crossEntropy';
export * from './ops/deltaPresets';
export * from './ops/doraNorms';
export * from './ops/dplr';
export * from './ops/embedding';
export * from './ops/featureMap';
export type * from './ops/grid';
export * from './ops/hgrn';
export * from './ops/hgrn2';
export * from './ops/kroneckerLinear';
export * from './ops/l2norm';
export type * from './ops/layer';
export * from './ops/ligerAttention';
export * from './ops/localLinearAttention';
export * from './ops/mamba2';
export * from './ops/matmul';
export * from './ops/mom';
export * from './ops/randLora';
export * from './ops/recurrence';
export * from './ops/rmsNorm';
export * from './ops/rmsNormGated';
export * from './ops/rope';
export * from './ops/rowSketch';
export * from './ops/rwkv6';
export * from './ops/rwkv7';
export * from './ops/s4d';
export type * from './ops/scan';
export * from './ops/segments';
export * from './ops/shortConv';
export * from './ops/sparse';
export * from './ops/swiglu';
export * from './ops/tttLinear';
export * from './ops/windowLinearAttention';
export type { PeftConfig } from './peft/configKeys';
export type { StoredArrays, StoredDType, StoredTensor } from './peft/dtypes';
export {
  readPeft,
  readPeftConfig,
  readPeftConfigSync,
  readPeftSync,
  writePeft,
  writePeftSync,
} from './peft/peft';
export {
  type NamedTensors,
  type ReadSafetensorsOptions,
  readSafetensors,
  readSafetensorsSync,
  type SafetensorsFile,
  type WritableTensor,
  writeSafetensors,
  writeSafetensorsSync,
} from './peft/safetensors';
export type * from './peft/types';
export {
  type CudaInfo,
  type EngineInfo,
  getNumThreads,
  info,
  setNumThreads,
  version,
} from './runtime';
export { SavedForward } from './saved';
export { createState, deserializeState, RecurrentState, type StateShape } from './state';
export { tensor } from './tensor';
export type * from './types';
