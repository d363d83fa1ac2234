import { rangeError } from '../errors';
import { readNumber } from '../linalg/arguments';
import type { FloatTensor } from '../types';
import { asyncLayer, syncLayer } from './define';
import { columns, concatenate, reshape } from './elementwise';
import { gateOf, type HeadOptions, readHeads } from './heads';
import type {
  AsyncLayerFunction,
  LayerDefinition,
  LayerOptions,
  Pass,
  SyncLayerFunction,
} from './pass';
import type { Steps } from './run';
import type { LayerWeights } from './weights';

/** Weights of {@link qwen3NextLayer}. */
export type Qwen3NextLayerWeights = LayerWeights<
  'in_proj_qkvz.weight' | 'in_proj_ba.weight' | 'out_proj.weight',
  'conv1d.weight' | 'A_log' | 'dt_bias' | 'norm.weight',
  'conv1d.bias'
>;

/** Options of {@link qwen3NextLayer}. */
export interface Qwen3NextLayerOptions extends LayerOptions, HeadOptions {
  /** K: width of a query and key head. V follows from the weights. */
  keyDim: number;
  /** Of the output norm; default 1e-6. */
  normEps?: number;
}

function* body(pass: Pass, options: Qwen3NextLayerOptions): Steps<FloatTensor> {
  const { operation, batch, tokens } = pass;
  const { heads, valueHeads } = readHeads(pass, options);
  const { keyDim } = options;
  const group = valueHeads / heads;
  // A key head's rows lie together: its query, its key, then the values and gates of its value heads.
  const headRows = pass.perHead('in_proj_qkvz.weight', heads);
  const valueDim = (headRows - 2 * keyDim) / (2 * group);
  if (!Number.isSafeInteger(keyDim) || keyDim < 1 || !Number.isInteger(valueDim) || valueDim < 1)
    throw rangeError(
      operation,
      `keyDim: expected K with heads (2 K + 2 valueHeads / heads V) = ${headRows * heads} rows of in_proj_qkvz, got ${keyDim}`,
    );
  pass.expectRows('in_proj_ba.weight', 2 * valueHeads);
  pass.rows('out_proj.weight', valueHeads * valueDim);
  const eps = readNumber(operation, 'normEps', options.normEps, 1e-6, 'or zero');
  const gate = gateOf(pass, valueHeads, [valueHeads]);

  const byHead = (x: FloatTensor): FloatTensor =>
    reshape(x, [batch, tokens, heads, x.shape[2] / heads]);
  const [qh, kh, vh, zh] = columns(byHead(yield* pass.project('in_proj_qkvz.weight')), [
    keyDim,
    keyDim,
    group * valueDim,
    group * valueDim,
  ]);
  const [beta, g] = columns(byHead(yield* pass.project('in_proj_ba.weight')), [group, group]).map(
    (x) => reshape(x, [batch, tokens, valueHeads]),
  );
  const widths = [heads * keyDim, heads * keyDim, valueHeads * valueDim];
  const flat = [qh, kh, vh].map((x, i) => reshape(x, [batch, tokens, widths[i]]));
  const mixed = yield* pass.conv('conv1d', concatenate(flat), 'silu');
  const [q, k, v] = columns(mixed, widths);
  const o = yield* pass.recur(
    'gatedDeltaNet',
    [valueHeads, keyDim, valueDim],
    {
      q: reshape(q, [batch, tokens, heads, keyDim]),
      k: reshape(k, [batch, tokens, heads, keyDim]),
      v: reshape(v, [batch, tokens, valueHeads, valueDim]),
      g,
      beta,
    },
    { gate, betaActivation: 'sigmoid', qkL2norm: true },
  );
  return yield* pass.project('out_proj.weight', yield* pass.norm('norm.weight', o, zh, { eps }));
}

const definition: LayerDefinition<Qwen3NextLayerOptions> = {
  weights: [
    ...['in_proj_qkvz.weight', 'in_proj_ba.weight', 'conv1d.weight', 'conv1d.bias'],
    ...['A_log', 'dt_bias', 'norm.weight', 'out_proj.weight'],
  ],
  options: ['heads', 'valueHeads', 'keyDim', 'normEps'],
  body,
};

/**
 * The Gated DeltaNet mixer with the weights of Qwen3-Next's `linear_attn`: one projection for queries, keys, values and
 * gates, whose rows lie by key head, one convolution for the first three.
 *
 * Weights, R = HV / H: `in_proj_qkvz` `[H (2 K + 2 R V),D]`, `in_proj_ba` `[2 HV,D]`, `conv1d` `[2 H K + HV V,1,W]`,
 * `A_log`, `dt_bias` `[HV]`, `norm` `[V]`, `out_proj` `[D,HV V]`.
 *
 * @throws (rejects) as {@link gatedDeltaNetLayer}
 * @see Yang et al., Gated Delta Networks, 2024 (arXiv:2412.06464)
 */
export const qwen3NextLayer: AsyncLayerFunction<Qwen3NextLayerWeights, Qwen3NextLayerOptions> =
  asyncLayer('qwen3NextLayer', definition);

/**
 * {@link qwen3NextLayer} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const qwen3NextLayerSync: SyncLayerFunction<Qwen3NextLayerWeights, Qwen3NextLayerOptions> =
  syncLayer('qwen3NextLayer', definition);
