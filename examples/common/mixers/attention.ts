import {
  attentionBackwardSync,
  attentionSync,
  ropeBackwardSync,
  ropeSync,
  type Tensor,
} from 'rankone';
import type { Carry } from '../carry.ts';
import { add } from '../elementwise.ts';
import type { Layer } from '../layers/layer.ts';
import type { Parameters } from '../parameters.ts';
import { Buffers, reshape } from '../tensor.ts';
import type { Cell, CellGradients, CellInputs, MixerShape } from './mixer.ts';

/**
 * The layer of a Transformer: queries, keys and values by a projection each, queries and keys turned by their positions
 * (RoPE), what the cell makes of them, and a projection back. With {@link SoftmaxCell} it is softmax attention; a cell of
 * another kind takes its place without a change to the projections.
 */
export class AttentionMixer<C extends Cell = Cell> implements Layer {
  readonly cell: C;
  /** What the cell got last: queries and keys already turned. */
  seen!: CellInputs;
  /** What the cell returned last, `[B,T,H,V]`. */
  mixed!: Tensor;
  private readonly shape: MixerShape;
  private readonly q: Layer;
  private readonly k: Layer;
  private readonly v: Layer;
  private readonly out: Layer;
  private readonly buffers = new Buffers();

  constructor(parameters: Parameters, shape: MixerShape, cell: C, outputGain: number) {
    const { width, keyHeads, valueHeads, keyDim, valueDim } = shape;
    this.shape = shape;
    this.cell = cell;
    this.q = parameters.linear('q', width, keyHeads * keyDim);
    this.k = parameters.linear('k', width, keyHeads * keyDim);
    this.v = parameters.linear('v', width, valueHeads * valueDim);
    this.out = parameters.linear('out', valueHeads * valueDim, width, { gain: outputGain });
  }

  forward(x: Tensor, carry?: Carry): Tensor {
    const [batch, tokens] = x.shape;
    const { keyHeads, valueHeads, keyDim, valueDim } = this.shape;
    const q = reshape(this.q.forward(x), batch, tokens, keyHeads, keyDim);
    const k = reshape(this.k.forward(x), batch, tokens, keyHeads, keyDim);
    const v = reshape(this.v.forward(x), batch, tokens, valueHeads, valueDim);
    const offset = carry?.position(this, tokens) ?? 0;
    const turned = (name: string, x: Tensor) => {
      const y = this.buffers.get(name, ...x.shape);
      ropeSync({ x }, { offset, out: { y } });
      return y;
    };
    this.seen = { x, q: turned('q', q), k: turned('k', k), v, unturned: { q, k } };
    this.mixed = this.cell.forward(this.seen, carry);
    return this.out.forward(reshape(this.mixed, batch, tokens, valueHeads * valueDim));
  }

  backward(dy: Tensor): Tensor {
    const [batch, tokens] = dy.shape;
    const { valueHeads, valueDim } = this.shape;
    const dO = reshape(this.out.backward(dy), batch, tokens, valueHeads, valueDim);
    const { dq, dk, dv, unturned } = this.cell.backward(dO);
    const turnedBack = (name: string, dY: Tensor, besides?: Tensor) => {
      const dx = this.buffers.get(name, ...dY.shape);
      ropeBackwardSync({ dY }, { out: { dx } });
      if (besides) add(dx.data, besides.data, dx.data);
      return flat(dx);
    };
    const dx = this.q.backward(turnedBack('dq', dq, unturned?.dq));
    add(dx.data, this.k.backward(turnedBack('dk', dk, unturned?.dk)).data, dx.data);
    add(dx.data, this.v.backward(flat(dv)).data, dx.data);
    return dx;
  }
}

/** `[B,T,H,D]` as `[B,T,H D]`. */
function flat(x: Tensor): Tensor {
  const [batch, tokens, heads, width] = x.shape;
  return reshape(x, batch, tokens, heads * width);
}

/** Causal softmax attention, over all that was read or over a window of it. */
export class SoftmaxCell implements Cell {
  private readonly window?: number;
  private readonly buffers = new Buffers();
  private kept?: { q: Tensor; k: Tensor; v: Tensor; o: Tensor; lse: Tensor };

  /** @param window tokens that a query sees, its own among them; all before it without it */
  constructor(window?: number) {
    this.window = window;
  }

  forward({ q, k, v }: CellInputs, carry?: Carry): Tensor {
    const [batch, tokens, heads, keyDim] = q.shape;
    const o = this.buffers.get('o', ...v.shape);
    this.kept = undefined;
    if (carry) {
      const reach = this.window === undefined ? undefined : Math.max(1, this.window - 1);
      const cache = carry.cache(this, v.shape[2], keyDim, v.shape[3], reach);
      attentionSync({ q, k, v, cache }, { ...this.mask, out: { o } });
    } else {
      const lse = this.buffers.get('lse', batch, tokens, heads);
      attentionSync({ q, k, v }, { ...this.mask, outputLse: true, out: { o, lse } });
      this.kept = { q, k, v, o, lse };
    }
    return o;
  }

  backward(dO: Tensor): CellGradients {
    if (!this.kept) throw new Error('backward without a forward that kept its inputs');
    const { q, k, v } = this.kept;
    const out = {
      dq: this.buffers.get('dq', ...q.shape),
      dk: this.buffers.get('dk', ...k.shape),
      dv: this.buffers.get('dv', ...v.shape),
    };
    attentionBackwardSync({ ...this.kept, dO }, { ...this.mask, out });
    return out;
  }

  private get mask(): { window?: readonly [number, number] } {
    return this.window === undefined ? {} : { window: [this.window - 1, 0] };
  }
}
