import { asynchronous, synchronous } from '../marshal';
import type { CallOptions, IndexArray, IndexTensor, ResultTensor, Tensor } from '../types';
import type { GradientOption } from './grid';
import type { AsyncLayer, AsyncLayerBackward, SyncLayer, SyncLayerBackward } from './layer';

type Dtypes = { lead: 'x'; same: 'y'; either: never };
type BackwardDtypes = { lead: 'dY'; same: 'dx'; either: never };
type InPlaceDtypes = { lead: 'q'; same: 'k'; either: never };

/** By which angles {@link rope} turns: what stands among the inputs. */
export interface RopeAngles {
  /**
   * `[T]`, or `[B,T]` of a batch of its own positions: int32, of any sign; absent: `offset + t`. Not together with `offset` and
   * `cuSeqlens`.
   */
  positions?: IndexTensor;
  /**
   * `[R/2]`, float32: the angle of pair i per position; absent: `theta^(-2i/R)`. Whatever scales a context is such a table:
   * linear interpolation divides it, NTK-aware scaling is another theta, YaRN and Llama 3 blend the two pair by pair.
   */
  inverseFrequencies?: Tensor;
}

/** Options that {@link rope}, its gradient and {@link ropeInPlace} share. */
export interface RopeOptions {
  /** R, even: how many of a head's elements are turned, the first ones; default D, all of them. The others stay as they are. */
  rotaryDim?: number;
  /** Pair i is elements 2i and 2i + 1, as in GPT-J and RoFormer; default false: i and i + R/2, as in GPT-NeoX and Llama. */
  interleaved?: boolean;
  /** Base of the frequencies, above 0; default 10000. Not together with `inverseFrequencies`. */
  theta?: number;
  /** Position of the first token, of every sequence; default 0. */
  offset?: number;
  /** Multiplies what is turned, as YaRN's attention factor does; default 1. */
  scale?: number;
  /**
   * Packed sequences, of which each counts its positions from `offset` on: `[N+1]` offsets in tokens from 0 to T,
   * non-decreasing, and B is 1.
   */
  cuSeqlens?: IndexArray;
}

/** Inputs of {@link rope}. */
export interface RopeInputs extends RopeAngles {
  /** `[B,T,H,D]` */
  x: Tensor;
}

/** Options of {@link rope}. */
export interface RopeForwardOptions extends RopeOptions, CallOptions<'y'> {}

/** What {@link rope} returns. */
export interface RopeResult {
  /** `[B,T,H,D]` */
  y: ResultTensor;
}

/** Inputs of {@link ropeBackward}. */
export interface RopeBackwardInputs extends RopeAngles {
  /** Gradient of y, `[B,T,H,D]`. */
  dY: Tensor;
}

/** Options of {@link ropeBackward}: those of the forward. */
export interface RopeBackwardOptions extends RopeOptions, GradientOption, CallOptions<'dx'> {}

/** What {@link ropeBackward} returns. */
export interface RopeBackwardResult {
  /** `[B,T,H,D]` */
  dx: ResultTensor;
}

/** Inputs of {@link ropeInPlace}; q and k are updated and share memory with nothing else. */
export interface RopeInPlaceInputs extends RopeAngles {
  /** `[B,T,H,D]`, updated */
  q: Tensor;
  /** `[B,T,HK,D]`, updated: of any number of heads, in the dtype of q */
  k?: Tensor;
}

/** {@link ropeInPlace} returns nothing. */
export type RopeInPlaceResult = Record<string, never>;

/**
 * Rotary position embedding: pairs (a, b) of a head's elements are turned by an angle that grows with the token's position p,
 *
 *     y_a = scale (a cos(p f_i) - b sin(p f_i));   y_b = scale (a sin(p f_i) + b cos(p f_i))
 *
 * with the frequency f_i of pair i. Angles are float64, so that long contexts lose nothing; the rest is float32. y has
 * the dtype of x. No memory but y is needed: cosines and sines are computed token by token.
 *
 * @throws (rejects) TypeError for a wrong type, dtype, missing argument, unknown key or positions given twice; RangeError
 * for a wrong shape or value
 * @see Su et al., RoFormer: Enhanced Transformer with Rotary Position Embedding, 2021 (arXiv:2104.09864); Peng et al.,
 * YaRN: Efficient Context Window Extension of Large Language Models, 2023 (arXiv:2309.00071)
 */
export const rope: AsyncLayer<Dtypes, RopeInputs, RopeForwardOptions, RopeResult> =
  asynchronous('rope');

/**
 * {@link rope} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const ropeSync: SyncLayer<Dtypes, RopeInputs, RopeForwardOptions, RopeResult> =
  synchronous('rope');

/**
 * Gradient of {@link rope} from dY `[B,T,H,D]`: it turned back, times scale. Positions, frequencies and options as the
 * forward had them.
 * @throws (rejects) as {@link rope}
 */
export const ropeBackward: AsyncLayerBackward<
  BackwardDtypes,
  RopeBackwardInputs,
  RopeBackwardOptions,
  RopeBackwardResult
> = asynchronous('ropeBackward');

/**
 * {@link ropeBackward} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const ropeBackwardSync: SyncLayerBackward<
  BackwardDtypes,
  RopeBackwardInputs,
  RopeBackwardOptions,
  RopeBackwardResult
> = synchronous('ropeBackward');

/**
 * {@link rope} of queries and keys in place, by the same angles, as a decode step does. The asynchronous form works on copies
 * and writes q and k on completion.
 * @throws (rejects) as {@link rope}, and RangeError for memory that q and k share
 */
export const ropeInPlace: AsyncLayer<
  InPlaceDtypes,
  RopeInPlaceInputs,
  RopeOptions,
  RopeInPlaceResult
> = asynchronous('ropeInPlace');

/**
 * {@link ropeInPlace} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const ropeInPlaceSync: SyncLayer<
  InPlaceDtypes,
  RopeInPlaceInputs,
  RopeOptions,
  RopeInPlaceResult
> = synchronous('ropeInPlace');
