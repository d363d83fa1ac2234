import { asynchronous, synchronous } from '../marshal';
import type { CallOptions, ResultTensor, Tensor } from '../types';
import type { GradientOption } from './grid';
import type { AsyncLayer, AsyncLayerBackward, SyncLayer, SyncLayerBackward } from './layer';
import type { SequenceOption } from './scan';

type Dtypes = {
  lead: 'q';
  same: 'k' | 'v' | 'o' | 'dO' | 'dq' | 'dk' | 'dv';
  either: 'eta' | 'dEta';
};

/** Inputs of {@link tttLinear}. B batch, T tokens, H heads, D 1 to 512; N = B or the sequences that `cuSeqlens` packs. */
export interface TttLinearInputs {
  /** `[B,T,H,D]` */
  q: Tensor;
  /** `[B,T,H,D]`, in the dtype of q */
  k: Tensor;
  /** `[B,T,H,D]`, in the dtype of q */
  v: Tensor;
  /** `[B,T,H]`, float32 or in the dtype of q: the inner learning rate of each token */
  eta: Tensor;
  /** `[H,D]`, float32: weight of the inner layer norm */
  lnWeight: Tensor;
  /** `[H,D]`, float32: its bias */
  lnBias: Tensor;
  /** `[H,D,D]`, float32: the model to start from; or `[N,H,D,D]`, one for every sequence, such as a `finalW` */
  W: Tensor;
  /** `[H,D]`, float32; or `[N,H,D]` beside such a W */
  b: Tensor;
}

/** Options of {@link tttLinear} and of its backward. */
export interface TttLinearCommonOptions extends SequenceOption {
  /** Tokens that learn from one model, 1 to 64; default 16. */
  miniBatch?: number;
  /** Of the inner layer norm; default 1e-6. */
  eps?: number;
}

/** Options of {@link tttLinear}. */
export interface TttLinearOptions
  extends TttLinearCommonOptions,
    CallOptions<'o' | 'finalW' | 'finalB'> {
  /** Return `finalW` and `finalB`; default false. */
  outputFinalState?: boolean;
}

/** What {@link tttLinear} returns. */
export interface TttLinearResult {
  /** `[B,T,H,D]`, in the dtype of q */
  o: ResultTensor;
  /** `[N,H,D,D]`, float32, with `outputFinalState` */
  finalW?: ResultTensor;
  /** `[N,H,D]`, float32, with `outputFinalState` */
  finalB?: ResultTensor;
}

/** Inputs of {@link tttLinearBackward}. */
export interface TttLinearBackwardInputs extends TttLinearInputs {
  /** Gradient of o, `[B,T,H,D]`, in the dtype of q. */
  dO: Tensor;
  /** Gradient of finalW, `[N,H,D,D]`, float32; absent means zero. */
  dFinalW?: Tensor;
  /** Gradient of finalB, `[N,H,D]`, float32; absent means zero. */
  dFinalB?: Tensor;
}

/** Options of {@link tttLinearBackward}. */
export interface TttLinearBackwardOptions
  extends TttLinearCommonOptions,
    GradientOption,
    CallOptions<'dq' | 'dk' | 'dv' | 'dEta' | 'dLnWeight' | 'dLnBias' | 'dW' | 'db'> {}

/** What {@link tttLinearBackward} returns: one gradient per input, of its shape. */
export interface TttLinearBackwardResult {
  dq: ResultTensor;
  dk: ResultTensor;
  dv: ResultTensor;
  dEta: ResultTensor;
  dLnWeight: ResultTensor;
  dLnBias: ResultTensor;
  /** Summed over the sequences where they share W. */
  dW: ResultTensor;
  /** Summed over the sequences where they share b. */
  db: ResultTensor;
}

/**
 * TTT-Linear: the state of a head is a linear model W, b that learns while it reads. With f(x) = x + LN(x W + b), a token's
 * inner loss is `|f(k) - v|^2 / 2`; the tokens of a mini-batch take their gradients at the model that it found, and each
 * reads the model after its own step:
 *
 *     G_j = gradient of the loss of token j at k_j W + b
 *     W_i = W - sum over j <= i of eta_j k_j G_j^T;   b_i = b - sum over j <= i of eta_j G_j
 *     o_i = q_i + LN(q_i W_i + b_i)
 *
 * Computed in the dual form, by products over the mini-batch. The next one starts from the model after the last token. A
 * sequence goes on from `finalW` and `finalB`; the results are those of the whole where it is cut between mini-batches.
 * q, k, v and o have one dtype, float32, bf16 or f16; eta has it too or is float32; all else is float32.
 *
 * @throws (rejects) TypeError for a wrong type, dtype, missing argument or unknown key; RangeError for a wrong shape or
 * value or bad offsets; `signal.reason` after an abort
 * @see Sun et al., Learning to (Learn at Test Time), 2024 (arXiv:2407.04620)
 *
 * @example
 * const { o, finalW, finalB } = await tttLinear(inputs, { outputFinalState: true });
 * const next = await tttLinear({ ...more, W: finalW, b: finalB });
 */
export const tttLinear: AsyncLayer<Dtypes, TttLinearInputs, TttLinearOptions, TttLinearResult> =
  asynchronous('tttLinear');

/**
 * {@link tttLinear} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const tttLinearSync: SyncLayer<Dtypes, TttLinearInputs, TttLinearOptions, TttLinearResult> =
  synchronous('tttLinear');

/**
 * Gradients of {@link tttLinear} from dO, dFinalW and dFinalB, through the inner gradients, their norm and the rates. The
 * forward is computed again, with memory for one model a mini-batch.
 * @throws (rejects) as {@link tttLinear}
 */
export const tttLinearBackward: AsyncLayerBackward<
  Dtypes,
  TttLinearBackwardInputs,
  TttLinearBackwardOptions,
  TttLinearBackwardResult
> = asynchronous('tttLinearBackward');

/**
 * {@link tttLinearBackward} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const tttLinearBackwardSync: SyncLayerBackward<
  Dtypes,
  TttLinearBackwardInputs,
  TttLinearBackwardOptions,
  TttLinearBackwardResult
> = synchronous('tttLinearBackward');
