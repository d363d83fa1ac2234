/** References of the ops around the LoRA product. */
export * from './basisCombination.ts';
export * from './doraNorms.ts';
export * from './kroneckerLinear.ts';
export * from './rowSketch.ts';
export * from './sparse.ts';
