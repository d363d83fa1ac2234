import { asynchronous, synchronous } from '../marshal';
import type { CallOptions, ResultTensor, Tensor } from '../types';
import type { GradientOption } from './grid';
import type { AsyncLayer, AsyncLayerBackward, SyncLayer, SyncLayerBackward } from './layer';

/** x, y and dY have one dtype; what is learned has it too or is float32. */
type Dtypes = {
  lead: 'x';
  same: 'y' | 'dY' | 'dx';
  either: 'weight' | 'bias' | 'scale' | 'dWeight' | 'dBias' | 'dScale';
};

/** The maps of {@link featureMap}. */
export type FeatureMapKind =
  | 'elu1'
  | 'relu'
  | 'softmax'
  | 'hedgehog'
  | 'hedgehogExp'
  | 'focused'
  | 'taylor2';

/** Inputs of {@link featureMap}. */
export interface FeatureMapInputs {
  /** `[...,K]`, or `[...,H,K]` with a weight for every head */
  x: Tensor;
  /** Hedgehog's projection, `[H,K,D]`, or `[K,D]` for all heads; absent means the identity. */
  weight?: Tensor;
  /** Beside a weight, `[H,D]` or `[D]`. */
  bias?: Tensor;
  /** With kind 'focused', `[K]`: what relu(x) is divided by, before its softplus. */
  scale?: Tensor;
}

/** Which map, and its constants. */
export interface FeatureMapForm {
  /** The map. */
  kind: FeatureMapKind;
  /** With kind 'focused': p, an integer from 1 to 64; default 3. */
  power?: number;
  /** With kind 'focused': what is added to relu(x); default 1e-6. */
  eps?: number;
}

/** Options of {@link featureMap}. */
export interface FeatureMapOptions extends FeatureMapForm, CallOptions<'y'> {}

/** What {@link featureMap} returns. */
export interface FeatureMapResult {
  /** `[...,F]` */
  y: ResultTensor;
}

/** Inputs of {@link featureMapBackward}. */
export interface FeatureMapBackwardInputs extends FeatureMapInputs {
  /** Gradient of y, `[...,F]`. */
  dY: Tensor;
}

/** Options of {@link featureMapBackward}. */
export interface FeatureMapBackwardOptions
  extends FeatureMapForm,
    GradientOption,
    CallOptions<'dx' | 'dWeight' | 'dBias' | 'dScale'> {}

/** What {@link featureMapBackward} returns. */
export interface FeatureMapBackwardResult {
  /** `[...,K]` */
  dx: ResultTensor;
  /** Of weight's shape, when it was given. */
  dWeight?: ResultTensor;
  /** Of bias's shape, when it was given. */
  dBias?: ResultTensor;
  /** `[K]`, when a scale was given. */
  dScale?: ResultTensor;
}

/**
 * Feature maps of linear attention: y = phi(x) over the last dimension, computed in float32. F, the number of features:
 *
 * | kind | phi(x) | F |
 * |---|---|---|
 * | `elu1` | `elu(x) + 1` (Katharopoulos et al., Transformers are RNNs, 2020) | K |
 * | `relu` | `max(x, 0)` (Kasai et al., Finetuning Pretrained Transformers into RNNs, 2021) | K |
 * | `softmax` | `e^x / sum e^x` | K |
 * | `hedgehog` | `[softmax(z), softmax(-z)]` of `z = x W + b` (Zhang et al., The Hedgehog & the Porcupine, 2024) | 2 D |
 * | `hedgehogExp` | `[e^z, e^-z]`, the same paper's other form; overflows where z does | 2 D |
 * | `focused` | `\|u\| u^p / \|u^p\|` of `u = (relu(x) + eps) / softplus(scale)` (Han et al., FLatten Transformer, 2023) | K |
 * | `taylor2` | `[1, x / K^(1/4), x_i x_j / sqrt(K)]` for i < j, and `x_i^2 / sqrt(2 K)` (Arora et al., Based, 2024) | 1 + K + K (K + 1) / 2 |
 *
 * Products of two of the last kind are `1 + s + s^2 / 2` of `s = x . x' / sqrt(K)`; each pair i <= j of its second order
 * stands once, row by row: (0,0), (0,1), ..., (1,1), ...; K is at most 4096 there.
 *
 * @throws (rejects) TypeError for a wrong type, dtype, missing argument, unknown key or what the kind does not take;
 * RangeError for a wrong shape or value
 * @see Zhang et al., The Hedgehog & the Porcupine: Expressive Linear Attentions with Softmax Mimicry, 2024 (arXiv:2402.04347)
 * @see Han et al., FLatten Transformer: Vision Transformer using Focused Linear Attention, 2023 (arXiv:2308.00442)
 * @see Arora et al., Simple linear attention language models balance the recall-throughput tradeoff, 2024 (arXiv:2402.18668)
 */
export const featureMap: AsyncLayer<Dtypes, FeatureMapInputs, FeatureMapOptions, FeatureMapResult> =
  asynchronous('featureMap');

/**
 * {@link featureMap} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const featureMapSync: SyncLayer<
  Dtypes,
  FeatureMapInputs,
  FeatureMapOptions,
  FeatureMapResult
> = synchronous('featureMap');

/**
 * Gradients of {@link featureMap} from dY `[...,F]`. At 0 relu has slope 0. Those of what is learned are sums over rows,
 * in an order that depends on shape alone.
 * @throws (rejects) as {@link featureMap}
 */
export const featureMapBackward: AsyncLayerBackward<
  Dtypes,
  FeatureMapBackwardInputs,
  FeatureMapBackwardOptions,
  FeatureMapBackwardResult
> = asynchronous('featureMapBackward');

/**
 * {@link featureMapBackward} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const featureMapBackwardSync: SyncLayerBackward<
  Dtypes,
  FeatureMapBackwardInputs,
  FeatureMapBackwardOptions,
  FeatureMapBackwardResult
> = synchronous('featureMapBackward');
