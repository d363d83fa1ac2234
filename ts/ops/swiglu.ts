import { asynchronous, synchronous } from '../marshal';
import type { CallOptions, ResultTensor, Tensor } from '../types';
import type { GradientOption } from './grid';
import type { AsyncLayer, AsyncLayerBackward, SyncLayer, SyncLayerBackward } from './layer';

/** gate, up, y and dY have one dtype. */
type Dtypes = { lead: 'gate'; same: 'up' | 'y' | 'dY' | 'dGate' | 'dUp'; either: never };

/** Inputs of {@link swiglu}, of one shape. */
export interface SwigluInputs {
  /** any shape */
  gate: Tensor;
  /** shape of gate */
  up: Tensor;
}

/** Options of {@link swiglu}. */
export interface SwigluOptions extends CallOptions<'y'> {}

/** What {@link swiglu} returns. */
export interface SwigluResult {
  /** shape of gate */
  y: ResultTensor;
}

/** Inputs of {@link swigluBackward}. */
export interface SwigluBackwardInputs extends SwigluInputs {
  /** Gradient of y, of its shape. */
  dY: Tensor;
}

/** Options of {@link swigluBackward}. */
export interface SwigluBackwardOptions extends GradientOption, CallOptions<'dGate' | 'dUp'> {}

/** What {@link swigluBackward} returns. */
export interface SwigluBackwardResult {
  /** shape of gate */
  dGate: ResultTensor;
  /** shape of gate */
  dUp: ResultTensor;
}

/**
 * The gated activation of a feed-forward block, elementwise: `y = gate * sigmoid(gate) * up`, computed in
 * float32. gate, up and y have one dtype.
 *
 * @throws (rejects) TypeError for a wrong type, dtype, missing argument or unknown key; RangeError for a wrong shape or value
 * @see Shazeer, GLU Variants Improve Transformer, 2020 (arXiv:2002.05202)
 */
export const swiglu: AsyncLayer<Dtypes, SwigluInputs, SwigluOptions, SwigluResult> =
  asynchronous('swiglu');

/**
 * {@link swiglu} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const swigluSync: SyncLayer<Dtypes, SwigluInputs, SwigluOptions, SwigluResult> =
  synchronous('swiglu');

/**
 * Gradients of {@link swiglu} from dY.
 * @throws (rejects) as {@link swiglu}
 */
export const swigluBackward: AsyncLayerBackward<
  Dtypes,
  SwigluBackwardInputs,
  SwigluBackwardOptions,
  SwigluBackwardResult
> = asynchronous('swigluBackward');

/**
 * {@link swigluBackward} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const swigluBackwardSync: SyncLayerBackward<
  Dtypes,
  SwigluBackwardInputs,
  SwigluBackwardOptions,
  SwigluBackwardResult
> = synchronous('swigluBackward');
