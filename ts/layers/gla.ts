import { rangeError } from '../errors';
import { readInteger, readNumber } from '../linalg/arguments';
import type { FloatTensor } from '../types';
import { asyncLayer, syncLayer } from './define';
import { logSigmoid, mapFloats, negate, repeatHeads, reshape } from './elementwise';
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

/** Weights of {@link glaLayer}. */
export type GlaLayerWeights = LayerWeights<
  | 'q_proj.weight'
  | 'k_proj.weight'
  | 'v_proj.weight'
  | 'gk_proj.0.weight'
  | 'gk_proj.1.weight'
  | 'o_proj.weight',
  'gk_proj.1.bias',
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

/** Options of {@link glaLayer}. */
export interface GlaLayerOptions extends LayerOptions {
  /** H: query heads. */
  heads: number;
  /** Heads of keys, values and gates, a divisor of `heads`; default `heads`. */
  keyValueHeads?: number;
  /** What the log decay is divided by; default 16. */
  gateNormalizer?: number;
  /** What the log decay stays above; default none. */
  gateMin?: number;
  /** Of the output norm; default 1e-5. */
  normEps?: number;
}

function* body(pass: Pass, options: GlaLayerOptions): Steps<FloatTensor> {
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
  const rank = pass.rows('gk_proj.0.weight');
  pass.expectRows('gk_proj.1.weight', few * keyDim, rank);
  pass.rows('o_proj.weight', heads * valueDim);
  const normalizer = readNumber(operation, 'gateNormalizer', options.gateNormalizer, 16);
  const eps = readNumber(operation, 'normEps', options.normEps, 1e-5, 'or zero');
  const gateMin = options.gateMin ?? Number.NEGATIVE_INFINITY;
  if (typeof gateMin !== 'number' || !(gateMin <= 0))
    throw rangeError(operation, `gateMin: expected a number of at most 0, got ${gateMin}`);
  const bias = weights.floats('gk_proj.1.bias', [few * keyDim]);
  const swish = weights.has('g_proj.weight');

  const times = heads / few;
  const shared = [batch, tokens, few, keyDim];
  const q = yield* projected(pass, 'q', [batch, tokens, heads, keyDim], 'silu', 'none');
  const k = yield* projected(pass, 'k', shared, 'silu', 'none');
  const v = yield* projected(pass, 'v', [batch, tokens, few, valueDim], 'silu', 'none');
  const low = yield* pass.project('gk_proj.0.weight');
  const raw = reshape(yield* pass.project('gk_proj.1.weight', low), shared);

  // logsigmoid(x + b) / n = -exp(-log n) softplus(-x - b), which the recurrence activates inside; not so a lower limit.
  let g: FloatTensor;
  let gate: object | undefined;
  if (gateMin === Number.NEGATIVE_INFINITY) {
    g = negate(raw);
    const aLog = { data: new Float32Array(heads).fill(-Math.log(normalizer)), shape: [heads] };
    const dtBias = repeatHeads(negate(reshape(bias, [few, keyDim])), times);
    gate = { aLog, dtBias };
  } else {
    const width = few * keyDim;
    g = mapFloats(raw, (x, i) =>
      Math.max(logSigmoid(x + bias.data[i % width]) / normalizer, gateMin),
    );
  }
  const o = yield* pass.recur(
    'gla',
    [heads, keyDim, valueDim],
    { q, k: repeatHeads(k, times), v: repeatHeads(v, times), g: repeatHeads(g, times) },
    gate ? { gate } : {},
  );
  const z = swish ? yield* pass.project('g_proj.weight') : undefined;
  const name = swish ? 'g_norm_swish_gate.weight' : 'g_norm.weight';
  return yield* pass.project('o_proj.weight', yield* pass.norm(name, o, z, { eps }));
}

const definition: LayerDefinition<GlaLayerOptions> = {
  weights: [
    ...['q', 'k', 'v'].flatMap(projectionNames),
    ...['gk_proj.0.weight', 'gk_proj.1.weight', 'gk_proj.1.bias', 'g_proj.weight'],
    ...['g_norm_swish_gate.weight', 'g_norm.weight', 'o_proj.weight'],
  ],
  options: ['heads', 'keyValueHeads', 'gateNormalizer', 'gateMin', 'normEps'],
  body,
};

/**
 * The token mixer of a GLA block, with the weights of flash-linear-attention's `GatedLinearAttention`: log decays
 * `logsigmoid(gk_proj(x)) / gateNormalizer` from a low-rank projection, `gla`, RMS norm with a swish gate where
 * `g_proj` is given. Queries, keys and values pass through silu only in their convolutions, where there are any.
 *
 * Weights, G key/value heads: `q_proj` `[H K,D]`, `k_proj` `[G K,D]`, `v_proj` `[G V,D]`, `g_proj` `[H V,D]`, `gk_proj.0`
 * `[R,D]`, `gk_proj.1` `[G K,R]` and its bias, `o_proj` `[D,H V]`; `*_conv1d` `[C,1,W]`; `g_norm_swish_gate` or, without
 * `g_proj`, `g_norm` `[V]`.
 *
 * @throws (rejects) as {@link gatedDeltaNetLayer}
 * @see Yang et al., Gated Linear Attention Transformers with Hardware-Efficient Training, 2023 (arXiv:2312.06635)
 */
export const glaLayer: AsyncLayerFunction<GlaLayerWeights, GlaLayerOptions> = asyncLayer(
  'glaLayer',
  definition,
);

/**
 * {@link glaLayer} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const glaLayerSync: SyncLayerFunction<GlaLayerWeights, GlaLayerOptions> = syncLayer(
  'glaLayer',
  definition,
);
