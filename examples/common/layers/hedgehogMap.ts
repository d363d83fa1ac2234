import type { Tensor } from 'rankone';
import type { Parameter, Parameters } from '../parameters.ts';
import { Buffers } from '../tensor.ts';

/**
 * The learned feature map of Hedgehog (Zhang et al. 2024): y = [softmax(x W), softmax(-x W)] per head, with W the identity
 * at first. Positive and spiky, as e^(q k) is. `[B,T,H,D]` to `[B,T,H,2 D]`
 */
export class HedgehogMap {
  readonly weight: Parameter;
  private readonly buffers = new Buffers();
  private x!: Tensor;
  private y!: Tensor;

  constructor(parameters: Parameters, heads: number, width: number) {
    let i = 0;
    const identity = () => (Math.floor(i / width) % width === i++ % width ? 1 : 0);
    this.weight = parameters.vector('weight', [heads, width, width], identity);
  }

  forward(x: Tensor): Tensor {
    const [batch, tokens, heads, D] = x.shape;
    this.x = x;
    const y = this.buffers.get('y', batch, tokens, heads, 2 * D);
    const w = this.weight.value.data;
    const z = new Float64Array(D);
    for (let row = 0; row < batch * tokens * heads; row++) {
      const base = (row % heads) * D * D;
      z.fill(0);
      for (let i = 0; i < D; i++) {
        const xi = x.data[row * D + i];
        for (let j = 0; j < D; j++) z[j] += xi * w[base + i * D + j];
      }
      let [high, low] = [Number.NEGATIVE_INFINITY, Number.POSITIVE_INFINITY];
      for (let j = 0; j < D; j++) {
        high = Math.max(high, z[j]);
        low = Math.min(low, z[j]);
      }
      let [up, down] = [0, 0];
      for (let j = 0; j < D; j++) {
        up += Math.exp(z[j] - high);
        down += Math.exp(low - z[j]);
      }
      for (let j = 0; j < D; j++) {
        y.data[row * 2 * D + j] = Math.exp(z[j] - high) / up;
        y.data[row * 2 * D + D + j] = Math.exp(low - z[j]) / down;
      }
    }
    this.y = y;
    return y;
  }

  backward(dy: Tensor): Tensor {
    const { x, y } = this;
    const [batch, tokens, heads, D] = x.shape;
    const dx = this.buffers.get('dx', ...x.shape);
    const dw = this.buffers.get('dw', heads, D, D);
    dw.data.fill(0);
    const w = this.weight.value.data;
    const dz = new Float64Array(D);
    for (let row = 0; row < batch * tokens * heads; row++) {
      const base = (row % heads) * D * D;
      let [up, down] = [0, 0];
      const at = row * 2 * D;
      for (let j = 0; j < D; j++) {
        up += y.data[at + j] * dy.data[at + j];
        down += y.data[at + D + j] * dy.data[at + D + j];
      }
      for (let j = 0; j < D; j++)
        dz[j] =
          y.data[at + j] * (dy.data[at + j] - up) -
          y.data[at + D + j] * (dy.data[at + D + j] - down);
      for (let i = 0; i < D; i++) {
        const xi = x.data[row * D + i];
        let sum = 0;
        for (let j = 0; j < D; j++) {
          sum += w[base + i * D + j] * dz[j];
          dw.data[base + i * D + j] += xi * dz[j];
        }
        dx.data[row * D + i] = sum;
      }
    }
    this.weight.accumulate(dw);
    return dx;
  }
}
