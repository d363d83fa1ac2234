/** swiglu against its float64 reference. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { swigluBackwardSync, swigluSync } from '../../ts/index';
import { swiglu, swigluBackward } from '../reference/layers.ts';
import { call, expectNear, normals } from '../support/layers.ts';
import { throwsWith } from './helpers.ts';

const test = suite('swiglu');

for (const shape of [[], [1], [33], [7, 5, 3], [40, 1000], [300, 257], [0, 4]]) {
  test(`shape [${shape}]`, async () => {
    const draw = normals(3);
    const [gate, up, dY] = [draw(...shape), draw(...shape), draw(...shape)];
    const given = { a: gate, b: up };
    expectNear('y', await call('swiglu', { gate, up }), { y: swiglu(given) }, 1e-6);
    const { da, db } = swigluBackward({ ...given, dY });
    const grads = await call('swigluBackward', { gate, up, dY });
    expectNear('gradients', grads, { dGate: da, dUp: db }, 1e-6);
  });
}

test('gates of any size', () => {
  const values = [-1e30, -1000, -100, -89, -87, -50, -20, -1e-3, 0, 1e-30, 1, 20, 88, 89, 1e30];
  const gate = { data: Float32Array.from(values), shape: [values.length] };
  const ones = { data: new Float32Array(values.length).fill(1), shape: gate.shape };
  const y = swigluSync({ gate, up: ones }).y.data;
  const slope = swigluBackwardSync({ gate, up: ones, dY: ones }).dGate.data;
  const reference = { a: gate, b: ones };
  const expected = swiglu(reference).data;
  const expectedSlope = swigluBackward({ ...reference, dY: ones }).da.data;
  values.forEach((x, i) => {
    const off = Math.abs(y[i] - expected[i]);
    assert.ok(off <= 2e-6 * Math.abs(expected[i]) + 1e-35, `silu(${x}) is off by ${off}`);
    const slopeOff = Math.abs(slope[i] - expectedSlope[i]);
    const most = 4e-6 * Math.abs(expectedSlope[i]) + 1e-30;
    assert.ok(slopeOff <= most, `its slope at ${x} is off by ${slopeOff}`);
  });
});

test('bad input', () => {
  const draw = normals(4);
  throwsWith(
    () => swigluSync({ gate: draw(2, 3), up: draw(3, 2) }),
    RangeError,
    /^\[swiglu\] up: expected the shape of gate = \[2,3\], got \[3,2\]/,
  );
});

test('gates far below zero leave nothing, however large what they are multiplied by', async () => {
  const gate = { data: Float32Array.of(-90, -1000, -3e38, 3e38), shape: [4] };
  const large = { data: new Float32Array(4).fill(3e38), shape: [4] };
  const one = { data: new Float32Array(4).fill(1), shape: [4] };
  const grads = await call('swigluBackward', { gate, up: large, dY: one });
  assert.equal(Array.from(grads.dGate.data.slice(0, 3), Math.abs), [0, 0, 0]);
  const swapped = await call('swigluBackward', { gate, up: one, dY: large });
  assert.equal(Array.from(swapped.dUp.data.slice(0, 3), Math.abs), [0, 0, 0]);
});

test.run();
