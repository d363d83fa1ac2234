import {
  featureMapBackwardSync,
  featureMapSync,
  glaBackwardSync,
  glaSync,
  type SavedForward,
  type Tensor,
} from 'rankone';
import type { Carry } from '../carry.ts';
import { add, logSigmoid, logSigmoidBackward } from '../elementwise.ts';
import { Buffers } from '../tensor.ts';
import { SoftmaxCell } from './attention.ts';
import type { CellGradients, CellInputs, HybridCell } from './mixer.ts';

/** GLA's divisor of the log decay. */
const FACTOR = 1 / 16;

interface Kept {
  /** Keys and queries before their positions, and what the recurrence gets. */
  raw: { q: Tensor; k: Tensor };
  inputs: { q: Tensor; k: Tensor; v: Tensor; g: Tensor };
}

/**
 * Liger (Lan et al. 2025), without a parameter of its own: half of what GLA makes of the softmax of queries and of keys, with
 * decays from the keys themselves, and half of softmax attention in a window. Positions are in the window alone.
 */
export class LigerCell implements HybridCell {
  tail = true;
  private readonly window: SoftmaxCell;
  private readonly buffers = new Buffers();
  private kept?: Kept;
  private saved?: SavedForward;

  constructor(window: number) {
    this.window = new SoftmaxCell(window);
  }

  forward({ x, q, k, v, unturned }: CellInputs, carry?: Carry): Tensor {
    const raw = unturned ?? { q, k };
    const inputs = {
      q: this.softmax('q', raw.q),
      k: this.softmax('k', raw.k),
      v,
      g: this.decay(raw.k),
    };
    const o = this.buffers.get('o', ...v.shape);
    this.saved?.dispose();
    this.saved = undefined;
    this.kept = undefined;
    const options = { scale: 1, out: { o } };
    if (carry) {
      const state = carry.state(this, v.shape[2], q.shape[3], v.shape[3]);
      glaSync({ ...inputs, state }, options);
    } else {
      this.saved = glaSync(inputs, { ...options, saveForBackward: true }).saved;
      this.kept = { raw, inputs };
    }
    if (!this.tail) o.data.fill(0);
    add(o.data, this.window.forward({ x, q, k, v }, carry).data, o.data);
    halve(o);
    return o;
  }

  backward(dO: Tensor): CellGradients {
    const { kept, saved } = this;
    if (!kept) throw new Error('backward without a forward that kept its inputs');
    const { raw, inputs } = kept;
    const half = this.buffers.get('half', ...dO.shape);
    half.data.set(dO.data);
    halve(half);
    const like = (name: string, t: Tensor) => this.buffers.get(name, ...t.shape);
    const out = {
      dq: like('dq', inputs.q),
      dk: like('dk', inputs.k),
      dv: like('dv', inputs.v),
      dg: like('dg', inputs.g),
    };
    glaBackwardSync({ ...inputs, dO: half, saved }, { scale: 1, out });
    const dq = this.softmaxBackward('q', raw.q, out.dq);
    const dk = this.softmaxBackward('k', raw.k, out.dk);
    const dThroughDecay = like('dThroughDecay', raw.k);
    logSigmoidBackward(raw.k.data, FACTOR, out.dg.data, dThroughDecay.data);
    add(dk.data, dThroughDecay.data, dk.data);
    const near = this.window.backward(half);
    add(out.dv.data, near.dv.data, out.dv.data);
    return { dq: near.dq, dk: near.dk, dv: out.dv, unturned: { dq, dk } };
  }

  private softmax(name: string, x: Tensor): Tensor {
    const y = this.buffers.get(`softmax ${name}`, ...x.shape);
    featureMapSync({ x }, { kind: 'softmax', out: { y } });
    return y;
  }

  private softmaxBackward(name: string, x: Tensor, dY: Tensor): Tensor {
    const dx = this.buffers.get(`d raw ${name}`, ...x.shape);
    featureMapBackwardSync({ x, dY }, { kind: 'softmax', out: { dx } });
    return dx;
  }

  private decay(k: Tensor): Tensor {
    const g = this.buffers.get('g', ...k.shape);
    logSigmoid(k.data, FACTOR, g.data);
    return g;
  }
}

function halve({ data }: Tensor): void {
  for (let i = 0; i < data.length; i++) data[i] /= 2;
}
