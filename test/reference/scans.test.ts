/** The references of the scans beyond the grid against central differences. */
import { suite } from 'uvu';
import { checkGradient, dot } from '../support/gradcheck.ts';
import { Random } from '../support/random.ts';
import { drawScan, scans } from '../support/scans.ts';
import type { Tensor64 } from '../support/tensor.ts';
import { toFloat64 } from '../support/tensor.ts';

const test = suite('reference: scans');

for (const scan of scans) {
  for (const packed of [false, true]) {
    test(`${scan.name} gradients${packed ? ', packed' : ''}`, () => {
      const shape = { B: packed ? 1 : 2, T: 5, H: 2, K: 3, V: 2 };
      const options = packed ? { cuSeqlens: [0, 2, 2, 5] } : {};
      const drawn = drawScan(scan, shape, new Random(17), { N: packed ? 3 : 2, gateScale: 1 });
      const wide = (tensors: object): Record<string, Tensor64> =>
        Object.fromEntries(Object.entries(tensors).map(([name, x]) => [name, toFloat64(x)]));
      const [inputs, { dO, dFinalState }] = [wide(drawn.inputs), wide(drawn.gradients)];
      const loss = (): number => {
        const { o, finalState } = scan.forward(inputs, options);
        return dot(o!, dO) + dot(finalState!, dFinalState);
      };
      const gradients = scan.backward({ ...inputs, dO, dFinalState }, options);
      for (const [name, x] of Object.entries(inputs)) {
        const gradient = name === 'initialState' ? 'dInitialState' : `d${name}`;
        checkGradient(name, loss, x, gradients[gradient]!);
      }
    });
  }
}

test.run();
