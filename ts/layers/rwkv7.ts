import { rangeError } from '../errors';
import { readInteger, readNumber } from '../linalg/arguments';
import type { AsyncOptions, FloatTensor, ResultTensor, Tensor } from '../types';
import { asyncLayer, syncLayer } from './define';
import { mapFloats, reshape, scaleColumns, sigmoid } from './elementwise';
import type { LayerDefinition, LayerInputs, LayerOptions, LayerResult, Pass } from './pass';
import type { Steps } from './run';
import { type LayerWeights, readFloats } from './weights';

type Low = 'w' | 'a' | 'v';

/** Weights of {@link rwkv7Layer}. */
export type Rwkv7LayerWeights = LayerWeights<
  | 'r_proj.weight'
  | 'k_proj.weight'
  | 'v_proj.weight'
  | 'o_proj.weight'
  | `${'w' | 'a' | 'g'}_lora.lora.${0 | 2}.weight`,
  | `x_${'r' | 'w' | 'k' | 'v' | 'a' | 'g'}`
  | 'k_k'
  | 'k_a'
  | 'r_k'
  | 'g_norm.weight'
  | 'g_norm.bias'
  | `${'w' | 'a'}_lora.lora.2.bias`,
  'v_lora.lora.2.bias'
> &
  Partial<LayerWeights<`v_lora.lora.${0 | 2}.weight`>>;

/** Inputs of {@link rwkv7Layer}. */
export interface Rwkv7LayerInputs extends LayerInputs<Rwkv7LayerWeights, Tensor> {
  /** `[B,T,H V]`: what the first layer returned for these tokens; given to all layers but the first, which has no v_lora. */
  vFirst?: Tensor;
}

/** Options of {@link rwkv7Layer}. */
export interface Rwkv7LayerOptions extends Pick<LayerOptions, 'cuSeqlens'> {
  heads: number;
  /** Of the group norm, times the width of a head; default 1e-5. */
  normEps?: number;
}

/** What {@link rwkv7Layer} returns. */
export interface Rwkv7LayerResult extends LayerResult<Tensor> {
  /** `[B,T,H V]`: the values that later layers mix theirs with; those given, or of the first layer its own */
  vFirst: ResultTensor;
}

/** x + (shifted - x) mu, of every token. */
function mixed(x: Tensor, shifted: Tensor, mu: Tensor): Tensor {
  const width = mu.data.length;
  return mapFloats(x, (value, i) => value + (shifted.data[i] - value) * mu.data[i % width]);
}

/** The second projection of the first one's activation. */
function* lowRank(
  pass: Pass,
  name: string,
  x: Tensor,
  activation: ((value: number) => number) | undefined,
): Steps<Tensor> {
  const low = yield* pass.project(`${name}_lora.lora.0.weight`, x);
  const active = activation ? mapFloats(low, activation) : low;
  const y = yield* pass.project(`${name}_lora.lora.2.weight`, active, `${name}_lora.lora.2.bias`);
  return y as Tensor;
}

/** `(norm of each head + (r . k r_k) v) g`; sums in float64. */
function output(
  [o, r, k, v, g]: readonly Tensor[],
  { data: bonus }: Tensor,
  { data: weight }: Tensor,
  { data: bias }: Tensor,
  heads: number,
  eps: number,
): Tensor {
  const data = new Float32Array(o.data.length);
  const keyDim = bonus.length / heads;
  const valueDim = weight.length / heads;
  for (let row = 0; row < data.length / valueDim; row++) {
    const at = row * valueDim;
    const head = row % heads;
    let sum = 0;
    let squares = 0;
    for (let i = at; i < at + valueDim; i++) sum += o.data[i];
    const mean = sum / valueDim;
    for (let i = at; i < at + valueDim; i++) squares += (o.data[i] - mean) ** 2;
    const scale = 1 / Math.sqrt(squares / valueDim + eps);
    let found = 0;
    for (let i = 0; i < keyDim; i++)
      found += r.data[row * keyDim + i] * k.data[row * keyDim + i] * bonus[head * keyDim + i];
    for (let i = 0; i < valueDim; i++) {
      const channel = head * valueDim + i;
      const normed = (o.data[at + i] - mean) * scale * weight[channel] + bias[channel];
      data[at + i] = (normed + found * v.data[at + i]) * g.data[at + i];
    }
  }
  return { data, shape: g.shape, dtype: 'f32' };
}

