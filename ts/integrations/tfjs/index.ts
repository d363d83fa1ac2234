/**
 * The recurrences and layer parts as differentiable operations of TensorFlow.js, `rankone/tfjs`. It needs
 * `@tensorflow/tfjs-core` and one of its backends, which are not dependencies of the package itself.
 *
 * Each takes and returns `tf.Tensor`s under the names of the function that it is named after, and computes synchronously
 * on this machine's processors, whatever backend holds the tensors.
 *
 * @module rankone/tfjs
 */
export * from './additivePresets';
export * from './deltaPresets';
export * from './layers';
export * from './loraLinear';
export * from './matMulKernels';
export * from './recurrence';
export type * from './types';
