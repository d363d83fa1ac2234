import { ligerAttentionBackwardSync, ligerAttentionSync, type Tensor } from 'rankone';
import type { Carry } from '../carry.ts';
import { Buffers } from '../tensor.ts';
import type { CellGradients, CellInputs, HybridCell } from './mixer.ts';

interface Kept {
  q: Tensor;
  k: Tensor;
  v: Tensor;
  windowQ: Tensor;
  windowK: Tensor;
}

/**
 * Liger (Lan et al. 2025), without a parameter of its own: half of what GLA makes of the softmax of queries and of keys, with
 * decays from the keys themselves, and half of softmax attention in a window. Positions are in the window alone.
 */
export class LigerCell implements HybridCell {
  tail = true;
  private readonly window: number;
  private readonly buffers = new Buffers();
  private kept?: Kept;

  constructor(window: number) {
    this.window = window;
  }

  forward({ q, k, v, unturned = { q, k } }: CellInputs, carry?: Carry): Tensor {
    const inputs = { ...unturned, v, windowQ: q, windowK: k };
    const o = this.buffers.get('o', ...v.shape);
    const options = { ...this.mix, out: { o } };
    this.kept = carry ? undefined : inputs;
    if (carry) {
      const [, , heads, valueDim] = v.shape;
      const keyDim = q.shape[3];
      const state = carry.state(this, heads, keyDim, valueDim);
      const cache = carry.cache(this, heads, keyDim, valueDim, Math.max(1, this.window - 1));
      ligerAttentionSync({ ...inputs, state, cache }, options);
    } else {
      ligerAttentionSync(inputs, options);
    }
    return o;
  }

  backward(dO: Tensor): CellGradients {
    const { kept } = this;
    if (!kept) throw new Error('backward without a forward that kept its inputs');
    const like = (name: string, t: Tensor) => this.buffers.get(name, ...t.shape);
    const out = {
      dq: like('dq', kept.q),
      dk: like('dk', kept.k),
      dv: like('dv', kept.v),
      dWindowQ: like('dWindowQ', kept.windowQ),
      dWindowK: like('dWindowK', kept.windowK),
    };
    ligerAttentionBackwardSync({ ...kept, dO }, { ...this.mix, out });
    const { dq, dk, dv, dWindowQ, dWindowK } = out;
    return { dq: dWindowQ, dk: dWindowK, dv, unturned: { dq, dk } };
  }

  private get mix(): { window: number; mix: readonly [number, number] } {
    return { window: this.window, mix: [this.tail ? 0.5 : 0, 0.5] };
  }
}
