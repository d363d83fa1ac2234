import {
  rmsNormBackwardSync,
  rmsNormGatedBackwardSync,
  rmsNormGatedSync,
  rmsNormSync,
  type Tensor,
} from 'rankone';
import type { Parameter, Parameters } from '../parameters.ts';
import { Buffers } from '../tensor.ts';
import type { Layer } from './layer.ts';

/** y = x / rms(x) * weight over the last dimension. */
export class RmsNorm implements Layer {
  private readonly weight: Parameter;
  private readonly buffers = new Buffers();
  private x!: Tensor;

  constructor(parameters: Parameters, width: number) {
    this.weight = parameters.vector('weight', [width], () => 1);
  }

  forward(x: Tensor): Tensor {
    this.x = x;
    const y = this.buffers.get('y', ...x.shape);
    rmsNormSync({ x, weight: this.weight.value }, { out: { y } });
    return y;
  }

  backward(dY: Tensor): Tensor {
    const { x, weight } = this;
    const dx = this.buffers.get('dx', ...x.shape);
    const dWeight = this.buffers.get('dWeight', ...weight.value.shape);
    rmsNormBackwardSync({ x, weight: weight.value, dY }, { out: { dx, dWeight } });
    weight.accumulate(dWeight);
    return dx;
  }
}

/** y = x / rms(x) * weight * silu(gate), per head. Not a link of the chain: it has two inputs. */
export class RmsNormGated {
  private readonly weight: Parameter;
  private readonly buffers = new Buffers();
  private x!: Tensor;
  private gate!: Tensor;

  constructor(parameters: Parameters, width: number) {
    this.weight = parameters.vector('weight', [width], () => 1);
  }

  forward(x: Tensor, gate: Tensor): Tensor {
    this.x = x;
    this.gate = gate;
    const y = this.buffers.get('y', ...x.shape);
    rmsNormGatedSync({ x, gate, weight: this.weight.value }, { out: { y } });
    return y;
  }

  backward(dY: Tensor): { dx: Tensor; dGate: Tensor } {
    const { x, gate, weight } = this;
    const dx = this.buffers.get('dx', ...x.shape);
    const dGate = this.buffers.get('dGate', ...x.shape);
    const dWeight = this.buffers.get('dWeight', ...weight.value.shape);
    rmsNormGatedBackwardSync(
      { x, gate, weight: weight.value, dY },
      { out: { dx, dGate, dWeight } },
    );
    weight.accumulate(dWeight);
    return { dx, dGate };
  }
}
