// The recurrent layers of published models: one layer's heads and widths.
import type { Shape } from '../operation';

export interface Model {
  /** As `--model` takes it. */
  name: string;
  /** The operation that its layer is. */
  op: string;
  shape: Omit<Shape, 'B' | 'T'>;
  title: string;
  /** Where the sizes stand. */
  source: string;
}

export const models: readonly Model[] = [
  {
    name: 'qwen3-next',
    op: 'gatedDeltaNet',
    shape: { H: 16, HV: 32, K: 128, V: 128 },
    title: 'Qwen3-Next 80B-A3B',
    // linear_num_key_heads, linear_num_value_heads, linear_key_head_dim, linear_value_head_dim
    source: 'huggingface.co/Qwen/Qwen3-Next-80B-A3B-Instruct config.json',
  },
  {
    name: 'olmo-hybrid',
    op: 'gatedDeltaNet',
    shape: { H: 30, HV: 30, K: 96, V: 192 },
    title: 'Olmo-Hybrid 7B',
    // hidden_size 3840, num_attention_heads 30: key width 0.75 * 3840 / 30, value width twice that
    source: 'huggingface.co/allenai/Olmo-Hybrid-7B, defaults of transformers OlmoHybridConfig',
  },
  {
    name: 'kimi-linear',
    op: 'kda',
    shape: { H: 32, HV: 32, K: 128, V: 128 },
    title: 'Kimi-Linear 48B-A3B',
    // linear_attn_config: num_heads, head_dim
    source: 'huggingface.co/moonshotai/Kimi-Linear-48B-A3B-Instruct config.json',
  },
  {
    name: 'mamba2-2.7b',
    op: 'mamba2',
    shape: { H: 1, HV: 80, K: 128, V: 64 },
    title: 'Mamba-2 2.7B',
    // d_model 2560; expand 2, headdim 64, d_state 128 and ngroups 1 are the defaults of mamba_ssm's Mamba2
    source: 'huggingface.co/state-spaces/mamba2-2.7b config.json',
  },
  {
    name: 'rwkv-like',
    op: 'kda',
    shape: { H: 40, HV: 40, K: 64, V: 64 },
    title: 'heads as in RWKV-7 2.9B, with the update of KDA',
    // hidden_size 2560, head_dim 64; the rule of RWKV-7 itself is another one
    source: 'huggingface.co/RWKV/RWKV7-Goose-World3-2.9B-HF config.json',
  },
  {
    name: 'gla-1.3b',
    op: 'gla',
    shape: { H: 4, HV: 4, K: 256, V: 512 },
    title: 'GLA 1.3B',
    // hidden_size 2048, num_heads 4, expand_k 0.5, expand_v 1
    source: 'huggingface.co/fla-hub/gla-1.3B-100B config.json',
  },
];
