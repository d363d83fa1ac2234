/** The generator against its authors' known answers, and what is drawn from it. */
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { normals, philox4x32, uniforms } from '../../ts/linalg/philox';

// Random123, kat_vectors: philox4x32 with 10 rounds.
const KNOWN = [
  {
    counter: [0, 0, 0, 0],
    key: [0, 0],
    words: [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8],
  },
  {
    counter: [0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff],
    key: [0xffffffff, 0xffffffff],
    words: [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd],
  },
  {
    counter: [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344],
    key: [0xa4093822, 0x299f31d0],
    words: [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1],
  },
];

test('known answers', () => {
  for (const { counter, key, words } of KNOWN) {
    const state = Uint32Array.from(counter);
    philox4x32(state, key[0], key[1]);
    assert.equal([...state], words);
  }
});

test('a value depends on seed, stream and place alone', () => {
  const long = normals(101, { seed: 5 });
  assert.equal(normals(7, { seed: 5 }), long.slice(0, 7));
  assert.not.equal(normals(101, { seed: 6 }), long);
  assert.not.equal(normals(101, { seed: 5 + 2 ** 32 }), long);
  assert.not.equal(normals(101, { seed: 5, stream: 1 }), long);
  assert.equal(uniforms(3, { seed: 5 }), uniforms(9, { seed: 5 }).slice(0, 3));
});

test('moments', () => {
  const moment = (values: Float32Array, power: number): number =>
    values.reduce((sum, x) => sum + x ** power, 0) / values.length;
  const normal = normals(100_000, { seed: 1, deviation: 2 });
  const near = (actual: number, expected: number, limit: number): void =>
    assert.ok(Math.abs(actual - expected) < limit, `${actual}, expected ${expected}`);
  near(moment(normal, 1), 0, 0.03);
  near(moment(normal, 2), 4, 0.08);
  near(moment(normal, 4), 48, 2.5);
  let products = 0; // of the two values of a pair
  for (let i = 0; i < normal.length; i += 2) products += normal[i] * normal[i + 1];
  near(products / 50_000, 0, 0.08);
  const uniform = uniforms(100_000, { seed: 1, bound: 3 });
  near(moment(uniform, 1), 0, 0.03);
  near(moment(uniform, 2), 3, 0.05);
  assert.ok(uniform.every((x) => x >= -3 && x < 3));
});

test.run();
