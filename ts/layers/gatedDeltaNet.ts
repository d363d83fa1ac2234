import { readFlag, readNumber } from '../linalg/arguments';
import type { FloatTensor } from '../types';
import { asyncLayer, syncLayer } from './define';
import { gateOf, type HeadOptions, projected, projectionNames, readHeads } from './heads';
import type {
  AsyncLayerFunction,
  LayerDefinition,
  LayerOptions,
  Pass,
  SyncLayerFunction,
} from './pass';
import type { Steps } from './run';
import type { LayerWeights } from './weights';

/** Weights of {@link gatedDeltaNetLayer}. H heads, HV value heads, K and V their widths, W taps. */
export type GatedDeltaNetLayerWeights = LayerWeights<
  | 'q_proj.weight'
  | 'k_proj.weight'
  | 'v_proj.weight'
  | 'a_proj.weight'
  | 'b_proj.weight'
  | 'o_proj.weight',
  'A_log' | 'dt_bias' | 'o_norm.weight',
  | 'q_conv1d.weight'
  | 'k_conv1d.weight'
  | 'v_conv1d.weight'
  | 'q_conv1d.bias'
  | 'k_conv1d.bias'
  | 'v_conv1d.bias'
> &
  Partial<LayerWeights<'g_proj.weight'>>;

/** Options of {@link gatedDeltaNetLayer}. */
export interface GatedDeltaNetLayerOptions extends LayerOptions, HeadOptions {
  /** beta in [0,2] instead of [0,1]; default false. */
  negativeEigenvalues?: boolean;
  /** Of the output norm; default 1e-5. */
  normEps?: number;
}

function* body(pass: Pass, options: GatedDeltaNetLayerOptions): Steps<FloatTensor> {
  const { heads, valueHeads } = readHeads(pass, options);
  const { batch, tokens } = pass;
  const keyDim = pass.perHead('q_proj.weight', heads);
  const valueDim = pass.perHead('v_proj.weight', valueHeads);
  pass.expectRows('k_proj.weight', heads * keyDim);
  for (const name of ['a_proj.weight', 'b_proj.weight']) pass.expectRows(name, valueHeads);
  pass.rows('o_proj.weight', valueHeads * valueDim);
  const twice = readFlag(pass.operation, 'negativeEigenvalues', options.negativeEigenvalues, false);
  const eps = readNumber(pass.operation, 'normEps', options.normEps, 1e-5, 'or zero');
  const gate = gateOf(pass, valueHeads, [valueHeads]);

  const q = yield* projected(pass, 'q', [batch, tokens, heads, keyDim]);
  const k = yield* projected(pass, 'k', [batch, tokens, heads, keyDim]);
  const v = yield* projected(pass, 'v', [batch, tokens, valueHeads, valueDim]);
  const g = yield* pass.project('a_proj.weight');
  const beta = yield* pass.project('b_proj.weight');
  const o = yield* pass.recur(
    'gatedDeltaNet',
    [valueHeads, keyDim, valueDim],
    { q, k, v, g, beta },
    { gate, betaActivation: twice ? 'sigmoid2' : 'sigmoid', qkL2norm: true },
  );
  const z = pass.weights.has('g_proj.weight') ? yield* pass.project('g_proj.weight') : undefined;
  return yield* pass.project('o_proj.weight', yield* pass.norm('o_norm.weight', o, z, { eps }));
}

const definition: LayerDefinition<GatedDeltaNetLayerOptions> = {
  weights: [
    ...['q', 'k', 'v'].flatMap(projectionNames),
    ...['a_proj.weight', 'b_proj.weight', 'g_proj.weight', 'o_proj.weight'],
    ...['A_log', 'dt_bias', 'o_norm.weight'],
  ],
  options: ['heads', 'valueHeads', 'negativeEigenvalues', 'normEps'],
  body,
};

/**
 * The token mixer of a Gated DeltaNet block, with the weights of flash-linear-attention's `GatedDeltaNet`: projections,
 * short convolutions with silu, `gatedDeltaNet` on normalised queries and keys, RMS norm with a swish gate where
 * `g_proj` is given, output projection.
 *
 * Weights: `q_proj`, `k_proj` `[H K,D]`, `v_proj`, `g_proj` `[HV V,D]`, `a_proj`, `b_proj` `[HV,D]`, `o_proj` `[D,HV V]`;
 * `*_conv1d` `[C,1,W]`; `A_log`, `dt_bias` `[HV]`; `o_norm` `[V]`.
 *
 * @throws (rejects) TypeError for a wrong type, dtype, missing weight or unknown key; RangeError for a wrong shape or value;
 * Error where the cache is in use, disposed, or left half advanced
 * @see Yang et al., Gated Delta Networks, 2024 (arXiv:2412.06464)
 */
export const gatedDeltaNetLayer: AsyncLayerFunction<
  GatedDeltaNetLayerWeights,
  GatedDeltaNetLayerOptions
> = asyncLayer('gatedDeltaNetLayer', definition);

/**
 * {@link gatedDeltaNetLayer} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const gatedDeltaNetLayerSync: SyncLayerFunction<
  GatedDeltaNetLayerWeights,
  GatedDeltaNetLayerOptions
> = syncLayer('gatedDeltaNetLayer', definition);
