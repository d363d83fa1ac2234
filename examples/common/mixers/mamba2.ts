import { mamba2BackwardSync, mamba2Sync, type SavedForward, type Tensor } from 'rankone';
import type { Carry } from '../carry.ts';
import type { Layer } from '../layers/layer.ts';
import type { Parameter, Parameters } from '../parameters.ts';
import { Buffers } from '../tensor.ts';
import { decayRates } from './gates.ts';
import type { Cell, CellGradients, CellInputs, MixerShape } from './mixer.ts';

interface Kept {
  x: Tensor;
  dt: Tensor;
  A: Tensor;
  B: Tensor;
  C: Tensor;
  D: Tensor;
  dtBias: Tensor;
}

/** Mamba-2 under its own names: C is the query, B the key, x the value, and dt both decay and strength. */
export class Mamba2Cell implements Cell {
  private readonly shape: MixerShape;
  private readonly dt: Layer;
  private readonly aLog: Parameter;
  private readonly dtBias: Parameter;
  private readonly skip: Parameter;
  private readonly buffers = new Buffers();
  private kept?: Kept;
  private saved?: SavedForward;

  constructor(parameters: Parameters, shape: MixerShape) {
    this.shape = shape;
    this.dt = parameters.linear('dt', shape.width, shape.valueHeads);
    const { aLog, dtBias } = decayRates(parameters, shape.valueHeads);
    this.aLog = aLog;
    this.dtBias = dtBias;
    this.skip = parameters.vector('D', [shape.valueHeads], () => 1);
  }

  forward({ x, q, k, v }: CellInputs, carry?: Carry): Tensor {
    const { valueHeads, keyDim, valueDim } = this.shape;
    const A = this.buffers.get('A', valueHeads);
    for (let h = 0; h < valueHeads; h++) A.data[h] = -Math.exp(this.aLog.value.data[h]);
    const dt = this.dt.forward(x);
    const D = this.skip.value;
    const inputs = { x: v, dt, A, B: k, C: q, D, dtBias: this.dtBias.value };
    const y = this.buffers.get('y', ...v.shape);
    this.saved?.dispose();
    this.saved = undefined;
    this.kept = undefined;
    if (carry) {
      const state = carry.state(this, valueHeads, keyDim, valueDim);
      mamba2Sync({ ...inputs, state }, { dtSoftplus: true, out: { y } });
    } else {
      const options = { dtSoftplus: true, saveForBackward: true, out: { y } };
      this.saved = mamba2Sync(inputs, options).saved;
      this.kept = inputs;
    }
    return y;
  }

  backward(dY: Tensor): CellGradients {
    const { kept, saved, aLog } = this;
    if (!kept) throw new Error('backward without a forward that kept its inputs');
    const like = (name: string, t: Tensor) => this.buffers.get(name, ...t.shape);
    const { dx, ddt, dA, dB, dC, dD, dDtBias } = mamba2BackwardSync(
      { ...kept, dY, saved },
      {
        dtSoftplus: true,
        out: {
          dx: like('dx', kept.x),
          ddt: like('ddt', kept.dt),
          dA: like('dA', kept.A),
          dB: like('dB', kept.B),
          dC: like('dC', kept.C),
          dD: like('dD', kept.D),
          dDtBias: like('dDtBias', kept.dtBias),
        },
      },
    );
    // A = -exp(aLog) is its own slope.
    for (let h = 0; h < dA.data.length; h++) dA.data[h] *= kept.A.data[h];
    aLog.accumulate(dA);
    this.skip.accumulate(dD!);
    this.dtBias.accumulate(dDtBias!);
    return { dx: this.dt.backward(ddt), dq: dC, dk: dB, dv: dx };
  }
}
