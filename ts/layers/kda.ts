import { readFlag, readNumber } from '../linalg/arguments';
import type { FloatTensor } from '../types';
import { asyncLayer, syncLayer } from './define';
import { reshape } from './elementwise';
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

/** Weights of {@link kdaLayer}. */
export type KdaLayerWeights = LayerWeights<
  | 'q_proj.weight'
  | 'k_proj.weight'
  | 'v_proj.weight'
  | 'f_proj.0.weight'
  | 'f_proj.1.weight'
  | 'b_proj.weight'
  | 'g_proj.0.weight'
  | 'g_proj.1.weight'
  | 'o_proj.weight',
  'A_log' | 'dt_bias' | 'g_proj.1.bias' | 'o_norm.weight',
  | 'q_conv1d.weight'
  | 'k_conv1d.weight'
  | 'v_conv1d.weight'
  | 'q_conv1d.bias'
  | 'k_conv1d.bias'
  | 'v_conv1d.bias'
>;

/** Options of {@link kdaLayer}. */
export interface KdaLayerOptions extends LayerOptions, HeadOptions {
  /** In [-5,0): log decays are `lowerBound sigmoid(exp(A_log) (f + dt_bias))`; absent: `-exp(A_log) softplus(f + dt_bias)` */
  lowerBound?: number;
  /** beta in [0,2] instead of [0,1]; default false. */
  negativeEigenvalues?: boolean;
  /** Of the output norm; default 1e-5. */
  normEps?: number;
}

function* body(pass: Pass, options: KdaLayerOptions): Steps<FloatTensor> {
  const { operation, batch, tokens } = pass;
  const { heads, valueHeads } = readHeads(pass, options);
  const keyDim = pass.perHead('q_proj.weight', heads);
  const valueDim = pass.perHead('v_proj.weight', valueHeads);
  pass.expectRows('k_proj.weight', heads * keyDim);
  pass.expectRows('b_proj.weight', valueHeads);
  pass.expectRows('f_proj.1.weight', valueHeads * keyDim, pass.rows('f_proj.0.weight'));
  pass.expectRows('g_proj.1.weight', valueHeads * valueDim, pass.rows('g_proj.0.weight'));
  pass.rows('o_proj.weight', valueHeads * valueDim);
  const twice = readFlag(operation, 'negativeEigenvalues', options.negativeEigenvalues, false);
  const eps = readNumber(operation, 'normEps', options.normEps, 1e-5, 'or zero');
  const gate = {
    ...gateOf(pass, valueHeads, [valueHeads, keyDim]),
    lowerBound: options.lowerBound,
  };

  const q = yield* projected(pass, 'q', [batch, tokens, heads, keyDim]);
  const k = yield* projected(pass, 'k', [batch, tokens, heads, keyDim]);
  const v = yield* projected(pass, 'v', [batch, tokens, valueHeads, valueDim]);
  const decay = yield* pass.project('f_proj.1.weight', yield* pass.project('f_proj.0.weight'));
  const beta = yield* pass.project('b_proj.weight');
  const o = yield* pass.recur(
    'kda',
    [valueHeads, keyDim, valueDim],
    { q, k, v, g: reshape(decay, [batch, tokens, valueHeads, keyDim]), beta },
    { gate, betaActivation: twice ? 'sigmoid2' : 'sigmoid', qkL2norm: true },
  );
  const low = yield* pass.project('g_proj.0.weight');
  const z = yield* pass.project('g_proj.1.weight', low, 'g_proj.1.bias');
  const y = yield* pass.norm('o_norm.weight', o, z, { eps, activation: 'sigmoid' });
  return yield* pass.project('o_proj.weight', y);
}

const definition: LayerDefinition<KdaLayerOptions> = {
  weights: [
    ...['q', 'k', 'v'].flatMap(projectionNames),
    ...['f_proj.0.weight', 'f_proj.1.weight', 'b_proj.weight', 'A_log', 'dt_bias'],
    ...['g_proj.0.weight', 'g_proj.1.weight', 'g_proj.1.bias', 'o_norm.weight', 'o_proj.weight'],
  ],
  options: ['heads', 'valueHeads', 'lowerBound', 'negativeEigenvalues', 'normEps'],
  body,
};

/**
 * Kimi Delta Attention with the weights of flash-linear-attention's `KimiDeltaAttention`: low-rank log decays for every
 * key channel, `kda` on normalised queries and keys, RMS norm with a low-rank sigmoid gate.
 *
 * Weights: `q_proj`, `k_proj` `[H K,D]`, `v_proj` `[HV V,D]`, `f_proj.0` `[R,D]`, `f_proj.1` `[HV K,R]`, `b_proj` `[HV,D]`,
 * `g_proj.0` `[S,D]`, `g_proj.1` `[HV V,S]` and its bias, `o_proj` `[D,HV V]`; `*_conv1d` `[C,1,W]`; `A_log` `[HV]`,
 * `dt_bias` `[HV K]`, `o_norm` `[V]`.
 *
 * @throws (rejects) as {@link gatedDeltaNetLayer}
 * @see Kimi Team, Kimi Linear, 2025 (arXiv:2510.26692)
 */
export const kdaLayer: AsyncLayerFunction<KdaLayerWeights, KdaLayerOptions> = asyncLayer(
  'kdaLayer',
  definition,
);

/**
 * {@link kdaLayer} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const kdaLayerSync: SyncLayerFunction<KdaLayerWeights, KdaLayerOptions> = syncLayer(
  'kdaLayer',
  definition,
);
