/** One layer of published models: what `rankone/layers` takes for it, and the shapes of its tensors. */
import type { Shape } from '../ts/cli/operation';

export interface Layer {
  /** Function of `rankone/layers`. */
  layer: string;
  model: string;
  /** Where the sizes stand. */
  source: string;
  /** D: width of the model. */
  width: number;
  options: object;
  weights: Record<string, readonly number[]>;
  /** Of RWKV-7, the width of the first layer's values. */
  vFirst?: number;
  /** The row of `rankone bench` that its recurrence is. */
  recurrence: { op: string; shape: Shape };
}

const FLA = 'defaults of flash-linear-attention';

function convolutions(sizes: Record<string, number>): Record<string, number[]> {
  return Object.fromEntries(
    Object.entries(sizes).map(([name, size]) => [`${name}_conv1d.weight`, [size, 1, 4]]),
  );
}

function deltaNet(): Layer {
  const [D, H, K] = [2048, 16, 128];
  const square = [D, D];
  return {
    layer: 'deltaNetLayer',
    model: 'DeltaNet 1.3B',
    source: `${FLA} DeltaNetConfig`,
    width: D,
    options: { heads: H },
    weights: {
      'q_proj.weight': square,
      'k_proj.weight': square,
      'v_proj.weight': square,
      'b_proj.weight': [H, D],
      'o_proj.weight': square,
      ...convolutions({ q: D, k: D, v: D }),
      'o_norm.weight': [K],
    },
    recurrence: { op: 'deltaNet', shape: { H, HV: H, K, V: K } },
  };
}

/** With n > 0 Householder steps that of DeltaProduct. */
function gatedDelta(n: number): Layer {
  const [D, H, K, V] = [2048, 6, 256, 512];
  const steps = Math.max(1, n);
  return {
    layer: n ? 'gatedDeltaProductLayer' : 'gatedDeltaNetLayer',
    model: n ? `Gated DeltaProduct, n = ${n}` : 'Gated DeltaNet 1.3B',
    source: `${FLA} ${n ? 'GatedDeltaProductConfig, use_forget_gate' : 'GatedDeltaNetConfig'}`,
    width: D,
    options: { heads: H, ...(n && { numHouseholder: n }) },
    weights: {
      'q_proj.weight': [H * K, D],
      'k_proj.weight': [steps * H * K, D],
      'v_proj.weight': [steps * H * V, D],
      'a_proj.weight': [H, D],
      'b_proj.weight': [steps * H, D],
      'g_proj.weight': [H * V, D],
      'o_proj.weight': [D, H * V],
      ...convolutions({ q: H * K, k: steps * H * K, v: steps * H * V }),
      A_log: [H],
      dt_bias: [H],
      'o_norm.weight': [V],
    },
    recurrence: {
      op: n ? `token/delta/${n}` : 'gatedDeltaNet',
      shape: { H, HV: H, K, V },
    },
  };
}

function qwen3Next(): Layer {
  const [D, H, HV, K, V] = [2048, 16, 32, 128, 128];
  return {
    layer: 'qwen3NextLayer',
    model: 'Qwen3-Next 80B-A3B',
    source: 'huggingface.co/Qwen/Qwen3-Next-80B-A3B-Instruct config.json',
    width: D,
    options: { heads: H, valueHeads: HV, keyDim: K },
    weights: {
      'in_proj_qkvz.weight': [2 * H * K + 2 * HV * V, D],
      'in_proj_ba.weight': [2 * HV, D],
      'conv1d.weight': [2 * H * K + HV * V, 1, 4],
      A_log: [HV],
      dt_bias: [HV],
      'norm.weight': [V],
      'out_proj.weight': [D, HV * V],
    },
    recurrence: { op: 'gatedDeltaNet', shape: { H, HV, K, V } },
  };
}

function gla(): Layer {
  const [D, H, K, V, R] = [2048, 4, 256, 512, 16];
  return {
    layer: 'glaLayer',
    model: 'GLA 1.3B',
    source: 'huggingface.co/fla-hub/gla-1.3B-100B config.json',
    width: D,
    options: { heads: H },
    weights: {
      'q_proj.weight': [H * K, D],
      'k_proj.weight': [H * K, D],
      'v_proj.weight': [H * V, D],
      'g_proj.weight': [H * V, D],
      'gk_proj.0.weight': [R, D],
      'gk_proj.1.weight': [H * K, R],
      'gk_proj.1.bias': [H * K],
      'o_proj.weight': [D, H * V],
      'g_norm_swish_gate.weight': [V],
    },
    recurrence: { op: 'gla', shape: { H, HV: H, K, V } },
  };
}

