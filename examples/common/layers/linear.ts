import { matmulBackwardSync, matmulSync, type Tensor } from 'rankone';
import type { Parameter, Parameters } from '../parameters.ts';
import { Buffers, reshape, rows } from '../tensor.ts';
import type { Layer } from './layer.ts';

export interface LinearOptions {
  bias?: boolean;
  /** Factor on the usual deviation `inputs ** -0.5` of the first weights. */
  gain?: number;
}

/** y = x W + b over the last dimension. */
export class Linear implements Layer {
  private readonly weight: Parameter;
  private readonly bias?: Parameter;
  private readonly buffers = new Buffers();
  private x!: Tensor;

  constructor(
    parameters: Parameters,
    inputs: number,
    outputs: number,
    { bias = false, gain = 1 }: LinearOptions = {},
  ) {
    this.weight = parameters.matrix('weight', [inputs, outputs], gain / Math.sqrt(inputs));
    if (bias) this.bias = parameters.vector('bias', [outputs], () => 0);
  }

  forward(x: Tensor): Tensor {
    this.x = x;
    const a = rows(x);
    const outputs = this.weight.value.shape[1];
    const y = this.buffers.get('y', a.shape[0], outputs);
    matmulSync({ a, b: this.weight.value, bias: this.bias?.value }, { out: { y } });
    return reshape(y, ...x.shape.slice(0, -1), outputs);
  }

  backward(dy: Tensor): Tensor {
    const { weight, bias, x } = this;
    const a = rows(x);
    const da = this.buffers.get('da', ...a.shape);
    const db = this.buffers.get('db', ...weight.value.shape);
    const dBias = bias && this.buffers.get('dBias', ...bias.value.shape);
    matmulBackwardSync(
      { a, b: weight.value, dY: rows(dy) },
      { withBias: bias !== undefined, out: { da, db, dBias } },
    );
    weight.accumulate(db);
    if (bias && dBias) bias.accumulate(dBias);
    return reshape(da, ...x.shape);
  }
}
