import type { Tensor } from 'rankone';
import { logSigmoid, logSigmoidBackward } from '../elementwise.ts';
import { Chain } from '../layers/chain.ts';
import type { Layer } from '../layers/layer.ts';
import type { Parameter, Parameters } from '../parameters.ts';
import { Buffers, reshape, sizeOf } from '../tensor.ts';
import type { MixerShape } from './mixer.ts';

/** x W, of which the recurrence makes beta by an activation: how much of what a key held is replaced. `[B,T*n,HV]` */
export class WriteStrength implements Layer {
  /** Up to 1, or up to 2. */
  readonly activation: 'sigmoid' | 'sigmoid2';
  private readonly projection: Layer;
  private readonly perToken: number;
  private readonly valueHeads: number;

  constructor(
    parameters: Parameters,
    shape: MixerShape,
    { negativeEigenvalues = false }: { negativeEigenvalues?: boolean },
  ) {
    this.activation = negativeEigenvalues ? 'sigmoid2' : 'sigmoid';
    this.perToken = shape.keysPerToken;
    this.valueHeads = shape.valueHeads;
    this.projection = parameters.linear('strength', shape.width, this.perToken * this.valueHeads);
  }

  forward(x: Tensor): Tensor {
    const [batch, tokens] = x.shape;
    return reshape(this.projection.forward(x), batch, tokens * this.perToken, this.valueHeads);
  }

  backward(dBeta: Tensor): Tensor {
    const [batch, updates] = dBeta.shape;
    const { perToken, valueHeads } = this;
    return this.projection.backward(
      reshape(dBeta, batch, updates / perToken, perToken * valueHeads),
    );
  }
}

/** The parameters of g = -exp(aLog) softplus(x + dtBias). */
export interface DecayRates {
  /** `[HV]` */
  aLog: Parameter;
  /** `[HV]` or `[HV,K]` */
  dtBias: Parameter;
}

/** The rates of Mamba-2: decays of 1 to 16 per unit of time, times steps of 0.001 to 0.1 at the start. */
export function decayRates(
  parameters: Parameters,
  heads: number,
  ...channels: number[]
): DecayRates {
  const { random } = parameters;
  return {
    aLog: parameters.vector('aLog', [heads], () => Math.log(random.uniform(1, 16))),
    dtBias: parameters.vector('dtBias', [heads, ...channels], () => {
      const step = Math.exp(random.uniform(Math.log(1e-3), Math.log(0.1)));
      return Math.log(Math.expm1(step)); // softplus of this is the step
    }),
  };
}

/** What makes g: `[B,T,HV]` or `[B,T,HV,K]`. */
export interface Decay extends Layer {
  /** Of the activation that the recurrence applies; absent where forward() returns the log decay itself. */
  readonly rates?: DecayRates;
}

/**
 * f(x), of which the recurrence makes g = -exp(aLog) softplus(f(x) + dtBias). With one column per head it is the decay of
 * Gated DeltaNet, `[B,T,HV]`; with K columns through a narrow middle it is that of Kimi Delta Attention, `[B,T,HV,K]`.
 */
export class SoftplusDecay implements Decay {
  readonly rates: DecayRates;
  private readonly projection: Layer;
  private readonly columns: number[];

  constructor(parameters: Parameters, shape: MixerShape, perChannel: boolean) {
    const { width, valueHeads, keyDim } = shape;
    const scope = parameters.scope('decay');
    const channels = perChannel ? [keyDim] : [];
    this.columns = [valueHeads, ...channels];
    this.projection = perChannel
      ? narrow(scope, width, keyDim, valueHeads * keyDim)
      : parameters.linear('decay', width, valueHeads);
    this.rates = decayRates(scope, valueHeads, ...channels);
  }

  forward(x: Tensor): Tensor {
    const [batch, tokens] = x.shape;
    return reshape(this.projection.forward(x), batch, tokens, ...this.columns);
  }

  backward(dg: Tensor): Tensor {
    const [batch, tokens] = dg.shape;
    return this.projection.backward(reshape(dg, batch, tokens, sizeOf(this.columns)));
  }
}

/** The decay of GLA: log(sigmoid(f(x))) / 16 per key channel, f through 16 columns. `[B,T,HV,K]` */
export class LogSigmoidDecay implements Decay {
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
    parameters.linear('in', width, rank),
    parameters.linear('out', rank, outputs, { bias: true }),
  );
}
