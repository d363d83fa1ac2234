import { type Tensor, windowLinearAttentionBackwardSync, windowLinearAttentionSync } from 'rankone';
import type { Carry } from '../carry.ts';
import { add } from '../elementwise.ts';
import type { Parameter, Parameters } from '../parameters.ts';
import { Buffers } from '../tensor.ts';
import { FeatureMaps } from './hedgehog.ts';
import type { CellGradients, CellInputs, HybridCell, MixerShape } from './mixer.ts';

/** What the window weighs at first, beside the linear part: its paper's. */
const FIRST_FACTOR = 0.1;

interface Kept {
  q: Tensor;
  k: Tensor;
  v: Tensor;
  phiQ: Tensor;
  phiK: Tensor;
  windowFactors: Tensor;
}

/** LoLCATs (Zhang et al. 2024): softmax in a window, and linear attention with learned maps before it, under one normaliser. */
export class LolcatsCell implements HybridCell {
  tail = true;
  private readonly window: number;
  private readonly shape: MixerShape;
  private readonly maps: FeatureMaps;
  private readonly factors: Parameter;
  private readonly buffers = new Buffers();
  private kept?: Kept;

  constructor(parameters: Parameters, shape: MixerShape, window: number) {
    this.window = window;
    this.shape = shape;
    this.maps = new FeatureMaps(parameters, shape);
    const first = Math.log(FIRST_FACTOR / (1 - FIRST_FACTOR));
    this.factors = parameters.vector('windowFactors', [shape.keyHeads], () => first);
  }

  forward({ q, k, v }: CellInputs, carry?: Carry): Tensor {
    const mapped = this.maps.forward(q, k);
    if (!this.tail) mapped.q.data.fill(0);
    const inputs = { q, k, v, phiQ: mapped.q, phiK: mapped.k, windowFactors: this.factors.value };
    const o = this.buffers.get('o', ...v.shape);
    const options = { window: this.window, out: { o } };
    this.kept = carry ? undefined : inputs;
    if (carry) {
      const { valueHeads: kvHeads, keyDim, valueDim } = this.shape;
      const featureDim = mapped.k.shape[3];
      const { window } = this;
      const memory = carry.windowLinear(this, { kvHeads, keyDim, valueDim, featureDim, window });
      windowLinearAttentionSync({ ...inputs, ...memory }, options);
    } else {
      windowLinearAttentionSync(inputs, options);
    }
    return o;
  }

  backward(dO: Tensor): CellGradients {
    const { kept, window, factors } = this;
    if (!kept) throw new Error('backward without a forward that kept its inputs');
    const like = (name: string, t: Tensor) => this.buffers.get(name, ...t.shape);
    const out = {
      dq: like('dq', kept.q),
      dk: like('dk', kept.k),
      dv: like('dv', kept.v),
      dPhiQ: like('dPhiQ', kept.phiQ),
      dPhiK: like('dPhiK', kept.phiK),
      dWindowFactors: like('dWindowFactors', kept.windowFactors),
    };
    windowLinearAttentionBackwardSync({ ...kept, dO }, { window, out });
    factors.accumulate(out.dWindowFactors);
    const through = this.maps.backward(out.dPhiQ, out.dPhiK);
    add(out.dq.data, through.dq.data, out.dq.data);
    add(out.dk.data, through.dk.data, out.dk.data);
    return { dq: out.dq, dk: out.dk, dv: out.dv };
  }
}
