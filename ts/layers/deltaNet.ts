import { rangeError } from '../errors';
import { readChoice, readFlag, readNumber } from '../linalg/arguments';
import type { FloatTensor, Tensor } from '../types';
import { asyncLayer, syncLayer } from './define';
import { mapFloats } from './elementwise';
import { projected, projectionNames, readHeads } from './heads';
import type {
  AsyncLayerFunction,
  LayerDefinition,
  LayerOptions,
  Pass,
  SyncLayerFunction,
} from './pass';
import type { Steps } from './run';
import type { LayerWeights } from './weights';

/** Weights of {@link deltaNetLayer}. */
export type DeltaNetLayerWeights = LayerWeights<
  'q_proj.weight' | 'k_proj.weight' | 'v_proj.weight' | 'o_proj.weight',
  'o_norm.weight',
  | 'q_conv1d.weight'
  | 'k_conv1d.weight'
  | 'v_conv1d.weight'
  | 'q_conv1d.bias'
  | 'k_conv1d.bias'
  | 'v_conv1d.bias'
> &
  Partial<LayerWeights<'b_proj.weight' | 'g_proj.weight'>>;

const ACTIVATIONS = ['silu', 'relu', 'elu', 'identity'] as const;

/** Options of {@link deltaNetLayer}. */
export interface DeltaNetLayerOptions extends LayerOptions {
  heads: number;
  /** Of queries and keys; `'elu'` is elu(x) + 1. Default `'silu'`. Others need an x of float32. */
  qkActivation?: (typeof ACTIVATIONS)[number];
  /** Queries and keys divided by their length or by their sum, which needs an x of float32; default `'l2'`. */
  qkNorm?: 'l2' | 'sum';
  /** beta in [0,2] instead of [0,1]; default false. */
  negativeEigenvalues?: boolean;
  /** Of the output norm; default 1e-5. */
  normEps?: number;
}

const CURVES = {
  relu: (x: number): number => Math.max(x, 0),
  elu: (x: number): number => (x > 0 ? x + 1 : Math.exp(x)),
};

/** Each vector over the sum of its elements. */
function overSum({ data, shape }: Tensor): Tensor {
  const width = shape[shape.length - 1];
  const scaled = new Float32Array(data.length);
  for (let at = 0; at < data.length; at += width) {
    let sum = 0;
    for (let i = 0; i < width; i++) sum += data[at + i];
    for (let i = 0; i < width; i++) scaled[at + i] = data[at + i] / sum;
  }
  return { data: scaled, shape, dtype: 'f32' };
}

function* body(pass: Pass, options: DeltaNetLayerOptions): Steps<FloatTensor> {
  const { operation, batch, tokens } = pass;
  const { heads } = readHeads(pass, { heads: options.heads });
  const keyDim = pass.perHead('q_proj.weight', heads);
  const valueDim = pass.perHead('v_proj.weight', heads);
  pass.expectRows('k_proj.weight', heads * keyDim);
  pass.rows('o_proj.weight', heads * valueDim);
  const activation = readChoice(operation, 'qkActivation', options.qkActivation, ACTIVATIONS);
  const norm = readChoice(operation, 'qkNorm', options.qkNorm, ['l2', 'sum']);
  const twice = readFlag(operation, 'negativeEigenvalues', options.negativeEigenvalues, false);
  const eps = readNumber(operation, 'normEps', options.normEps, 1e-5, 'or zero');
  const plain = pass.dtype === 'f32';
  if (!plain && (norm === 'sum' || activation === 'relu' || activation === 'elu'))
    throw rangeError(
      operation,
      `x: expected float32 for qkActivation '${activation}' and qkNorm '${norm}', got ${pass.dtype}`,
    );

  const vectors = function* (name: string): Steps<FloatTensor> {
    const inner = activation === 'silu' ? 'silu' : 'none';
    let x = yield* projected(pass, name, [batch, tokens, heads, keyDim], inner);
    if (activation === 'relu' || activation === 'elu') x = mapFloats(x, CURVES[activation]);
    return norm === 'sum' ? overSum(x as Tensor) : x;
  };
  const q = yield* vectors('q');
  const k = yield* vectors('k');
  const v = yield* projected(pass, 'v', [batch, tokens, heads, valueDim]);
  let beta: FloatTensor;
  let betaActivation = twice ? 'sigmoid2' : 'sigmoid';
  if (pass.weights.has('b_proj.weight')) {
    pass.expectRows('b_proj.weight', heads);
    beta = yield* pass.project('b_proj.weight');
  } else {
    const ones = new Float32Array(batch * tokens * heads).fill(twice ? 2 : 1);
    beta = { data: ones, shape: [batch, tokens, heads] };
    betaActivation = 'none';
  }
  const o = yield* pass.recur(
    'deltaNet',
    [heads, keyDim, valueDim],
    { q, k, v, beta },
    { betaActivation, qkL2norm: norm === 'l2' },
  );
  const z = pass.weights.has('g_proj.weight') ? yield* pass.project('g_proj.weight') : undefined;
  return yield* pass.project('o_proj.weight', yield* pass.norm('o_norm.weight', o, z, { eps }));
}

const definition: LayerDefinition<DeltaNetLayerOptions> = {
  weights: [
    ...['q', 'k', 'v'].flatMap(projectionNames),
    ...['b_proj.weight', 'g_proj.weight', 'o_proj.weight', 'o_norm.weight'],
  ],
  options: ['heads', 'qkActivation', 'qkNorm', 'negativeEigenvalues', 'normEps'],
  body,
};

/**
 * The token mixer of a DeltaNet block, with the weights of flash-linear-attention's `DeltaNet`. Without `b_proj` every
 * write has strength 1 (2 with `negativeEigenvalues`).
 *
 * Weights: `q_proj`, `k_proj` `[H K,D]`, `v_proj`, `g_proj` `[H V,D]`, `b_proj` `[H,D]`, `o_proj` `[D,H V]`; `*_conv1d`
 * `[C,1,W]`; `o_norm` `[V]`.
 *
 * @throws (rejects) as {@link gatedDeltaNetLayer}
 * @see Yang et al., Parallelizing Linear Transformers with the Delta Rule, 2024 (arXiv:2406.06484)
 */
export const deltaNetLayer: AsyncLayerFunction<DeltaNetLayerWeights, DeltaNetLayerOptions> =
  asyncLayer('deltaNetLayer', definition);

/**
 * {@link deltaNetLayer} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const deltaNetLayerSync: SyncLayerFunction<DeltaNetLayerWeights, DeltaNetLayerOptions> =
  syncLayer('deltaNetLayer', definition);
