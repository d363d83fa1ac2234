import { readFlag, readInteger, readNumber } from '../linalg/arguments';
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

/** Weights of {@link gatedDeltaProductLayer}. */
export type GatedDeltaProductLayerWeights = LayerWeights<
  'q_proj.weight' | 'k_proj.weight' | 'v_proj.weight' | 'b_proj.weight' | 'o_proj.weight',
  'o_norm.weight',
  | 'A_log'
  | 'dt_bias'
  | 'q_conv1d.weight'
  | 'k_conv1d.weight'
  | 'v_conv1d.weight'
  | 'q_conv1d.bias'
  | 'k_conv1d.bias'
  | 'v_conv1d.bias'
> &
  Partial<LayerWeights<'a_proj.weight' | 'g_proj.weight'>>;

/** Options of {@link gatedDeltaProductLayer}. */
export interface GatedDeltaProductLayerOptions extends LayerOptions, HeadOptions {
  /** n: Householder steps a token, 1 to 8; default 2. */
  numHouseholder?: number;
  /** beta in [0,2] instead of [0,1]; default true. */
  negativeEigenvalues?: boolean;
  /** Of the output norm; default 1e-5. */
  normEps?: number;
}

function* body(pass: Pass, options: GatedDeltaProductLayerOptions): Steps<FloatTensor> {
  const { operation, batch, tokens } = pass;
  const { heads, valueHeads } = readHeads(pass, options);
  const n = readInteger(operation, 'numHouseholder', options.numHouseholder, 2, 1, 8);
  const keyDim = pass.perHead('q_proj.weight', heads);
  const valueDim = pass.perHead('v_proj.weight', valueHeads * n);
  pass.expectRows('k_proj.weight', n * heads * keyDim);
  pass.expectRows('b_proj.weight', n * valueHeads);
  pass.rows('o_proj.weight', valueHeads * valueDim);
  const gated = pass.weights.has('a_proj.weight');
  if (gated) pass.expectRows('a_proj.weight', valueHeads);
  const twice = readFlag(operation, 'negativeEigenvalues', options.negativeEigenvalues, true);
  const eps = readNumber(operation, 'normEps', options.normEps, 1e-5, 'or zero');
  const gate = gated ? gateOf(pass, valueHeads, [valueHeads]) : undefined;

  // A token's n keys, values and strengths lie one behind the other, as the recurrence takes them.
  const rows = tokens * n;
  const q = yield* projected(pass, 'q', [batch, tokens, heads, keyDim]);
  const k = yield* projected(pass, 'k', [batch, rows, heads, keyDim]);
  const v = yield* projected(pass, 'v', [batch, rows, valueHeads, valueDim]);
  const beta = reshape(yield* pass.project('b_proj.weight'), [batch, rows, valueHeads]);
  const g = gated ? { g: yield* pass.project('a_proj.weight') } : {};
  const o = yield* pass.recur(
    gated ? 'gatedDeltaProduct' : 'deltaProduct',
    [valueHeads, keyDim, valueDim],
    { q, k, v, ...g, beta },
    {
      ...(gated && { gate }),
      betaActivation: twice ? 'sigmoid2' : 'sigmoid',
      qkL2norm: true,
      numHouseholder: n,
    },
  );
  const z = pass.weights.has('g_proj.weight') ? yield* pass.project('g_proj.weight') : undefined;
  return yield* pass.project('o_proj.weight', yield* pass.norm('o_norm.weight', o, z, { eps }));
}

const definition: LayerDefinition<GatedDeltaProductLayerOptions> = {
  weights: [
    ...['q', 'k', 'v'].flatMap(projectionNames),
    ...['a_proj.weight', 'b_proj.weight', 'g_proj.weight', 'o_proj.weight'],
    ...['A_log', 'dt_bias', 'o_norm.weight'],
  ],
  options: ['heads', 'valueHeads', 'numHouseholder', 'negativeEigenvalues', 'normEps'],
  body,
};

/**
 * The token mixer of a (Gated) DeltaProduct block, with the weights of flash-linear-attention's `GatedDeltaProduct`; the
 * forget gate is there where `a_proj` is.
 *
 * Weights: `q_proj` `[H K,D]`, `k_proj` `[n H K,D]`, `v_proj` `[n HV V,D]`, `b_proj` `[n HV,D]`, `a_proj` `[HV,D]`, `g_proj`
 * `[HV V,D]`, `o_proj` `[D,HV V]`; `*_conv1d` `[C,1,W]`; `A_log`, `dt_bias` `[HV]` (with `a_proj`); `o_norm` `[V]`.
 *
 * @throws (rejects) as {@link gatedDeltaNetLayer}
 * @see Siems et al., DeltaProduct, 2025 (arXiv:2502.10297)
 */
export const gatedDeltaProductLayer: AsyncLayerFunction<
  GatedDeltaProductLayerWeights,
  GatedDeltaProductLayerOptions
> = asyncLayer('gatedDeltaProductLayer', definition);

/**
 * {@link gatedDeltaProductLayer} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const gatedDeltaProductLayerSync: SyncLayerFunction<
  GatedDeltaProductLayerWeights,
  GatedDeltaProductLayerOptions
> = syncLayer('gatedDeltaProductLayer', definition);
