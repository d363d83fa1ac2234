import {
  deltaNetBackwardSync,
  deltaNetSync,
  deltaProductBackwardSync,
  deltaProductSync,
  gatedDeltaNetBackwardSync,
  gatedDeltaNetSync,
  gatedDeltaProductBackwardSync,
  gatedDeltaProductSync,
  glaBackwardSync,
  glaSync,
  kdaBackwardSync,
  kdaSync,
  linearAttentionBackwardSync,
  linearAttentionSync,
} from 'rankone';
import type { Layer } from '../layers/layer.ts';
import type { Parameters } from '../parameters.ts';
import { AttentionMixer, SoftmaxCell } from './attention.ts';
import { LogSigmoidDecay, SoftplusDecay, WriteStrength } from './gates.ts';
import { GridCell } from './gridCell.ts';
import { HedgehogCell } from './hedgehog.ts';
import { LigerCell } from './liger.ts';
import { LolcatsCell } from './lolcats.ts';
import { Mamba2Cell } from './mamba2.ts';
import { Mixer, type MixerShape } from './mixer.ts';

/** How a mixer may differ from its paper's layer. */
export interface MixerOptions {
  /** Tokens under softmax beside a linear form, the query's own among them; 8 without it. */
  window?: number;
  /** beta in [0,2] instead of [0,1] (Grazzi et al. 2024), for the delta rules. */
  negativeEigenvalues?: boolean;
  /** n of the Householder products; 2 without it. */
  householders?: number;
  /** Without the short convolution; silu remains. */
  noConvolution?: boolean;
}

export interface MixerConfig extends MixerOptions {
  width: number;
  /** K and V of a head; there are width / headDim heads. */
  headDim: number;
  /** Factor on the first weights of the output projection. */
  outputGain: number;
}

/** Of the short convolution. */
const TAPS = 4;

/** Tokens that attention in a window sees. */
const WINDOW = 8;

type MakeMixer = (parameters: Parameters, config: MixerConfig) => Layer;

function shapeOf(
  { width, headDim, noConvolution }: MixerConfig,
  changes: Partial<MixerShape> = {},
): MixerShape {
  if (width % headDim !== 0) throw new RangeError(`width ${width} is no multiple of ${headDim}`);
  const heads = width / headDim;
  return {
    width,
    keyHeads: heads,
    valueHeads: heads,
    keyDim: headDim,
    valueDim: headDim,
    keysPerToken: 1,
    unitKeys: false,
    taps: noConvolution ? 1 : TAPS,
    ...changes,
  };
}

/** The ways to mix tokens, each as its paper's layer has it, on one frame (see Mixer). */
export const mixers = {
  /** Katharopoulos et al. 2020, with silu for the feature map and the output norm for the normalizer. */
  linearAttention(parameters, config) {
    const shape = shapeOf(config);
    const preset = { forward: linearAttentionSync, backward: linearAttentionBackwardSync };
    return new Mixer(parameters, shape, new GridCell(shape, preset), config.outputGain);
  },

  /** Yang et al. 2023: a decay per key channel. */
  gla(parameters, config) {
    const shape = shapeOf(config);
    const cell = new GridCell(
      shape,
      { forward: glaSync, backward: glaBackwardSync },
      { decay: new LogSigmoidDecay(parameters, shape) },
    );
    return new Mixer(parameters, shape, cell, config.outputGain);
  },

  /** Yang et al. 2024: the delta rule. */
  deltaNet(parameters, config) {
    const shape = shapeOf(config, { unitKeys: true });
    const cell = new GridCell(
      shape,
      { forward: deltaNetSync, backward: deltaNetBackwardSync },
      { strength: new WriteStrength(parameters, shape, config) },
    );
    return new Mixer(parameters, shape, cell, config.outputGain);
  },

  /** Yang et al. 2024: the delta rule with a decay per head. */
  gatedDeltaNet(parameters, config) {
    const shape = shapeOf(config, { unitKeys: true });
    const cell = new GridCell(
      shape,
      { forward: gatedDeltaNetSync, backward: gatedDeltaNetBackwardSync },
      {
        decay: new SoftplusDecay(parameters, shape, false),
        strength: new WriteStrength(parameters, shape, config),
      },
    );
    return new Mixer(parameters, shape, cell, config.outputGain);
  },

  /** Kimi Delta Attention, 2025: the delta rule with a decay per key channel. Its output gate is silu here. */
  kda(parameters, config) {
    const shape = shapeOf(config, { unitKeys: true });
    const cell = new GridCell(
      shape,
      { forward: kdaSync, backward: kdaBackwardSync },
      {
        decay: new SoftplusDecay(parameters, shape, true),
        strength: new WriteStrength(parameters, shape, config),
      },
    );
    return new Mixer(parameters, shape, cell, config.outputGain);
  },

  /** Siems et al. 2025: two delta updates per token or more, each with its own key, value and strength. */
  deltaProduct(parameters, config) {
    const shape = shapeOf(config, { unitKeys: true, keysPerToken: config.householders ?? 2 });
    const cell = new GridCell(
      shape,
      { forward: deltaProductSync, backward: deltaProductBackwardSync },
      { strength: new WriteStrength(parameters, shape, config) },
    );
    return new Mixer(parameters, shape, cell, config.outputGain);
  },

  /** The same with a decay per head. */
  gatedDeltaProduct(parameters, config) {
    const shape = shapeOf(config, { unitKeys: true, keysPerToken: config.householders ?? 2 });
    const cell = new GridCell(
      shape,
      { forward: gatedDeltaProductSync, backward: gatedDeltaProductBackwardSync },
      {
        decay: new SoftplusDecay(parameters, shape, false),
        strength: new WriteStrength(parameters, shape, config),
      },
    );
    return new Mixer(parameters, shape, cell, config.outputGain);
  },

  /** Softmax attention with rotary positions: what the others are to do without. */
  attention(parameters, config) {
    return new AttentionMixer(parameters, shapeOf(config), new SoftmaxCell(), config.outputGain);
  },

  /** The same over the last tokens alone. */
  windowAttention(parameters, config) {
    const cell = new SoftmaxCell(config.window ?? WINDOW);
    return new AttentionMixer(parameters, shapeOf(config), cell, config.outputGain);
  },

  /** Zhang et al. 2024: linear attention with learned maps that are to be like the softmax. */
  hedgehog(parameters, config) {
    const shape = shapeOf(config);
    const cell = new HedgehogCell(parameters, shape);
    return new AttentionMixer(parameters, shape, cell, config.outputGain);
  },

  /** Zhang et al. 2024: a window of softmax, and what Hedgehog has before it. */
  lolcats(parameters, config) {
    const shape = shapeOf(config);
    const cell = new LolcatsCell(parameters, shape, config.window ?? WINDOW);
    return new AttentionMixer(parameters, shape, cell, config.outputGain);
  },

  /** Lan et al. 2025: gates from the keys, half of it attention in a window. */
  liger(parameters, config) {
    const cell = new LigerCell(config.window ?? WINDOW);
    return new AttentionMixer(parameters, shapeOf(config), cell, config.outputGain);
  },

  /** Dao and Gu 2024: values twice as wide, one query and key for all heads. */
  mamba2(parameters, config) {
    const valueHeads = 2 * shapeOf(config).valueHeads;
    const shape = shapeOf(config, { keyHeads: 1, valueHeads });
    return new Mixer(parameters, shape, new Mamba2Cell(parameters, shape), config.outputGain);
  },
} satisfies Record<string, MakeMixer>;

export type MixerName = keyof typeof mixers;

export const mixerNames = Object.keys(mixers) as MixerName[];