function kda(): Layer {
  const [D, H, K, R] = [2304, 32, 128, 128];
  const all = H * K;
  return {
    layer: 'kdaLayer',
    model: 'Kimi-Linear 48B-A3B',
    source: 'huggingface.co/moonshotai/Kimi-Linear-48B-A3B-Instruct config.json',
    width: D,
    options: { heads: H },
    weights: {
      'q_proj.weight': [all, D],
      'k_proj.weight': [all, D],
      'v_proj.weight': [all, D],
      'f_proj.0.weight': [R, D],
      'f_proj.1.weight': [all, R],
      'b_proj.weight': [H, D],
      'g_proj.0.weight': [R, D],
      'g_proj.1.weight': [all, R],
      'g_proj.1.bias': [all],
      'o_proj.weight': [D, all],
      ...convolutions({ q: all, k: all, v: all }),
      A_log: [H],
      dt_bias: [all],
      'o_norm.weight': [K],
    },
    recurrence: { op: 'kda', shape: { H, HV: H, K, V: K } },
  };
}

function mamba2(): Layer {
  const [D, HV, P, N] = [2560, 80, 64, 128];
  const mixed = HV * P + 2 * N;
  return {
    layer: 'mamba2Layer',
    model: 'Mamba-2 2.7B',
    source: 'huggingface.co/state-spaces/mamba2-2.7b config.json',
    width: D,
    options: { heads: HV },
    weights: {
      'in_proj.weight': [HV * P + mixed + HV, D],
      'conv1d.weight': [mixed, 1, 4],
      'conv1d.bias': [mixed],
      A_log: [HV],
      D: [HV],
      dt_bias: [HV],
      'norm.weight': [HV * P],
      'out_proj.weight': [D, HV * P],
    },
    recurrence: { op: 'mamba2', shape: { H: 1, HV, K: N, V: P } },
  };
}

function retention(): Layer {
  const [D, H, K, V] = [2048, 8, 256, 512];
  return {
    layer: 'retentionLayer',
    model: 'RetNet 1.3B',
    source: `${FLA} RetNetConfig`,
    width: D,
    options: { heads: H },
    weights: {
      'q_proj.weight': [H * K, D],
      'k_proj.weight': [H * K, D],
      'v_proj.weight': [H * V, D],
      'g_proj.weight': [H * V, D],
      'o_proj.weight': [D, H * V],
      'g_norm_swish_gate.weight': [V],
    },
    recurrence: { op: 'retention', shape: { H, HV: H, K, V } },
  };
}

function hgrn2(): Layer {
  const [D, H, K] = [2048, 16, 128];
  const square = [D, D];
  return {
    layer: 'hgrn2Layer',
    model: 'HGRN2 1.3B',
    source: `${FLA} HGRN2Config`,
    width: D,
    options: { heads: H },
    weights: {
      'q_proj.weight': square,
      'f_proj.weight': square,
      'i_proj.weight': square,
      'o_proj.weight': square,
      'g_norm.weight': [D],
    },
    recurrence: { op: 'hgrn2', shape: { H, HV: H, K, V: K } },
  };
}

function rwkv7(): Layer {
  const [D, H] = [2048, 32];
  const square = [D, D];
  const ranks = { w: 96, a: 96, v: 64, g: 256 };
  const low = Object.entries(ranks).flatMap(([name, rank]): [string, number[]][] => [
    [`${name}_lora.lora.0.weight`, [rank, D]],
    [`${name}_lora.lora.2.weight`, [D, rank]],
    ...(name === 'g' ? [] : [[`${name}_lora.lora.2.bias`, [D]] as [string, number[]]]),
  ]);
  const mixes = ['r', 'w', 'k', 'v', 'a', 'g'].map((name) => [`x_${name}`, [1, 1, D]]);
  return {
    layer: 'rwkv7Layer',
    model: 'RWKV-7 1.5B',
    source: 'huggingface.co/fla-hub/rwkv7-1.5B-world config.json',
    width: D,
    vFirst: D,
    options: { heads: H },
    weights: {
      'r_proj.weight': square,
      'k_proj.weight': square,
      'v_proj.weight': square,
      'o_proj.weight': square,
      ...Object.fromEntries(low),
      ...Object.fromEntries(mixes),
      k_k: [D],
      k_a: [D],
      r_k: [H, D / H],
      'g_norm.weight': [D],
      'g_norm.bias': [D],
    },
    recurrence: { op: 'rwkv7', shape: { H, K: D / H, V: D / H } },
  };
}

export const publishedLayers: readonly Layer[] = [
  qwen3Next(),
  gatedDelta(0),
  deltaNet(),
  gatedDelta(2),
  gla(),
  kda(),
  mamba2(),
  retention(),
  hgrn2(),
  rwkv7(),
];
