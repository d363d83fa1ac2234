import type { Tensor } from '@tensorflow/tfjs-core';
import { show, typeError } from '../../errors';
import { tf } from './core';

/** A tensor of the engine. @internal */
export interface Plain {
  data: Float32Array | Int32Array;
  shape: number[];
}

/** An argument as the engine takes it: no copy where the backend keeps it in this process's memory. @internal */
export function plainTensor(
  operation: string,
  name: string,
  tensor: any,
  dtype: 'float32' | 'int32',
): Plain {
  if (!(tensor instanceof tf.Tensor))
    throw typeError(operation, `${name}: expected a tf.Tensor, got ${show(tensor)}`);
  const article = dtype === 'int32' ? 'an' : 'a';
  if (tensor.dtype !== dtype)
    throw typeError(
      operation,
      `${name}: expected ${article} ${dtype} tensor, got one of ${tensor.dtype}`,
    );
  if (tensor.isDisposed)
    throw new Error(`[${operation}] ${name}: expected a tensor, got one that is disposed`);
  const values = tensor.dataSync();
  const kind = dtype === 'int32' ? Int32Array : Float32Array;
  return { data: values instanceof kind ? values : kind.from(values), shape: tensor.shape };
}

/** A result of the engine as a tensor, which takes over its memory. @internal */
export function tensorOf({ data, shape }: Plain): Tensor {
  return tf.tensor(data, shape, 'float32');
}
