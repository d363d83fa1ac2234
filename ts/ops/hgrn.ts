import { asynchronous, synchronous } from '../marshal';
import type { RecurrentState } from '../state';
import type { ResultTensor, Tensor } from '../types';
import type { AsyncLayer, AsyncLayerBackward, SyncLayer, SyncLayerBackward } from './layer';
import type { ScanBackwardOptions, ScanGradients, ScanOptions } from './scan';

type Dtypes = { lead: 'x'; same: 'o' | 'dO' | 'dx'; either: 'g' | 'dg' };

/** What {@link hgrn} and its backward take. B batch, T tokens, D channels. */
export interface HgrnParameters {
  /** `[B,T,D]`: what is added, with its own gate in it */
  x: Tensor;
  /** `[B,T,D]`, float32 or in the dtype of x: natural log of the forget gate. Below -104 it forgets all. */
  g: Tensor;
}

/** Inputs of {@link hgrn}. N = B, or the number of sequences that `cuSeqlens` packs. */
export type HgrnInputs = HgrnParameters &
  (
    | {
        /** `[N,D]`, float32; not together with state */
        initialState?: Tensor;
        state?: undefined;
      }
    | {
        initialState?: undefined;
        /** Read and advanced in place: {@link createState} with valueHeads = D, keyDim = valueDim = 1. */
        state?: RecurrentState;
      }
  );

/** Options of {@link hgrn}. */
export type HgrnOptions = ScanOptions;

/** What {@link hgrn} returns. */
export interface HgrnResult {
  /** `[B,T,D]`, in the dtype of x: h of every token */
  o: ResultTensor;
  /** `[N,D]`, float32, with `outputFinalState` */
  finalState?: ResultTensor;
}

/** Inputs of {@link hgrnBackward}; states are `[N,D]`. */
export type HgrnBackwardInputs = HgrnParameters & ScanGradients;

/** Options of {@link hgrnBackward}. */
export type HgrnBackwardOptions = ScanBackwardOptions<'dx' | 'dg'>;

/** What {@link hgrnBackward} returns. */
export interface HgrnBackwardResult {
  /** `[B,T,D]` */
  dx: ResultTensor;
  /** `[B,T,D]`; zero where the gate forgot all */
  dg: ResultTensor;
  /** `[N,D]`, float32, when initialState was given */
  dInitialState?: ResultTensor;
}

/**
 * HGRN's recurrence, the elementwise gated scan (that of the MatMul-free language model too):
 *
 *     h_t = exp(g_t) * h_(t-1) + x_t
 *
 * Shapes: x, g `[B,T,D]` -> o `[B,T,D]`, h of every token. x and o have one dtype, float32, bf16 or f16; g has it too or
 * is float32; h is float32. Bound by memory: 12 bytes an element in float32, 20 to 28 in the backward.
 *
 * @throws (rejects) TypeError for a wrong type, dtype, missing argument or unknown key; RangeError for a wrong shape or
 * value, bad offsets or indices; Error for a disposed, busy or poisoned state; `signal.reason` after an abort
 * @see Qin et al., HGRN, 2023 (arXiv:2311.04823)
 */
export const hgrn: AsyncLayer<Dtypes, HgrnInputs, HgrnOptions, HgrnResult> = asynchronous('hgrn');

/**
 * {@link hgrn} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const hgrnSync: SyncLayer<Dtypes, HgrnInputs, HgrnOptions, HgrnResult> = synchronous('hgrn');

/**
 * Gradients of {@link hgrn} from dO `[B,T,D]` and dFinalState `[N,D]`.
 * @throws (rejects) as {@link hgrn}
 */
export const hgrnBackward: AsyncLayerBackward<
  Dtypes,
  HgrnBackwardInputs,
  HgrnBackwardOptions,
  HgrnBackwardResult
> = asynchronous('hgrnBackward');

/**
 * {@link hgrnBackward} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const hgrnBackwardSync: SyncLayerBackward<
  Dtypes,
  HgrnBackwardInputs,
  HgrnBackwardOptions,
  HgrnBackwardResult
> = synchronous('hgrnBackward');
