/** The float64 references of the layers around the recurrence, one file per op. */
export * from './adamW.ts';
export * from './attention.ts';
export * from './bidirectionalLinearAttention.ts';
export * from './crossEntropy.ts';
export * from './embedding.ts';
export * from './featureMap.ts';
export * from './l2norm.ts';
export * from './matmul.ts';
export * from './rmsNorm.ts';
export * from './rope.ts';
export * from './shortConv.ts';
export * from './swiglu.ts';
