import { rangeError } from '../errors';
import { readFlag, readInteger, readNumber } from '../linalg/arguments';
import type { FloatTensor, Tensor } from '../types';
import { asyncLayer, syncLayer } from './define';
import { columns, reshape, scaleColumns } from './elementwise';
import type {
  AsyncLayerFunction,
  LayerDefinition,
  LayerOptions,
  Pass,
  SyncLayerFunction,
} from './pass';
import type { Steps } from './run';
import type { LayerWeights } from './weights';

/** Weights of {@link mamba2Layer}. */
export type Mamba2LayerWeights = LayerWeights<
  'in_proj.weight' | 'out_proj.weight',
  'conv1d.weight' | 'A_log' | 'D' | 'dt_bias',
  'conv1d.bias' | 'in_proj.bias' | 'out_proj.bias' | 'norm.weight'
>;

/** Options of {@link mamba2Layer}. */
export interface Mamba2LayerOptions extends LayerOptions {
  /** HV: heads. */
  heads: number;
  /** G: groups of heads that share B and C; default 1. */
  groups?: number;
  /** The norm, then the gate; default false: the norm of what has been gated. */
  normBeforeGate?: boolean;
  /** As of `mamba2`; default [0, Infinity]. */
  dtLimit?: readonly [number, number];
  /** Of the gated norm; default 1e-5. */
  normEps?: number;
}

/**
 * The gate and, where the checkpoint has one, the norm over each group's part of y `[B,T,HV P]`; its weights differ by
 * group, so with groups they come after it.
 */
function* gated(
  pass: Pass,
  y: FloatTensor,
  z: FloatTensor,
  groups: number,
  options: Mamba2LayerOptions,
): Steps<FloatTensor> {
  const eps = readNumber(pass.operation, 'normEps', options.normEps, 1e-5, 'or zero');
  const normBeforeGate = readFlag(pass.operation, 'normBeforeGate', options.normBeforeGate, false);
  if (!pass.weights.has('norm.weight'))
    return (yield { name: 'swiglu', inputs: { gate: z, up: y } }).y;
  const norm = { eps, normBeforeGate };
  if (groups === 1) return yield* pass.norm('norm.weight', y, z, norm);
  const { shape } = y;
  const split = [shape[0], shape[1], groups, shape[2] / groups];
  const inputs = { x: reshape(y, split), gate: reshape(z, split) };
  const plain = (yield { name: 'rmsNormGated', inputs, options: norm }).y;
  const weight = pass.weights.floats('norm.weight', [shape[2]]);
  return scaleColumns(reshape(plain, shape) as Tensor, weight.data);
}

function* body(pass: Pass, options: Mamba2LayerOptions): Steps<FloatTensor> {
  const { operation, batch, tokens, weights } = pass;
  const heads = readInteger(operation, 'heads', options.heads, undefined, 1);
  const groups = readInteger(operation, 'groups', options.groups, 1, 1);
  if (heads % groups !== 0)
    throw rangeError(operation, `groups: expected a divisor of heads (${heads}), got ${groups}`);
  // in_proj gives z, what the convolution takes (x, B and C), and dt.
  const rows = pass.rows('in_proj.weight');
  const mixed = weights.tensor('conv1d.weight', [-1, -1]).shape[0];
  const inner = rows - mixed - heads;
  const stateDim = (mixed - inner) / (2 * groups);
  if (inner < heads || inner % heads !== 0 || !Number.isInteger(stateDim) || stateDim < 1)
    throw rangeError(
      operation,
      `in_proj.weight: expected 2 HV P + 2 G N + HV rows, HV P + 2 G N of them (${mixed}) convolved, for HV = ${heads} and ` +
        `G = ${groups}, got ${rows}`,
    );
  if (groups > 1 && weights.has('norm.weight') && pass.dtype !== 'f32')
    throw rangeError(
      operation,
      `x: expected float32 for a norm of ${groups} groups, got ${pass.dtype}`,
    );
  const headDim = inner / heads;
  pass.rows('out_proj.weight', inner);
  const aLog = weights.floats('A_log', [heads]);
  const parameters = {
    A: { data: aLog.data.map((x) => -Math.exp(x)), shape: [heads] },
    D: weights.floats('D', [heads]),
    dtBias: weights.floats('dt_bias', [heads]),
  };

  const projected = yield* pass.project('in_proj.weight', undefined, 'in_proj.bias');
  const [z, xBC, dt] = columns(projected, [inner, mixed, heads]);
  const convolved = yield* pass.conv('conv1d', xBC, 'silu');
  const [x, B, C] = columns(convolved, [inner, groups * stateDim, groups * stateDim]);
  const y = yield* pass.recur(
    'mamba2',
    [heads, stateDim, headDim],
    {
      x: reshape(x, [batch, tokens, heads, headDim]),
      dt,
      B: reshape(B, [batch, tokens, groups, stateDim]),
      C: reshape(C, [batch, tokens, groups, stateDim]),
      ...parameters,
    },
    { dtSoftplus: true, ...(options.dtLimit && { dtLimit: options.dtLimit }) },
  );
  const out = yield* gated(pass, reshape(y, [batch, tokens, inner]), z, groups, options);
  return yield* pass.project('out_proj.weight', out, 'out_proj.bias');
}

const definition: LayerDefinition<Mamba2LayerOptions> = {
  weights: [
    ...['in_proj.weight', 'in_proj.bias', 'conv1d.weight', 'conv1d.bias', 'A_log', 'D', 'dt_bias'],
    ...['norm.weight', 'out_proj.weight', 'out_proj.bias'],
  ],
  options: ['heads', 'groups', 'normBeforeGate', 'dtLimit', 'normEps'],
  body,
};

/**
 * The mixer of a Mamba-2 block, with the weights of Mamba-2's and flash-linear-attention's checkpoints. P head width, N
 * state width; both follow from the weights.
 *
 * Weights: `in_proj` `[2 HV P + 2 G N + HV,D]`, `conv1d` `[HV P + 2 G N,1,W]`, `A_log`, `D`, `dt_bias` `[HV]`, `norm`
 * `[HV P]`, `out_proj` `[D,HV P]`, and biases where there are any; without `norm` the gate alone.
 *
 * @throws (rejects) as {@link gatedDeltaNetLayer}
 * @see Dao and Gu, Transformers are SSMs, 2024 (arXiv:2405.21060)
 */
export const mamba2Layer: AsyncLayerFunction<Mamba2LayerWeights, Mamba2LayerOptions> = asyncLayer(
  'mamba2Layer',
  definition,
);

/**
 * {@link mamba2Layer} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const mamba2LayerSync: SyncLayerFunction<Mamba2LayerWeights, Mamba2LayerOptions> = syncLayer(
  'mamba2Layer',
  definition,
);
