// What the recurrence and its presets have in common: inputs, options, results, and the dtypes that a call may have.
import type { Device, DeviceTensor } from '../device';
import type { SavedForward } from '../saved';
import type { RecurrentState } from '../state';
import type {
  Answered,
  AnyTensor,
  Asking,
  AsyncOptions,
  Beside,
  CallOptions,
  DTypeOf,
  IndexArray,
  OptionsArgument,
  ResultBeside,
  ResultTensor,
  Tensor,
  TensorBeside,
} from '../types';

// Names in the inputs and results of all presets, Mamba-2's included. What is not named here is float32 always. A call's
// dtype and device are read off q (x), and the rest is held against it: one signature, so that an error names the
// argument.
type Lead = 'q' | 'x';
type Same =
  | 'k'
  | 'v'
  | 'dO'
  | 'B'
  | 'C'
  | 'dY'
  | 'o'
  | 'y'
  | 'dq'
  | 'dk'
  | 'dv'
  | 'dx'
  | 'dB'
  | 'dC';
type Either = 'g' | 'beta' | 'dt' | 'dg' | 'dbeta' | 'ddt';

/**
 * `Inputs` of a call whose q (x) is a `Q`: k, v, dO (B, C, dY) have its dtype; g, beta (dt) that one or float32. All float
 * tensors are where it is.
 */
export type TypedInputs<Inputs, Q extends AnyTensor> = {
  [P in keyof Inputs]: P extends Lead
    ? Q
    : P extends Same
      ? TensorBeside<Q, DTypeOf<Q>>
      : P extends Either
        ? TensorBeside<Q, 'f32' | DTypeOf<Q>>
        : Beside<Inputs[P], Q>;
};

/** `Result` of a call whose q (x) is a `Q`: the output has its dtype. */
export type TypedResult<Result, Q extends AnyTensor> = {
  [P in keyof Result]: P extends Same
    ? ResultBeside<Q, DTypeOf<Q>>
    : P extends Either
      ? ResultBeside<Q, 'f32' | DTypeOf<Q>>
      : Beside<Result[P], Q>;
};

/** The dtype of gradients: float32, or that of their inputs. */
export type GradDType = 'f32' | 'input';

/** Gradients of a call whose q (x) is a `Q`, in the dtype that the option `gradDtype` asks for. */
export type TypedGradients<Result, Q extends AnyTensor, G extends GradDType> = G extends 'input'
  ? TypedResult<Result, Q>
  : { [P in keyof Result]: Beside<Result[P], Q> };

/** A forward of the grid on the caller's thread. */
export type SyncForward<Inputs, Options, Result> = <
  Q extends AnyTensor = Tensor,
  First extends boolean = false,
  Second extends boolean = false,
>(
  inputs: TypedInputs<Inputs, Q>,
  ...options: OptionsArgument<Options, Asking<Options, First, Second>>
) => Answered<TypedResult<Result, Q>, Options, First, Second>;

/** A forward of the grid on the engine's threads, with inputs copied at the call. */
export type AsyncForward<Inputs, Options, Result> = <
  Q extends AnyTensor = Tensor,
  First extends boolean = false,
  Second extends boolean = false,
>(
  inputs: TypedInputs<Inputs, Q>,
  ...options: OptionsArgument<Options, Asking<Options, First, Second> & AsyncOptions>
) => Promise<Answered<TypedResult<Result, Q>, Options, First, Second>>;

/** A backward of the grid on the caller's thread. */
export type SyncBackward<Inputs, Options, Result> = <
  Q extends AnyTensor = Tensor,
  G extends GradDType = 'f32',
>(
  inputs: TypedInputs<Inputs, Q>,
  ...options: OptionsArgument<Options, GradientOption<G>>
) => TypedGradients<Result, Q, G>;

/** A backward of the grid on the engine's threads, with inputs copied at the call. */
export type AsyncBackward<Inputs, Options, Result> = <
  Q extends AnyTensor = Tensor,
  G extends GradDType = 'f32',
>(
  inputs: TypedInputs<Inputs, Q>,
  ...options: OptionsArgument<Options, GradientOption<G> & AsyncOptions>
) => Promise<TypedGradients<Result, Q, G>>;

/**
 * Queries, keys and values, of one dtype. B batch, T tokens, H query/key heads, HV value heads (a multiple of H), K, V
 * 1 to 512, on a device to 256.
 */
export interface QueryKeyValue {
  /** `[B,T,H,K]` */
  q: Tensor;
  /** `[B,T*n,H,K]`, token-major: rows `t*n .. t*n+n-1` belong to token t. n is 1 except for Householder products. */
  k: Tensor;
  /** `[B,T*n,HV,V]`. Value head h reads query/key head `floor(h / (HV/H))`. */
  v: Tensor;
}

