import { featureMapBackwardSync, featureMapSync, type Tensor } from 'rankone';
import type { Parameter, Parameters } from '../parameters.ts';
import { Buffers } from '../tensor.ts';

const KIND = { kind: 'hedgehog' } as const;

/**
 * The learned feature map of Hedgehog (Zhang et al. 2024): y = [softmax(x W), softmax(-x W)] per head, with W the identity
 * at first. Positive and spiky, as e^(q k) is. `[B,T,H,D]` to `[B,T,H,2 D]`
 */
export class HedgehogMap {
  private readonly weight: Parameter;
  private readonly buffers = new Buffers();
  private x!: Tensor;

  constructor(parameters: Parameters, heads: number, width: number) {
    let i = 0;
    const identity = () => {
      const [row, column] = [Math.floor(i / width) % width, i % width];
      i++;
      return row === column ? 1 : 0;
    };
    this.weight = parameters.vector('weight', [heads, width, width], identity);
  }

  forward(x: Tensor): Tensor {
    this.x = x;
    const [batch, tokens, heads, width] = x.shape;
    const y = this.buffers.get('y', batch, tokens, heads, 2 * width);
    featureMapSync({ x, weight: this.weight.value }, { ...KIND, out: { y } });
    return y;
  }

  backward(dY: Tensor): Tensor {
    const { x, weight } = this;
    const dx = this.buffers.get('dx', ...x.shape);
    const dWeight = this.buffers.get('dWeight', ...weight.value.shape);
    featureMapBackwardSync({ x, weight: weight.value, dY }, { ...KIND, out: { dx, dWeight } });
    weight.accumulate(dWeight);
    return dx;
  }
}
