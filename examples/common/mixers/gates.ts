import type { Tensor } from 'rankone';
import {
  logSigmoid,
  logSigmoidBackward,
  sigmoid,
  sigmoidBackward,
  softplusDecay,
  softplusDecayBackward,
} from '../elementwise.ts';
import { Chain } from '../layers/chain.ts';
import type { Layer } from '../layers/layer.ts';
import { Linear } from '../layers/linear.ts';
import type { Parameter, Parameters } from '../parameters.ts';
import { Buffers } from '../tensor.ts';
import type { MixerShape } from './mixer.ts';

/** beta = sigmoid(x W): how much of what a key held is replaced. `[B,T*n,HV]` */
export class WriteStrength implements Layer {
  private readonly projection: Linear;
  private readonly perToken: number;
  private readonly valueHeads: number;
  private readonly buffers = new Buffers();
  private beta!: Tensor;

  constructor(parameters: Parameters, shape: MixerShape) {
    this.perToken = shape.keysPerToken;
    this.valueHeads = shape.valueHeads;
    this.projection = new Linear(
      parameters.scope('strength'),
      shape.width,
      this.perToken * this.valueHeads,
    );
  }

  forward(x: Tensor): Tensor {
    const [batch, tokens] = x.shape;
    this.beta = this.buffers.get('beta', batch, tokens * this.perToken, this.valueHeads);
    sigmoid(this.projection.forward(x).data, this.beta.data);
    return this.beta;
  }

  backward(dBeta: Tensor): Tensor {
    const [batch, updates] = dBeta.shape;
    const tokens = updates / this.perToken;
    const dRaw = this.buffers.get('dRaw', batch, tokens, this.perToken * this.valueHeads);
    sigmoidBackward(this.beta.data, dBeta.data, dRaw.data);
    return this.projection.backward(dRaw);
  }
}

/** The rates of Mamba-2: decays of 1 to 16 per unit of time, times steps of 0.001 to 0.1 at the start. */
export function decayRates(
  parameters: Parameters,
  heads: number,
  steps: number,
): { aLog: Parameter; dtBias: Parameter } {
  const { random } = parameters;
  return {
    aLog: parameters.vector('aLog', [heads], () => Math.log(random.uniform(1, 16))),
    dtBias: parameters.vector('dtBias', [steps], () => {
      const step = Math.exp(random.uniform(Math.log(1e-3), Math.log(0.1)));
      return Math.log(Math.expm1(step)); // softplus of this is the step
    }),
  };
}

/**
 * g = -exp(aLog) softplus(f(x) + dtBias), aLog per head. With one column per head it is the decay of Gated DeltaNet,
 * `[B,T,HV]`; with K columns through a narrow middle it is that of Kimi Delta Attention, `[B,T,HV,K]`.
 */
export class SoftplusDecay implements Layer {
  private readonly projection: Layer;
  private readonly aLog: Parameter;
  private readonly dtBias: Parameter;
  private readonly columns: number[];
  private readonly buffers = new Buffers();
  private raw!: Tensor;
  private g!: Tensor;

  constructor(parameters: Parameters, shape: MixerShape, perChannel: boolean) {
    const { width, valueHeads, keyDim } = shape;
    const scope = parameters.scope('decay');
    this.columns = perChannel ? [valueHeads, keyDim] : [valueHeads];
    const steps = perChannel ? valueHeads * keyDim : valueHeads;
    this.projection = perChannel
      ? narrow(scope, width, keyDim, steps)
      : new Linear(scope, width, steps);
    const { aLog, dtBias } = decayRates(scope, valueHeads, steps);
    this.aLog = aLog;
    this.dtBias = dtBias;
  }

  forward(x: Tensor): Tensor {
    const [batch, tokens] = x.shape;
    this.raw = this.projection.forward(x);
    this.g = this.buffers.get('g', batch, tokens, ...this.columns);
    softplusDecay(this.raw.data, this.aLog.value.data, this.dtBias.value.data, this.g.data);
    return this.g;
  }

  backward(dg: Tensor): Tensor {
    const { raw, g, aLog, dtBias } = this;
    const dRaw = this.buffers.get('dRaw', ...raw.shape);
    const daLog = this.buffers.get('daLog', ...aLog.value.shape);
    const dDtBias = this.buffers.get('dDtBias', ...dtBias.value.shape);
    softplusDecayBackward(
      raw.data,
      aLog.value.data,
      dtBias.value.data,
      g.data,
      dg.data,
      dRaw.data,
      daLog.data,
      dDtBias.data,
    );
    aLog.accumulate(daLog);
    dtBias.accumulate(dDtBias);
    return this.projection.backward(dRaw);
  }
}

/** The decay of GLA: log(sigmoid(f(x))) / 16 per key channel, f through 16 columns. `[B,T,HV,K]` */
export class LogSigmoidDecay implements Layer {
  private static readonly rank = 16;
  private static readonly factor = 1 / 16;
  private readonly projection: Layer;
  private readonly columns: number[];
  private readonly buffers = new Buffers();
  private raw!: Tensor;

  constructor(parameters: Parameters, { width, valueHeads, keyDim }: MixerShape) {
    this.columns = [valueHeads, keyDim];
    this.projection = narrow(
      parameters.scope('decay'),
      width,
      LogSigmoidDecay.rank,
      valueHeads * keyDim,
    );
  }

  forward(x: Tensor): Tensor {
    const [batch, tokens] = x.shape;
    this.raw = this.projection.forward(x);
    const g = this.buffers.get('g', batch, tokens, ...this.columns);
    logSigmoid(this.raw.data, LogSigmoidDecay.factor, g.data);
    return g;
  }

  backward(dg: Tensor): Tensor {
    const dRaw = this.buffers.get('dRaw', ...this.raw.shape);
    logSigmoidBackward(this.raw.data, LogSigmoidDecay.factor, dg.data, dRaw.data);
    return this.projection.backward(dRaw);
  }
}

/** A projection through few columns: many gates for few parameters. */
function narrow(parameters: Parameters, width: number, rank: number, outputs: number): Layer {
  return new Chain(
    new Linear(parameters.scope('in'), width, rank),
    new Linear(parameters.scope('out'), rank, outputs, { bias: true }),
  );
}