/** One log decay per token and value head. */
export interface TokenGate {
  /**
   * `[B,T,HV]`: natural log of the decay, usually <= 0. Below -104 it resets the state. With the option `gate` what the
   * activation takes.
   */
  g: Tensor;
}

/** One log decay per token, value head and key channel. */
export interface ChannelGate {
  /**
   * `[B,T,HV,K]`: natural log of the decay of each row of the state, usually <= 0. Below -104 it resets the row. With
   * the option `gate` what the activation takes.
   */
  g: Tensor;
}

/** The strength of the delta rule's writes. */
export interface WriteStrength {
  /**
   * `[B,T*n,HV]`: usually in [0,1], in [0,2] for negative eigenvalues. With the option `betaActivation` what the
   * activation takes.
   */
  beta: Tensor;
}

/** The recurrence starts from a tensor, or from zeros. N = B, or the number of sequences that `cuSeqlens` packs. */
export interface FromTensor {
  /** `[N,HV,K,V]`, float32; not together with state */
  initialState?: Tensor;
  state?: undefined;
}

/** The recurrence starts from a state, which it advances. */
export interface FromState {
  initialState?: undefined;
  /** Read and advanced in place; see {@link createState}. With `stateIndices` a pool. Not together with initialState. */
  state?: RecurrentState;
}

/** Where the recurrence starts: from zeros, from a tensor, or from a state that is advanced in place. Not from both. */
export type StartingState = FromTensor | FromState;

/** The running sum of keys that `normalize` continues. */
export interface StartingSum {
  /** `[N,H,K]`, float32, with `normalize`; a `state` holds its own where it was made with `keyHeads` */
  initialZ?: Tensor;
}

/** {@link StartingState}, and the running sum of keys beside a tensor. */
export type NormalizedStart = (FromTensor & StartingSum) | (FromState & { initialZ?: undefined });

/** What a backward takes beside q, k, v and those of g and beta that the forward had. */
export interface OutputGradients {
  /** `[N,HV,K,V]`, float32, as the forward had it. */
  initialState?: Tensor;
  /** Gradient of o, `[B,T,HV,V]`, in the dtype of q. */
  dO: Tensor;
  /** Gradient of finalState, `[N,HV,K,V]`, float32; absent means zero. */
  dFinalState?: Tensor;
  /** What the forward of the same problem returned for `saveForBackward`; without it the backward recomputes. */
  saved?: SavedForward;
}

/** {@link OutputGradients}, and those of the running sum of keys. */
export interface NormalizedOutputGradients extends OutputGradients, StartingSum {
  /** Gradient of finalZ, `[N,H,K]`, float32, with `normalize`; absent means zero. */
  dFinalZ?: Tensor;
}

/** How a recurrence is run. */
export interface RunOptions {
  /**
   * Default `'auto'`. Results agree across modes within the numerical contract. `saveForBackward` always goes by chunks.
   */
  mode?: 'auto' | 'recurrent' | 'chunk';
  /** A hint; results agree across values within the numerical contract. */
  chunkSize?: 16 | 32 | 64 | 128;
  /**
   * Precision of the arithmetic. On the CPU the default is `'f32'`; `'bf16'` needs its dot product (`info().isa` is
   * `'avx512bf16'`, else a RangeError) and lets a forward of many tokens round its products to bf16, for K and V from 32
   * with K V >= 1536 and gates that are neither strong nor growing. Everything else, decode, `saveForBackward` and the
   * backward, is float32. On a device `'bf16'` is the default of bf16 and f16 tensors and `'f32'` that of float32 ones.
   */
  compute?: 'f32' | 'bf16';
  /**
   * Where the call's tensors are: an error where they are not. A call runs where its tensors are, with this option or
   * without; {@link toDevice} puts them on a device.
   */
  device?: Device;
  /**
   * Packed sequences of any lengths: `[N+1]` offsets in tokens (not in `T*n` rows) from 0 to T, non-decreasing, and B is
   * 1. Sequence i is the tokens `cuSeqlens[i] .. cuSeqlens[i+1]-1` and starts from its own state; an empty one returns
   * its initial state. RangeError where the offsets are not such, or B is not 1.
   */
  cuSeqlens?: IndexArray;
}

/** Options of every cell of the grid, forward and backward. */
export interface GridOptions extends RunOptions {
  /** Factor on the output; default `K ** -0.5`. Finite. */
  scale?: number;
}

/** Option of what has queries and keys of its own. */
export interface QueryKeyNormOption {
  /** Divide each q and k by its length first: `x / sqrt(sum x^2 + 1e-6)`; default false. Differentiated through. */
  qkL2norm?: boolean;
}

