import type { Tensor } from 'rankone';
import type { Carry } from '../carry.ts';
import { add, joinColumns, splitColumns } from '../elementwise.ts';
import type { Layer } from '../layers/layer.ts';
import { RmsNormGated } from '../layers/rmsNorm.ts';
import { ShortConv } from '../layers/shortConv.ts';
import type { Parameters } from '../parameters.ts';
import { Buffers, reshape } from '../tensor.ts';

/** Heads and widths of a mixer, in the letters of the kernels. */
export interface MixerShape {
  /** Width of the layer's input and output. */
  width: number;
  /** H: query and key heads. */
  keyHeads: number;
  /** HV: value heads, a multiple of H. */
  valueHeads: number;
  /** K */
  keyDim: number;
  /** V */
  valueDim: number;
  /** n: keys and values per token, more than 1 for Householder products. */
  keysPerToken: number;
  /** Whether the recurrence brings queries and keys to length 1, as the delta rule needs. */
  unitKeys: boolean;
  /** Of the short convolution; 1 leaves its silu alone. */
  taps: number;
}

export interface CellInputs {
  /** The layer's input, from which gates are made. */
  x: Tensor;
  q: Tensor;
  k: Tensor;
  v: Tensor;
  /** Queries and keys before they were turned by their positions, where that is done. */
  unturned?: { q: Tensor; k: Tensor };
}

export interface CellGradients {
  /** What comes back through the gates; absent where there are none. */
  dx?: Tensor;
  dq: Tensor;
  dk: Tensor;
  dv: Tensor;
  /** What comes back to the queries and keys before they were turned, besides. */
  unturned?: { dq: Tensor; dk: Tensor };
}

/** The recurrence itself, with the gates that belong to it. */
export interface Cell {
  /** Returns o `[B,T,HV,V]`. */
  forward(inputs: CellInputs, carry?: Carry): Tensor;
  backward(dO: Tensor): CellGradients;
}

/** A cell of softmax in a window and something linear before it. */
export interface HybridCell extends Cell {
  /** False leaves the window alone, to see what the rest is worth. */
  tail: boolean;
}

/**
 * What the papers' layers have in common: queries, keys and values by one projection and a short causal convolution; the
 * recurrence; a normalization per head with an output gate; a projection back.
 */
export class Mixer implements Layer {
  private readonly shape: MixerShape;
  private readonly cell: Cell;
  private readonly qkv: Layer;
  private readonly conv: ShortConv;
  private readonly gate: Layer;
  private readonly norm: RmsNormGated;
  private readonly out: Layer;
  private readonly widths: number[];
  private readonly buffers = new Buffers();

  constructor(parameters: Parameters, shape: MixerShape, cell: Cell, outputGain: number) {
    const { width, keyHeads, valueHeads, keyDim, valueDim, keysPerToken, taps } = shape;
    const keys = keyHeads * keyDim;
    const values = valueHeads * valueDim;
    this.shape = shape;
    this.cell = cell;
    this.widths = [keys, keysPerToken * keys, keysPerToken * values];
    const channels = this.widths.reduce((a, b) => a + b);
    this.qkv = parameters.linear('qkv', width, channels);
    this.conv = new ShortConv(parameters.scope('conv'), channels, taps);
    this.gate = parameters.linear('gate', width, values);
    this.norm = new RmsNormGated(parameters.scope('norm'), valueDim);
    this.out = parameters.linear('out', values, width, { gain: outputGain });
  }

  forward(x: Tensor, carry?: Carry): Tensor {
    const [batch, tokens] = x.shape;
    const { keyHeads, valueHeads, keyDim, valueDim, keysPerToken: n } = this.shape;
    const mixed = this.conv.forward(this.qkv.forward(x), carry);
    const q = this.buffers.get('q', batch, tokens, keyHeads, keyDim);
    // The n keys of a token lie side by side in the projection, which is their order in [B,T*n,H,K].
    const k = this.buffers.get('k', batch, tokens * n, keyHeads, keyDim);
    const v = this.buffers.get('v', batch, tokens * n, valueHeads, valueDim);
    splitColumns(mixed.data, [q.data, k.data, v.data], this.widths);
    const o = this.cell.forward({ x, q, k, v }, carry);
    const gate = reshape(this.gate.forward(x), ...o.shape);
    const y = this.norm.forward(o, gate);
    return this.out.forward(reshape(y, batch, tokens, valueHeads * valueDim));
  }

  backward(dy: Tensor): Tensor {
    const [batch, tokens] = dy.shape;
    const { valueHeads, valueDim } = this.shape;
    const dNorm = reshape(this.out.backward(dy), batch, tokens, valueHeads, valueDim);
    const { dx: dO, dGate } = this.norm.backward(dNorm);
    const { dx: dGates, dq, dk, dv } = this.cell.backward(dO);
    const channels = this.widths.reduce((a, b) => a + b);
    const dMixed = this.buffers.get('dMixed', batch, tokens, channels);
    joinColumns([dq.data, dk.data, dv.data], dMixed.data, this.widths);
    const dx = this.qkv.backward(this.conv.backward(dMixed));
    const dThroughGate = this.gate.backward(reshape(dGate, batch, tokens, valueHeads * valueDim));
    add(dx.data, dThroughGate.data, dx.data);
    if (dGates) add(dx.data, dGates.data, dx.data);
    return dx;
  }
}
