import {
  linearAttentionBackwardSync,
  linearAttentionSync,
  type SavedForward,
  type Tensor,
} from 'rankone';
import type { Carry } from '../carry.ts';
import { HedgehogMap } from '../layers/hedgehogMap.ts';
import type { Parameters } from '../parameters.ts';
import { Buffers } from '../tensor.ts';
import type { Cell, CellGradients, CellInputs, MixerShape } from './mixer.ts';

/** A pair of learned maps, of queries and of keys. */
export class FeatureMaps {
  private readonly q: HedgehogMap;
  private readonly k: HedgehogMap;

  constructor(parameters: Parameters, { keyHeads, keyDim }: MixerShape) {
    this.q = new HedgehogMap(parameters.scope('queryMap'), keyHeads, keyDim);
    this.k = new HedgehogMap(parameters.scope('keyMap'), keyHeads, keyDim);
  }

  forward(q: Tensor, k: Tensor): { q: Tensor; k: Tensor } {
    return { q: this.q.forward(q), k: this.k.forward(k) };
  }

  /** From the gradients of the features those of queries and keys. */
  backward(dq: Tensor, dk: Tensor): { dq: Tensor; dk: Tensor } {
    return { dq: this.q.backward(dq), dk: this.k.backward(dk) };
  }
}

/** Linear attention over the features of queries and keys, divided by the sum of its weights. */
export class HedgehogCell implements Cell {
  readonly maps: FeatureMaps;
  private readonly shape: MixerShape;
  private readonly buffers = new Buffers();
  private kept?: { q: Tensor; k: Tensor; v: Tensor };
  private saved?: SavedForward;

  constructor(parameters: Parameters, shape: MixerShape) {
    this.shape = shape;
    this.maps = new FeatureMaps(parameters, shape);
  }

  forward(inputs: CellInputs, carry?: Carry): Tensor {
    const { keyHeads, valueHeads, valueDim } = this.shape;
    const { q, k } = this.maps.forward(inputs.q, inputs.k);
    const { v } = inputs;
    const o = this.buffers.get('o', ...v.shape);
    this.saved?.dispose();
    this.saved = undefined;
    this.kept = undefined;
    const options = { normalize: true, out: { o } };
    if (carry) {
      const state = carry.state(this, valueHeads, q.shape[3], valueDim, { keyHeads });
      linearAttentionSync({ q, k, v, state }, options);
    } else {
      this.saved = linearAttentionSync({ q, k, v }, { ...options, saveForBackward: true }).saved;
      this.kept = { q, k, v };
    }
    return o;
  }

  backward(dO: Tensor): CellGradients {
    const { kept, saved, maps } = this;
    if (!kept) throw new Error('backward without a forward that kept its inputs');
    const like = (name: string, t: Tensor) => this.buffers.get(name, ...t.shape);
    const out = { dq: like('dq', kept.q), dk: like('dk', kept.k), dv: like('dv', kept.v) };
    linearAttentionBackwardSync({ ...kept, dO, saved }, { normalize: true, out });
    return { ...maps.backward(out.dq, out.dk), dv: out.dv };
  }
}
