import type {
  BackwardResult,
  CellOptions,
  ForwardOptions,
  ForwardResult,
  GateGradient,
  RecurrenceBackwardInputs,
  RecurrenceBackwardOptions,
  RecurrenceInputs,
  SavedForward,
  StrengthGradient,
  Tensor,
} from 'rankone';
import type { Carry } from '../carry.ts';
import { add } from '../elementwise.ts';
import { Buffers } from '../tensor.ts';
import type { Decay, WriteStrength } from './gates.ts';
import type { Cell, CellGradients, CellInputs, MixerShape } from './mixer.ts';

/** A preset of the package: its synchronous forward and backward. */
export interface Preset {
  forward(inputs: RecurrenceInputs, options?: ForwardOptions & CellOptions): ForwardResult;
  backward(
    inputs: RecurrenceBackwardInputs,
    options?: RecurrenceBackwardOptions,
  ): BackwardResult & Partial<GateGradient & StrengthGradient>;
}

/** Where the recurrence's gates come from, each a layer of its own over the mixer's input. */
export interface Gates {
  decay?: Decay;
  /** beta before its activation: `[B,T*n,HV]` */
  strength?: WriteStrength;
}

/** Any preset of the recurrence grid, with the norm of queries and keys and the activations of the gates inside. */
export class GridCell implements Cell {
  private readonly shape: MixerShape;
  private readonly preset: Preset;
  private readonly gates: Gates;
  private readonly options: CellOptions;
  private readonly buffers = new Buffers();
  private inputs?: { q: Tensor; k: Tensor; v: Tensor; g?: Tensor; beta?: Tensor };
  private saved?: SavedForward;

  constructor(shape: MixerShape, preset: Preset, gates: Gates = {}) {
    this.shape = shape;
    this.preset = preset;
    this.gates = gates;
    const rates = gates.decay?.rates;
    // A preset refuses an option or an argument that its paper does not have, even an undefined one.
    this.options = {
      ...(shape.keysPerToken > 1 && { numHouseholder: shape.keysPerToken }),
      ...(shape.unitKeys && { qkL2norm: true }),
      ...(rates && { gate: { aLog: rates.aLog.value, dtBias: rates.dtBias.value } }),
      ...(gates.strength && { betaActivation: gates.strength.activation }),
    };
  }

  forward({ x, q, k, v }: CellInputs, carry?: Carry): Tensor {
    const { valueHeads, keyDim, valueDim } = this.shape;
    const [batch, tokens] = q.shape;
    const g = this.gates.decay?.forward(x);
    const beta = this.gates.strength?.forward(x);
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
    const rates = gates.decay?.rates;
    const like = (name: string, t: Tensor) => this.buffers.get(name, ...t.shape);
    const out = {
      dq: like('dq', inputs.q),
      dk: like('dk', inputs.k),
      dv: like('dv', inputs.v),
      ...(inputs.g && { dg: like('dg', inputs.g) }),
      ...(rates && {
        dALog: like('dALog', rates.aLog.value),
        dDtBias: like('dDtBias', rates.dtBias.value),
      }),
      ...(inputs.beta && { dbeta: like('dbeta', inputs.beta) }),
    };
    const { dq, dk, dv, dg, dALog, dDtBias, dbeta } = this.preset.backward(
      { ...inputs, dO, saved },
      { ...this.options, out },
    );
    if (dALog) rates?.aLog.accumulate(dALog);
    if (dDtBias) rates?.dtBias.accumulate(dDtBias);
    const dDecay = dg && gates.decay?.backward(dg);
    const dStrength = dbeta && gates.strength?.backward(dbeta);
    if (dDecay && dStrength) add(dDecay.data, dStrength.data, dDecay.data);
    return { dx: dDecay ?? dStrength, dq, dk, dv };
  }
}
