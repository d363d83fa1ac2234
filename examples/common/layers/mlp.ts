import { swigluBackwardSync, swigluSync, type Tensor } from 'rankone';
import { add } from '../elementwise.ts';
import type { Parameters } from '../parameters.ts';
import { Buffers } from '../tensor.ts';
import type { Layer } from './layer.ts';

/** down(silu(gate(x)) * up(x)), Shazeer 2020. */
export class SwigluMlp implements Layer {
  private readonly gateProjection: Layer;
  private readonly upProjection: Layer;
  private readonly down: Layer;
  private readonly buffers = new Buffers();
  private gate!: Tensor;
  private up!: Tensor;

  constructor(parameters: Parameters, width: number, hidden: number, outputGain: number) {
    this.gateProjection = parameters.linear('gate', width, hidden);
    this.upProjection = parameters.linear('up', width, hidden);
    this.down = parameters.linear('down', hidden, width, { gain: outputGain });
  }

  forward(x: Tensor): Tensor {
    this.gate = this.gateProjection.forward(x);
    this.up = this.upProjection.forward(x);
    const y = this.buffers.get('y', ...this.up.shape);
    swigluSync({ gate: this.gate, up: this.up }, { out: { y } });
    return this.down.forward(y);
  }

  backward(dy: Tensor): Tensor {
    const { gate, up } = this;
    const dY = this.down.backward(dy);
    const dGate = this.buffers.get('dGate', ...gate.shape);
    const dUp = this.buffers.get('dUp', ...up.shape);
    swigluBackwardSync({ gate, up, dY }, { out: { dGate, dUp } });
    const dx = this.gateProjection.backward(dGate);
    add(dx.data, this.upProjection.backward(dUp).data, dx.data);
    return dx;
  }
}
