/**
 * Whole token mixers of published models, as functions over their checkpoints' tensors and a cache: prompts, packed
 * sequences, decode. Each `fooLayer` is a promise computed on the engine's threads, `fooLayerSync` runs on the caller's.
 *
 * @packageDocumentation
 */
export { createLayerCache, LayerCache } from './cache';
export * from './deltaNet';
export * from './gatedDeltaNet';
export * from './gatedDeltaProduct';
export * from './gla';
export type { HeadOptions } from './heads';
export * from './hgrn2';
export * from './kda';
export * from './mamba2';
export type {
  AsyncLayerFunction,
  LayerInputs,
  LayerOptions,
  LayerResult,
  SyncLayerFunction,
} from './pass';
export * from './qwen3Next';
export * from './retention';
export * from './rwkv7';
export {
  type AdaptedLinear,
  type LayerWeights,
  type LinearWeight,
  layerTensors,
  type PackLayerOptions,
  packLayerWeights,
} from './weights';
