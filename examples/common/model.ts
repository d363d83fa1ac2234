import { crossEntropyBackwardSync, crossEntropySync, type IndexTensor, type Tensor } from 'rankone';
import type { Carry } from './carry.ts';
import { Chain, Residual } from './layers/chain.ts';
import { Embedding } from './layers/embedding.ts';
import type { Layer } from './layers/layer.ts';
import { SwigluMlp } from './layers/mlp.ts';
import { RmsNorm } from './layers/rmsNorm.ts';
import { type MixerName, type MixerOptions, mixers } from './mixers/index.ts';
import { type MakeLinear, Parameters } from './parameters.ts';
import { Random } from './random.ts';
import { Buffers, rows } from './tensor.ts';

export interface ModelConfig extends MixerOptions {
  mixer: MixerName;
  /** How many different tokens there are. */
  vocabulary: number;
  width: number;
  /** Blocks of mixer and MLP. */
  layers: number;
  headDim: number;
  /** Inner width of the MLP; 0: blocks of the mixer alone. */
  hidden: number;
}

/** Tokens and the tokens that follow them, `[B,T]` each. A target of -100 does not count. */
export interface Batch {
  inputs: IndexTensor;
  targets: IndexTensor;
}

/** Embedding, pre-norm blocks of mixer and SwiGLU, norm, and a head of its own: tokens in, logits out. */
export class SequenceModel {
  readonly config: ModelConfig;
  readonly parameters: Parameters;
  /** Of the blocks, the first one first. */
  readonly mixers: readonly Layer[];
  private readonly embedding: Embedding;
  private readonly body: Layer;
  private readonly buffers = new Buffers();

  /** @param makeLinear of the model's linear layers, where they are to be others than {@link Linear} */
  constructor(config: ModelConfig, seed: number, makeLinear?: MakeLinear) {
    const { vocabulary, width, layers, hidden } = config;
    this.config = config;
    this.parameters = new Parameters(new Random(seed), makeLinear);
    this.embedding = new Embedding(this.parameters.scope('embedding'), vocabulary, width, 0.5);
    // Each block adds to the residual stream twice; smaller first steps keep its size independent of the depth.
    const outputGain = 1 / Math.sqrt(2 * layers);
    const chain: Layer[] = [];
    const made: Layer[] = [];
    for (let i = 0; i < layers; i++) {
      const p = this.parameters.scope(`blocks.${i}`);
      const mixer = mixers[config.mixer](p.scope('mixer'), { ...config, outputGain });
      made.push(mixer);
      chain.push(new Residual(new Chain(new RmsNorm(p.scope('mixerNorm'), width), mixer)));
      if (hidden === 0) continue;
      const mlp = new SwigluMlp(p.scope('mlp'), width, hidden, outputGain);
      chain.push(new Residual(new Chain(new RmsNorm(p.scope('mlpNorm'), width), mlp)));
    }
    chain.push(new RmsNorm(this.parameters.scope('norm'), width));
    chain.push(this.parameters.linear('head', width, vocabulary, { gain: 0.2 }));
    this.mixers = made;
    this.body = new Chain(...chain);
  }

  /** ids `[B,T]` to logits `[B,T,vocabulary]`; with `carry`, going on from where the last call with it stopped. */
  forward(ids: IndexTensor, carry?: Carry): Tensor {
    return this.body.forward(this.embedding.forward(ids), carry);
  }

  backward(dLogits: Tensor): void {
    this.embedding.backward(this.body.backward(dLogits));
  }

  /** Forward and backward of the mean cross-entropy, in nats; gradients are added to the parameters'. */
  learn({ inputs, targets }: Batch): number {
    const raw = this.forward(inputs);
    const logits = rows(raw);
    const flat = { data: targets.data, shape: [targets.data.length] };
    const { loss } = crossEntropySync({ logits, targets: flat });
    const dLogits = this.buffers.get('dLogits', ...logits.shape);
    crossEntropyBackwardSync({ logits, targets: flat }, { out: { dLogits } });
    this.backward({ data: dLogits.data, shape: raw.shape });
    return loss.data[0];
  }

  /** Cross-entropy of each token, in nats, without gradients. */
  losses({ inputs, targets }: Batch): Float32Array {
    const logits = rows(this.forward(inputs));
    const flat = { data: targets.data, shape: [targets.data.length] };
    return crossEntropySync({ logits, targets: flat }).losses.data;
  }
}
