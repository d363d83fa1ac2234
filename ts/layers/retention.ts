import { rangeError } from '../errors';
import { readInteger, readNumber } from '../linalg/arguments';
import type { FloatTensor } from '../types';
import { asyncLayer, syncLayer } from './define';
import { repeatHeads } from './elementwise';
import { projected, projectionNames } from './heads';
import type {
  AsyncLayerFunction,
  LayerDefinition,
  LayerOptions,
  Pass,
  SyncLayerFunction,
} from './pass';
import type { Steps } from './run';
import type { LayerWeights } from './weights';

/** Weights of {@link retentionLayer}. */
export type RetentionLayerWeights = LayerWeights<
  'q_proj.weight' | 'k_proj.weight' | 'v_proj.weight' | 'o_proj.weight',
  never,
  | 'g_norm_swish_gate.weight'
  | 'g_norm.weight'
  | 'q_conv1d.weight'
  | 'k_conv1d.weight'
  | 'v_conv1d.weight'
  | 'q_conv1d.bias'
  | 'k_conv1d.bias'
  | 'v_conv1d.bias'
> &
  Partial<LayerWeights<'g_proj.weight'>>;

/** Options of {@link retentionLayer}. */
export interface RetentionLayerOptions extends LayerOptions {
  /** H: query heads. */
  heads: number;
  /** Heads of keys and values, a divisor of `heads`; default `heads`. */
  keyValueHeads?: number;
  /** Base of the rotary frequencies; default 10000. */
  theta?: number;
  /** Of the output norm; default 1e-5. */
  normEps?: number;
}

function* body(pass: Pass, options: RetentionLayerOptions): Steps<FloatTensor> {
  const { operation, batch, tokens, weights } = pass;
  const heads = readInteger(operation, 'heads', options.heads, undefined, 1);
  const few = readInteger(operation, 'keyValueHeads', options.keyValueHeads, heads, 1);
  if (heads % few !== 0)
    throw rangeError(
      operation,
      `keyValueHeads: expected a divisor of heads (${heads}), got ${few}`,
    );
  const keyDim = pass.perHead('q_proj.weight', heads);
  const valueDim = pass.perHead('v_proj.weight', few);
  pass.expectRows('k_proj.weight', few * keyDim);
  pass.rows('o_proj.weight', heads * valueDim);
  if (keyDim % 2 !== 0)
    throw rangeError(operation, `heads: expected heads of even width to turn, got ${keyDim}`);
  const theta = readNumber(operation, 'theta', options.theta, 10000);
  const eps = readNumber(operation, 'normEps', options.normEps, 1e-5, 'or zero');
  const swish = weights.has('g_proj.weight');

  const q = yield* projected(pass, 'q', [batch, tokens, heads, keyDim], 'silu', 'none');
  const k = yield* projected(pass, 'k', [batch, tokens, few, keyDim], 'silu', 'none');
  const v = yield* projected(pass, 'v', [batch, tokens, few, valueDim], 'silu', 'none');
  const positions = { data: pass.positions(), shape: [batch, tokens] };
  const turn = function* (x: FloatTensor): Steps<FloatTensor> {
    return (yield { name: 'rope', inputs: { x, positions }, options: { theta } }).y;
  };
  const turned = { q: yield* turn(q), k: repeatHeads(yield* turn(k), heads / few) };
  const o = yield* pass.recur('retention', [heads, keyDim, valueDim], {
    ...turned,
    v: repeatHeads(v, heads / few),
  });
  const z = swish ? yield* pass.project('g_proj.weight') : undefined;
  const name = swish ? 'g_norm_swish_gate.weight' : 'g_norm.weight';
  return yield* pass.project('o_proj.weight', yield* pass.norm(name, o, z, { eps }));
}

const definition: LayerDefinition<RetentionLayerOptions> = {
  weights: [
    ...['q', 'k', 'v'].flatMap(projectionNames),
    ...['g_proj.weight', 'g_norm_swish_gate.weight', 'g_norm.weight', 'o_proj.weight'],
  ],
  options: ['heads', 'keyValueHeads', 'theta', 'normEps'],
  body,
};

/**
 * The multi-scale retention of RetNet, with the weights of flash-linear-attention's `MultiScaleRetention`: rotary queries
 * and keys (a cache counts the positions), `retention`, RMS norm with a swish gate where `g_proj` is given.
 *
 * Weights, G key/value heads: `q_proj` `[H K,D]`, `k_proj` `[G K,D]`, `v_proj` `[G V,D]`, `g_proj` `[H V,D]`, `o_proj`
 * `[D,H V]`; `*_conv1d` `[C,1,W]`; `g_norm_swish_gate` or, without `g_proj`, `g_norm` `[V]`.
 *
 * @throws (rejects) as {@link gatedDeltaNetLayer}
 * @see Sun et al., Retentive Network, 2023 (arXiv:2307.08621)
 */
export const retentionLayer: AsyncLayerFunction<RetentionLayerWeights, RetentionLayerOptions> =
  asyncLayer('retentionLayer', definition);

/**
 * {@link retentionLayer} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const retentionLayerSync: SyncLayerFunction<RetentionLayerWeights, RetentionLayerOptions> =
  syncLayer('retentionLayer', definition);
