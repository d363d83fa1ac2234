// What the scans beyond the grid have in common: where they start, packed sequences, the final state.
import type { CallOptions, IndexArray, ResultTensor, Tensor } from '../types';
import type { GradientOption } from './grid';

/** Option of every scan, forward and backward. */
export interface SequenceOption {
  /**
   * Packed sequences of any lengths: `[N+1]` offsets in tokens from 0 to T, non-decreasing, and B is 1. Sequence i is the
   * tokens `cuSeqlens[i] .. cuSeqlens[i+1]-1` and starts from its own state; an empty one returns its initial state.
   */
  cuSeqlens?: IndexArray;
}

/** Options of a scan's forward. */
export interface ScanOptions<Outputs extends string = 'o' | 'finalState'>
  extends SequenceOption,
    CallOptions<Outputs> {
  /** Return `finalState`; default false. Not together with `state`. */
  outputFinalState?: boolean;
  /**
   * `[N]`, only together with `state`, a pool of at least N rows: which row each sequence owns. RangeError for an index
   * outside of the pool or one that comes twice.
   */
  stateIndices?: Int32Array;
}

/** Options of a scan's backward. */
export interface ScanBackwardOptions<Gradients extends string>
  extends SequenceOption,
    GradientOption,
    CallOptions<Gradients | 'dInitialState'> {}

/** Option of the scans with queries. */
export interface ScaleOption {
  /** Factor on the output. Finite. */
  scale?: number;
}

/** What a scan with a matrix state returns. */
export interface ScanResult {
  /** `[B,T,H,V]`, in the dtype of the queries */
  o: ResultTensor;
  /** `[N,H,K,V]`, float32, with `outputFinalState` */
  finalState?: ResultTensor;
}

/** What a scan's backward takes beside the forward's inputs. */
export interface ScanGradients {
  /** As the forward had it, float32. */
  initialState?: Tensor;
  /** Gradient of o, in its shape and dtype. */
  dO: Tensor;
  /** Gradient of finalState, float32; absent means zero. */
  dFinalState?: Tensor;
}
