import { shortConvBackwardSync, shortConvSync, type Tensor } from 'rankone';
import type { Carry } from '../carry.ts';
import type { Parameter, Parameters } from '../parameters.ts';
import { Buffers } from '../tensor.ts';
import type { Layer } from './layer.ts';

/** Causal convolution of each channel with its own few taps, then silu: `[B,T,D]` -> `[B,T,D]`. */
export class ShortConv implements Layer {
  private readonly weight: Parameter;
  private readonly buffers = new Buffers();
  private x!: Tensor;

  constructor(parameters: Parameters, channels: number, taps: number) {
    this.weight = parameters.matrix('weight', [channels, taps], 1 / Math.sqrt(taps));
  }

  forward(x: Tensor, carry?: Carry): Tensor {
    this.x = x;
    const weight = this.weight.value;
    const y = this.buffers.get('y', ...x.shape);
    if (!carry) {
      shortConvSync({ x, weight }, { activation: 'silu', out: { y } });
      return y;
    }
    const [channels, taps] = weight.shape;
    const { before, after } = carry.window(this, channels, taps - 1);
    shortConvSync(
      { x, weight, initialState: before },
      { activation: 'silu', outputFinalState: true, out: { y, finalState: after } },
    );
    return y;
  }

  backward(dY: Tensor): Tensor {
    const { x, weight } = this;
    const dx = this.buffers.get('dx', ...x.shape);
    const dWeight = this.buffers.get('dWeight', ...weight.value.shape);
    shortConvBackwardSync(
      { x, weight: weight.value, dY },
      { activation: 'silu', out: { dx, dWeight } },
    );
    weight.accumulate(dWeight);
    return dx;
  }
}
