import type { Tensor } from 'rankone';
import type { Carry } from '../carry.ts';
import { add } from '../elementwise.ts';
import { Buffers } from '../tensor.ts';
import type { Layer } from './layer.ts';

/** One layer after the other. */
export class Chain implements Layer {
  private readonly layers: readonly Layer[];

  constructor(...layers: Layer[]) {
    this.layers = layers;
  }

  forward(x: Tensor, carry?: Carry): Tensor {
    return this.layers.reduce((value, layer) => layer.forward(value, carry), x);
  }

  backward(dy: Tensor): Tensor {
    return this.layers.reduceRight((gradient, layer) => layer.backward(gradient), dy);
  }
}

/** y = x + inner(x). */
export class Residual implements Layer {
  private readonly inner: Layer;
  private readonly buffers = new Buffers();

  constructor(inner: Layer) {
    this.inner = inner;
  }

  forward(x: Tensor, carry?: Carry): Tensor {
    const y = this.buffers.get('y', ...x.shape);
    add(x.data, this.inner.forward(x, carry).data, y.data);
    return y;
  }

  backward(dy: Tensor): Tensor {
    const dx = this.inner.backward(dy);
    add(dx.data, dy.data, dx.data);
    return dx;
  }
}