/** Options of a forward that may start from a state. */
export interface StateOptions {
  /** Return `finalState`; default false. Not together with `state`. */
  outputFinalState?: boolean;
  /** Return `saved` for the backward; default false. Not together with `state`. */
  saveForBackward?: boolean;
  /**
   * `[N]`, only together with `state`, a pool of at least N rows: which row each sequence owns. RangeError for an index
   * outside of the pool or one that comes twice.
   */
  stateIndices?: Int32Array;
}

/** Options of a forward. `Outputs` names what may be written into the caller's memory. */
export interface ForwardOptions<Outputs extends string = 'o' | 'finalState'>
  extends GridOptions,
    StateOptions,
    CallOptions<Outputs> {}

/** Option of every backward. */
export interface GradientOption<G extends GradDType = GradDType> {
  /**
   * `'f32'`, the default, or `'input'`: each gradient has the dtype of its input. With float32 inputs the two are the
   * same, and so they are for what is float32 always (states, z, aLog, dtBias).
   */
  gradDtype?: G;
}

/** Options of a backward. `Gradients` names what may be written into the caller's memory beside dq, dk, dv, dInitialState. */
export interface BackwardOptions<Gradients extends string = never>
  extends GridOptions,
    GradientOption,
    CallOptions<'dq' | 'dk' | 'dv' | 'dInitialState' | Gradients> {}

/**
 * The activation of a raw gate, fused into the recurrence. With aLog and dtBias of the value head (and key channel)
 *
 *     g <- -exp(aLog) * softplus(g + dtBias)
 *     g <- lowerBound * sigmoid(exp(aLog) * (g + dtBias))      where lowerBound is given
 */
export interface GateActivation {
  /** `[HV]`, float32 */
  aLog: Tensor | DeviceTensor<'f32'>;
  /** Float32, `[HV]` beside g `[B,T,HV]`, `[HV,K]` beside g `[B,T,HV,K]`; absent means zeros */
  dtBias?: Tensor | DeviceTensor<'f32'>;
  /** In [-5,0): what g stays above. */
  lowerBound?: number;
}

/** Option of the cells gated by token or by channel. */
export interface GateOption {
  /** Activate g inside; absent means that g is the log decay itself. dg is the gradient of g as given. */
  gate?: GateActivation;
}

/** Option of the delta rule. */
export interface StrengthOption {
  /**
   * Activate beta inside: `'none'` (the default), `'sigmoid'`, or `'sigmoid2'` = 2 sigmoid, which allows negative
   * eigenvalues. dbeta is the gradient of beta as given.
   */
  betaActivation?: 'none' | 'sigmoid' | 'sigmoid2';
}

/** Option of linear attention without gate. */
export interface NormalizeOption {
  /**
   * Divide each output by what its query finds of the keys: `o = S^T q / (z^T q + 1e-10)`, z the running sum of k, default
   * false. `scale` cancels. z starts from `initialZ` and ends as `finalZ`, or travels in a `state` made with `keyHeads`.
   */
  normalize?: boolean;
}

/** Option of the Householder products. */
export interface HouseholderOption {
  /** n: updates per token, 1 to 8; default 1. The decay applies once per token, before the first. */
  numHouseholder?: number;
}

/** What a forward returns. */
export interface ForwardResult {
  /** `[B,T,HV,V]`, in the dtype of q */
  o: ResultTensor;
  /** `[N,HV,K,V]`, float32, with `outputFinalState` */
  finalState?: ResultTensor;
  /** With `saveForBackward`. */
  saved?: SavedForward;
}

/** What a forward that may `normalize` returns. */
export interface NormalizedForwardResult extends ForwardResult {
  /** `[N,H,K]`, float32, with `outputFinalState` and `normalize` */
  finalZ?: ResultTensor;
}

/** Gradients of every cell. */
export interface BackwardResult {
  /** `[B,T,H,K]`, summed over the value heads of a group */
  dq: ResultTensor;
  /** `[B,T*n,H,K]`, summed over the value heads of a group */
  dk: ResultTensor;
  /** `[B,T*n,HV,V]` */
  dv: ResultTensor;
  /** `[N,HV,K,V]`, float32, when initialState was given */
  dInitialState?: ResultTensor;
}

/** Gradients of a gate and of its activation. */
export interface GateGradient {
  /** Shape of g. Zero where the gate reset the state. */
  dg: ResultTensor;
  /** `[HV]`, float32, when `gate` was given */
  dALog?: ResultTensor;
  /** Shape of dtBias, float32, when `gate` was given with it */
  dDtBias?: ResultTensor;
}

/** Gradient of the delta rule's strength. */
export interface StrengthGradient {
  /** `[B,T*n,HV]` */
  dbeta: ResultTensor;
}

/** Gradient of the running sum of keys. */
export interface SumGradient {
  /** `[N,H,K]`, float32, when initialZ was given */
  dInitialZ?: ResultTensor;
}
