import type { Row } from '#oracle/support/compare';
import type { Random } from '#oracle/support/random';
import type { Tensor32, TensorLike } from '#oracle/support/tensor';
import type { Dtype } from './dtype';
import type { LoraKind } from './ops/lora';

/**
 * What a benchmark times of a recurrence. The backward reads what a forward saved; a recomputing one has the inputs only.
 */
export const passes = [
  'forward',
  'forward-saving',
  'backward',
  'backward-recomputing',
  'decode',
] as const;

/** Of all operations: the last one is a forward that saves and the backward after it, as a training step has them. */
export const allPasses = [...passes, 'forward-backward'] as const;
export type Pass = (typeof allPasses)[number];

/** How a forward of the recurrence goes. */
export const modes = ['auto', 'recurrent', 'chunk'] as const;
export type Mode = (typeof modes)[number];

export const recurrentForms = ['recurrent', 'chunk', 'decode', 'backward'] as const;
export type RecurrentForm = (typeof recurrentForms)[number];

export interface Indices {
  data: Int32Array;
  shape: number[];
}

/** Tensors under the names of their arguments. */
export type Tensors = Record<string, Tensor32 | Indices>;

/** Results of a float64 reference; undefined ones do not count. */
export type References = Record<string, TensorLike | undefined>;

/** Sizes by the letters of `axes`. */
export type Shape = Record<string, number>;

/** A call's arguments where they are objects of the engine's, and its results as tensors by name. */
export interface Bound {
  inputs: object;
  results(raw: References): References;
  dispose(): void;
}

/** What `verify` and `bench` know of an operation: its problems, its answers and the work in it. */
export interface Operation {
  /** As `--op` takes it. */
  name: string;
  /** Of the function in the package. */
  call: string;
  /** Whether it is the recurrence, with modes and a state, or a plain function. */
  recurrent: boolean;
  axes: readonly string[];
  passes: readonly Pass[];
  /** Of the fused LoRA product: what a row of it is. */
  lora?: LoraKind;
  /** Where a call takes more than tensors: its arguments, made of them. */
  bind?(given: Tensors): Bound;
  /** Options of both directions. */
  options: object;
  /** Options of the backward beside those, for a forward with such inputs. */
  backwardOptions?: (shape: Shape, inputs: Tensors) => object;
  /** Optional inputs that a benchmark leaves out. */
  unbenched?: readonly string[];
  /** Inputs that stand among the options of a call, and these options. */
  nested?: { names: readonly string[]; options: (inputs: Tensors) => object };
  /** The forms of a recurrence that `verify` goes through; default all. */
  forms?: readonly RecurrentForm[];
  /** The one instruction set that has it. */
  isa?: string;
  /** Inputs that only the forward takes. */
  forwardOnly?: readonly string[];
  /** Arguments that are float32 whatever the dtype. */
  float32: readonly string[];
  /** Arguments that are updated in place, and are the results. */
  updated?: readonly string[];
  /** Element types other than float32. */
  halves: boolean;
  /** Shapes that `verify` computes, with `--quick` the first only. */
  shapes: readonly Shape[];
  /** Message of what is wrong with a shape. */
  objection?: (shape: Shape) => string | undefined;
  /** Seeded values, exact in float32. */
  draw(shape: Shape, random: Random): { inputs: Tensors; gradients: Tensors };
  /** The float64 answers. */
  forward(inputs: Tensors): References;
  backward?(inputs: Tensors): References;
  /** How far a result may be off. */
  row(name: string, shape: Shape, dtype: Dtype | 'bf16 compute'): Row;
  /** Minimum arithmetic of one run: no redundancy of the kernels counts. 0 for what only moves data. */
  flops(pass: Pass, shape: Shape): number;
  /** What multiplies, where it is not float32. */
  arithmetic?: 'bf16' | 'int8';
  /** The axis that counts tokens, or rows that stand for them. */
  tokens: string;
  /** Shape of a benchmark unless told. */
  usual: Shape;
  /** Parts of an input that a forward reads, where it is not the whole of it. */
  readShare?(shape: Shape): Record<string, number>;
  /** Tokens times value heads of one run. */
  tokenHeads?(pass: Pass, shape: Shape): number;
}

/** Sizes as text: `B1 T512`. */
export function shapeText(shape: Shape): string {
  return Object.entries(shape)
    .map(([axis, size]) => `${axis}${size}`)
    .join(' ');
}
