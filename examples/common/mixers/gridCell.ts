import type {
  BackwardResult,
  ForwardOptions,
  ForwardResult,
  GateGradient,
  HouseholderOption,
  RecurrenceBackwardInputs,
  RecurrenceBackwardOptions,
  RecurrenceInputs,
  SavedForward,
  StrengthGradient,
  Tensor,
} from 'rankone';
import type { Carry } from '../carry.ts';
import { add } from '../elementwise.ts';
import type { Layer } from '../layers/layer.ts';
import { Buffers } from '../tensor.ts';
import type { Cell, CellGradients, CellInputs, MixerShape } from './mixer.ts';

/** A preset of the package: its synchronous forward and backward. */
export interface Preset {
  forward(inputs: RecurrenceInputs, options?: ForwardOptions & HouseholderOption): ForwardResult;
  backward(
    inputs: RecurrenceBackwardInputs,
    options?: RecurrenceBackwardOptions,
  ): BackwardResult & Partial<GateGradient & StrengthGradient>;
}

/** Where the recurrence's gates come from, each a layer of its own over the mixer's input. */
export interface Gates {
  /** g: `[B,T,HV]` or `[B,T,HV,K]` */
  decay?: Layer;
  /** beta: `[B,T*n,HV]` */
  strength?: Layer;
}

/** Any preset of the recurrence grid. */
export class GridCell implements Cell {
  private readonly shape: MixerShape;
  private readonly preset: Preset;
  private readonly gates: Gates;
  private readonly options: HouseholderOption;
  private readonly buffers = new Buffers();
  private inputs?: { q: Tensor; k: Tensor; v: Tensor; g?: Tensor; beta?: Tensor };
  private saved?: SavedForward;

  constructor(shape: MixerShape, preset: Preset, gates: Gates = {}) {
    this.shape = shape;
    this.preset = preset;
    this.gates = gates;
    this.options = shape.keysPerToken > 1 ? { numHouseholder: shape.keysPerToken } : {};
  }

  forward({ x, q, k, v }: CellInputs, carry?: Carry): Tensor {
    const { valueHeads, keyDim, valueDim } = this.shape;
    const [batch, tokens] = q.shape;
    const g = this.gates.decay?.forward(x);
    const beta = this.gates.strength?.forward(x);
    // A preset refuses an argument that its paper does not have, even an undefined one.
    const inputs = { q, k, v, ...(g && { g }), ...(beta && { beta }) };
    const o = this.buffers.get('o', batch, tokens, valueHeads, valueDim);
    this.saved?.dispose();
    this.saved = undefined;
    this.inputs = undefined;
    if (carry) {
      const state = carry.state(this, valueHeads, keyDim, valueDim);
      this.preset.forward({ ...inputs, state }, { ...this.options, out: { o } });
    } else {
      const options = { ...this.options, saveForBackward: true, out: { o } };
      this.saved = this.preset.forward(inputs, options).saved;
      this.inputs = inputs;
    }
    return o;
  }

  backward(dO: Tensor): CellGradients {
    const { inputs, saved, gates } = this;
    if (!inputs) throw new Error('backward without a forward that kept its inputs');
    const like = (name: string, t: Tensor) => this.buffers.get(name, ...t.shape);
    const out = {
      dq: like('dq', inputs.q),
      dk: like('dk', inputs.k),
      dv: like('dv', inputs.v),
      ...(inputs.g && { dg: like('dg', inputs.g) }),
      ...(inputs.beta && { dbeta: like('dbeta', inputs.beta) }),
    };
    const { dq, dk, dv, dg, dbeta } = this.preset.backward(
      { ...inputs, dO, saved },
      { ...this.options, out },
    );
    const dDecay = dg && gates.decay?.backward(dg);
    const dStrength = dbeta && gates.strength?.backward(dbeta);
    if (dDecay && dStrength) add(dDecay.data, dStrength.data, dDecay.data);
    return { dx: dDecay ?? dStrength, dq, dk, dv };
  }
}
