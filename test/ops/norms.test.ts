/** rmsNorm and rmsNormGated against their float64 references. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { rmsNormGatedSync, rmsNormSync } from '../../ts/index';
import {
  rmsNorm,
  rmsNormBackward,
  rmsNormGated,
  rmsNormGatedBackward,
} from '../reference/layers.ts';
import { call, expectNear, normals } from '../support/layers.ts';
import { throwsWith } from './helpers.ts';

const test = suite('norms');

const SHAPES = [
  [64],
  [3, 5],
  [2, 2, 7, 33],
  [100, 128],
  [65, 1000],
  [2, 4097],
  [1, 60000],
  [2500, 20],
  [0, 8],
];

for (const shape of SHAPES) {
  test(`x [${shape}]`, async () => {
    const D = shape[shape.length - 1];
    for (const weighted of [false, true]) {
      for (const eps of [undefined, 0.1]) {
        const draw = normals(D);
        const options = eps === undefined ? {} : { eps };
        const [x, gate, dY] = [draw(...shape), draw(...shape), draw(...shape)];
        const inputs = { x, ...(weighted && { weight: draw(D) }) };
        const gated = { ...inputs, gate };
        const label = `${weighted ? 'weight, ' : ''}eps ${eps}`;
        const check = async (name: string, given: object, expected: object): Promise<void> =>
          expectNear(`${name}, ${label}`, await call(name, given, options), { ...expected }, 2e-6);
        await check('rmsNorm', inputs, { y: rmsNorm(inputs, options) });
        await check(
          'rmsNormBackward',
          { ...inputs, dY },
          rmsNormBackward({ ...inputs, dY }, options),
        );
        await check('rmsNormGated', gated, { y: rmsNormGated(gated, options) });
        const expected = rmsNormGatedBackward({ ...gated, dY }, options);
        await check('rmsNormGatedBackward', { ...gated, dY }, expected);
      }
    }
  });
}

test('NaN stays in its row', () => {
  const x = normals(1)(4, 50);
  x.data[60] = Number.NaN;
  const y = rmsNormSync({ x }).y.data;
  y.forEach((value, i) => {
    assert.is(Number.isNaN(value), Math.floor(i / 50) === 1, `element ${i}`);
  });
});

test('bad input', () => {
  const draw = normals(2);
  const x = draw(2, 3);
  const fails = (body: () => unknown, pattern: RegExp): void =>
    throwsWith(body, RangeError, pattern);
  fails(
    () => rmsNormSync({ x, weight: draw(4) }),
    /^\[rmsNorm\] weight: expected shape \[D\] = \[3\], got \[4\]/,
  );
  fails(
    () => rmsNormGatedSync({ x, gate: draw(3, 2) }),
    /^\[rmsNormGated\] gate: expected the shape of x = \[2,3\], got \[3,2\]/,
  );
  fails(() => rmsNormSync({ x }, { eps: -1 }), /^\[rmsNorm\] eps: expected/);
  fails(
    () => rmsNormSync({ x: draw(2, 0) }),
    /^\[rmsNorm\] x: expected shape \[\.\.\.,D\] with D >= 1/,
  );
});

test.run();
