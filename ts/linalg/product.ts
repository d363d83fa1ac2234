import { type MatmulInputs, type MatmulTransposes, matmulSync } from '../ops/matmul';
import type { ResultTensor } from '../types';

/**
 * A product on the caller's memory, between two turns of the event loop. The asynchronous call would copy its factors: a
 * weight that meets a narrow basis takes longer to copy than to multiply.
 * @internal
 */
export async function multiplied(
  a: MatmulInputs['a'],
  b: MatmulInputs['b'],
  options: MatmulTransposes = {},
): Promise<ResultTensor> {
  await new Promise(setImmediate);
  return matmulSync({ a, b }, options).y;
}
