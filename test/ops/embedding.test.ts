/** embedding against its float64 reference. */
import { suite } from 'uvu';
import { embeddingBackwardSync, embeddingSync } from '../../ts/index';
import { embedding, embeddingBackward } from '../reference/layers.ts';
import { call, expectNear, indices, normals } from '../support/layers.ts';
import { throwsWith } from './helpers.ts';

const test = suite('embedding');

const CASES: { ids: number[]; V: number; D: number }[] = [
  { ids: [], V: 3, D: 4 },
  { ids: [1], V: 1, D: 1 },
  { ids: [2, 3, 50], V: 50, D: 33 },
  { ids: [3000], V: 3, D: 300 },
  { ids: [100], V: 1000, D: 64 },
  { ids: [0], V: 5, D: 4 },
  { ids: [6], V: 5, D: 0 },
  { ids: [2, 1, 3, 2], V: 9, D: 5 },
];

for (const { ids: shape, V, D } of CASES) {
  test(`ids [${shape}], weight [${V},${D}]`, async () => {
    const draw = normals(V + D);
    const [ids, weight, dY] = [indices(V, V, ...shape), draw(V, D), draw(...shape, D)];
    const given = { weight, indices: ids };
    expectNear('y', await call('embedding', { ids, weight }), { y: embedding(given) }, 0);
    const grads = await call('embeddingBackward', { ids, dY }, { numEmbeddings: V });
    expectNear('dWeight', grads, { ...embeddingBackward({ ...given, dOut: dY }) }, 1e-6);
  });
}

test('bad input', () => {
  const [weight, dY] = [normals(1)(4, 3), normals(2)(5, 3)];
  const ids = (...data: number[]) => ({ data: Int32Array.from(data), shape: [data.length] });
  const bad = /expected indices from 0 to 3, got (4|-1) at position 2/;
  throwsWith(() => embeddingSync({ ids: ids(0, 3, 4), weight }), RangeError, bad);
  throwsWith(() => embeddingSync({ ids: ids(0, 3, -1), weight }), RangeError, bad);
  throwsWith(
    () => embeddingBackwardSync({ ids: ids(0, 1, 4, 2, 3), dY }, { numEmbeddings: 4 }),
    RangeError,
    bad,
  );
  throwsWith(
    () => embeddingBackwardSync({ ids: ids(0, 1), dY }, { numEmbeddings: 4 }),
    RangeError,
    /^\[embeddingBackward\] dY: expected shape \[\.\.\.ids,D\] with ids \[2\], got \[5,3\]/,
  );
  throwsWith(
    () => embeddingBackwardSync({ ids: ids(0, 1, 2, 3, 3), dY }, {} as any),
    TypeError,
    /^\[embeddingBackward\] numEmbeddings/,
  );
  throwsWith(() => embeddingSync({ ids: weight as any, weight }), TypeError, /^\[embedding\] ids/);
});

test.run();