function* body(pass: Pass, options: Rwkv7LayerOptions): Steps<FloatTensor> {
  const { operation, batch, tokens, width, weights } = pass;
  if (pass.dtype !== 'f32') throw rangeError(operation, `x: expected float32, got ${pass.dtype}`);
  const heads = readInteger(operation, 'heads', options.heads, undefined, 1);
  const keyDim = pass.perHead('r_proj.weight', heads);
  const valueDim = pass.perHead('v_proj.weight', heads);
  const [keys, values] = [heads * keyDim, heads * valueDim];
  pass.expectRows('k_proj.weight', keys);
  pass.rows('o_proj.weight', values);
  const lows: [Low | 'g', number][] = [
    ['w', keys],
    ['a', keys],
    ['g', values],
  ];
  const first = !weights.has('v_lora.lora.0.weight');
  if (!first) lows.push(['v', values]);
  for (const [name, rows] of lows)
    pass.expectRows(`${name}_lora.lora.2.weight`, rows, pass.rows(`${name}_lora.lora.0.weight`));
  const mu = (name: string): Tensor => weights.floats(`x_${name}`, [1, 1, width]);
  const mus = { r: mu('r'), w: mu('w'), k: mu('k'), v: mu('v'), a: mu('a'), g: mu('g') };
  const kk = weights.floats('k_k', [keys]);
  const ka = weights.floats('k_a', [keys]);
  const bonus = weights.floats('r_k', [heads, keyDim]);
  const norm = [weights.floats('g_norm.weight', [values]), weights.floats('g_norm.bias', [values])];
  const eps = valueDim * readNumber(operation, 'normEps', options.normEps, 1e-5, 'or zero');
  const given = pass.more.vFirst;
  if (first !== (given === undefined))
    throw rangeError(
      operation,
      first
        ? 'vFirst: expected none beside weights without v_lora'
        : 'vFirst: expected a tensor, got none',
    );
  let vFirst: Tensor | undefined;
  if (!first) {
    const read = readFloats(operation, 'vFirst', given);
    const shape = [batch, tokens, values];
    if (
      read.dtype !== 'f32' ||
      read.shape.length !== 3 ||
      read.shape.some((d, i) => d !== shape[i])
    )
      throw rangeError(
        operation,
        `vFirst: expected float32 [${shape}], got ${read.dtype} [${read.shape}]`,
      );
    vFirst = { ...read, data: (read.data as Float32Array).slice(), dtype: 'f32' };
  }

  const x = pass.x as Tensor;
  const shifted = pass.shift('x', x);
  const r = (yield* pass.project('r_proj.weight', mixed(x, shifted, mus.r))) as Tensor;
  const w = yield* lowRank(pass, 'w', mixed(x, shifted, mus.w), Math.tanh);
  const rawKey = (yield* pass.project('k_proj.weight', mixed(x, shifted, mus.k))) as Tensor;
  const xv = mixed(x, shifted, mus.v);
  let v = (yield* pass.project('v_proj.weight', xv)) as Tensor;
  if (vFirst) {
    const share = yield* lowRank(pass, 'v', xv, undefined);
    const from = vFirst;
    v = mapFloats(v, (value, i) => value + (from.data[i] - value) * sigmoid(share.data[i]));
  } else vFirst = v;
  const a = mapFloats(yield* lowRank(pass, 'a', mixed(x, shifted, mus.a), undefined), sigmoid);
  const g = yield* lowRank(pass, 'g', mixed(x, shifted, mus.g), sigmoid);
  const kappa = scaleColumns(rawKey, kk.data);
  const k = mapFloats(rawKey, (value, i) => value + value * (a.data[i] - 1) * ka.data[i % keys]);

  const byHead = (tensor: Tensor, size: number): Tensor =>
    reshape(tensor, [batch, tokens, heads, size]);
  const o = yield* pass.recur('rwkv7', [heads, keyDim, valueDim], {
    r: byHead(r, keyDim),
    w: byHead(w, keyDim),
    k: byHead(k, keyDim),
    v: byHead(v, valueDim),
    kappa: byHead(kappa, keyDim),
    a: byHead(a, keyDim),
  });
  pass.results.vFirst = vFirst;
  const y = output([o as Tensor, r, k, v, g], bonus, norm[0], norm[1], heads, eps);
  return yield* pass.project('o_proj.weight', y);
}

const definition: LayerDefinition<Rwkv7LayerOptions> = {
  onlyForm: true,
  inputs: ['vFirst'],
  weights: [
    ...['x_r', 'x_w', 'x_k', 'x_v', 'x_a', 'x_g', 'k_k', 'k_a', 'r_k'],
    ...['r_proj.weight', 'k_proj.weight', 'v_proj.weight', 'o_proj.weight'],
    ...['w', 'a', 'v', 'g'].flatMap((name) =>
      ['0.weight', '2.weight', '2.bias'].map((end) => `${name}_lora.lora.${end}`),
    ),
    ...['g_norm.weight', 'g_norm.bias'],
  ],
  options: ['heads', 'normEps'],
  body,
};

/**
 * The time mixing of an RWKV-7 block, with the weights of flash-linear-attention's `RWKV7Attention`: token shift, low-rank
 * decay, learning rate, value mix and gate, `rwkv7`, a norm for each head, the bonus of the current token. float32;
 * projections may be packed in any format.
 *
 * Weights: `r_proj`, `k_proj` `[H K,D]`, `v_proj` `[H V,D]`, `o_proj` `[D,H V]`; `w_lora.lora`, `a_lora.lora`, `v_lora.lora`,
 * `g_lora.lora`: `0` `[R,D]`, `2` `[H K,R]` (of v and g `[H V,R]`), with bias but for g, v_lora in all layers but the first;
 * `x_r`, `x_w`, `x_k`, `x_v`, `x_a`, `x_g` `[1,1,D]`, `k_k`, `k_a` `[H K]`, `r_k` `[H,K]`, `g_norm` `[H V]` and its bias.
 *
 * @throws (rejects) as {@link gatedDeltaNetLayer}
 * @see Peng et al., RWKV-7, 2025 (arXiv:2503.14456)
 */
export const rwkv7Layer: (
  inputs: Rwkv7LayerInputs,
  options: Rwkv7LayerOptions & AsyncOptions,
) => Promise<Rwkv7LayerResult> = asyncLayer('rwkv7Layer', definition) as any;

/**
 * {@link rwkv7Layer} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const rwkv7LayerSync: (
  inputs: Rwkv7LayerInputs,
  options: Rwkv7LayerOptions,
) => Rwkv7LayerResult = syncLayer('rwkv7Layer', definition) as any;
