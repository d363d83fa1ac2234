/**
 * The presets in float64: each is a cell of the grid under its paper's name. Where a paper fixes
 * the gate (retention, lightning attention) or the keys (HGRN2), the mapping is here.
 */

import type { Tensor64, TensorLike } from '../support/tensor.ts';
import { zeros } from '../support/tensor.ts';
import type {
  RecurrenceGradientInputs,
  RecurrenceGradients,
  RecurrenceInputs,
  RecurrenceOptions,
  RecurrenceOutputs,
} from './recurrence.ts';
import { backward, forward, RESET } from './recurrence.ts';

export { mamba2, mamba2Backward } from './mamba2.ts';

type Options = Omit<RecurrenceOptions, 'update'>;

interface Preset<O> {
  forward: (inputs: RecurrenceInputs, options?: O) => RecurrenceOutputs;
  backward: (inputs: RecurrenceGradientInputs, options?: O) => RecurrenceGradients;
}

/** A cell with its gate's rank (0 for none) and update pinned. */
function cell(gateRank: number, update: 'additive' | 'delta'): Preset<Options> {
  const check = ({ g }: RecurrenceInputs): void => {
    const rank = g ? g.shape.length : 0;
    if (rank !== gateRank) throw new RangeError(`g: expected rank ${gateRank}, got ${rank}`);
  };
  return {
    forward(inputs, options = {}) {
      check(inputs);
      return forward(inputs, { ...options, update });
    },
    backward(inputs, options = {}) {
      check(inputs);
      return backward(inputs, { ...options, update });
    },
  };
}

/** An additive cell whose head gate follows from the number of value heads and the options. */
function fixedGate<O extends Options>(gateOf: (HV: number, options: O) => Tensor64): Preset<O> {
  const gated = <T extends RecurrenceInputs>(inputs: T, options: O): T => {
    if (inputs.g) throw new TypeError('g: fixed by the preset');
    return { ...inputs, g: gateOf(inputs.v.shape[2], options) };
  };
  return {
    forward: (inputs, options = {} as O) => forward(gated(inputs, options), options),
    backward(inputs, options = {} as O) {
      const { dg: _fixed, ...grads } = backward(gated(inputs, options), options);
      return grads;
    },
  };
}

/** g_h = log1p(-2^(-5-h)) */
export function retentionGate(HV: number): Tensor64 {
  const g = zeros([HV]);
  for (let h = 0; h < HV; h++) g.data[h] = Math.log1p(-(2 ** (-5 - h)));
  return g;
}

export interface LightningOptions extends Options {
  layer: number;
  layers: number;
}

/** g_h = -(8/HV) (1 - layer/layers) h */
export function lightningGate(HV: number, { layer, layers }: LightningOptions): Tensor64 {
  const g = zeros([HV]);
  for (let h = 0; h < HV; h++) g.data[h] = -(8 / HV) * (1 - layer / layers) * h;
  return g;
}

export const linearAttention = cell(0, 'additive');
export const simpleGla = cell(3, 'additive');
export const gla = cell(4, 'additive');
export const deltaNet = cell(0, 'delta');
export const gatedDeltaNet = cell(3, 'delta');
export const kda = cell(4, 'delta');
/** Householder products: the same cells, with numHouseholder in the options. */
export const deltaProduct = deltaNet;
export const gatedDeltaProduct = gatedDeltaNet;
export const retention = fixedGate<Options>((HV) => retentionGate(HV));
export const lightningAttention = fixedGate<LightningOptions>(lightningGate);

export interface Hgrn2Inputs {
  q: TensorLike; // [B,T,H,K]
  v: TensorLike; // [B,T,H,V]
  g: TensorLike; // [B,T,H,K]
  initialState?: TensorLike; // [N,H,K,V]
}

export interface Hgrn2GradientInputs extends Hgrn2Inputs {
  dO: TensorLike;
  dFinalState?: TensorLike;
}

/** GLA with k = 1 - exp(g), so that there is no dk and dg carries both paths. */
export const hgrn2 = {
  forward(inputs: Hgrn2Inputs, options: Options = {}): RecurrenceOutputs {
    return gla.forward({ ...inputs, k: hgrn2Keys(inputs.g) }, options);
  },
  backward(
    inputs: Hgrn2GradientInputs,
    options: Options = {},
  ): Omit<RecurrenceGradients, 'dk' | 'dbeta'> {
    const { g } = inputs;
    const { dk, ...grads } = gla.backward({ ...inputs, k: hgrn2Keys(g) }, options);
    const dg = grads.dg!.data;
    for (let i = 0; i < dg.length; i++) {
      // A reset gate has no gradient through the key either.
      if (!(g.data[i] < RESET)) dg[i] -= Math.exp(g.data[i]) * dk.data[i];
    }
    return grads;
  },
};

function hgrn2Keys(g: TensorLike): Tensor64 {
  return { data: Float64Array.from(g.data, (x) => -Math.expm1(x)), shape: [...g.shape] };
}
