import type { Tensor } from 'rankone';
import type { Carry } from '../carry.ts';

/**
 * A link of the chain. forward() keeps what backward() needs; backward() takes the gradient of the last forward's result,
 * adds to the gradients of the layer's parameters, and returns the gradient of its input.
 *
 * With `carry`, forward() goes on from where the last call with it stopped, for one token or for many, and keeps nothing
 * for a backward: this is how text is read and written piece by piece.
 */
export interface Layer {
  forward(x: Tensor, carry?: Carry): Tensor;
  backward(dy: Tensor): Tensor;
}
