/**
 * Householder products express groups exactly: with weights set by hand, the state after any word is the word's product.
 * Parity by one reflection, S3, S4 and A5 by two, S5 by four, at every position of long words; and not with one step less.
 */

import { Matrix, SingularValueDecomposition } from 'ml-matrix';
import { createState, deltaProductSync } from 'rankone';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { Random } from '../../examples/common/random.ts';
import {
  cyclic,
  type Group,
  permutationGroup,
  permutations,
  symmetric,
} from '../../examples/state-tracking/groups.ts';
import fc from '../support/property.ts';

const test = suite('group words');

/** One token: n reflections, each along a unit vector and with beta 2, or with beta 0 to do nothing. */
interface Step {
  keys: number[][];
  betas: number[];
}

/** A group by orthogonal matrices, and each element as a product of n reflections. */
interface Representation {
  name: string;
  group: Group;
  dim: number;
  n: number;
  matrices: Matrix[];
  steps: Step[];
}

const identity = (dim: number) => Matrix.eye(dim);
const near = (a: Matrix, b: Matrix) => Matrix.sub(a, b).norm('frobenius') < 1e-9;

function reflection(key: number[]): Matrix {
  const column = Matrix.columnVector(key);
  return Matrix.sub(identity(key.length), column.mmul(column.transpose()).mul(2));
}

const unit = (x: number[]) => x.map((v) => v / Math.hypot(...x));

/** The product of the first reflection, then the second, and so on. */
function productOf(keys: readonly number[][], dim: number): Matrix {
  return keys.reduce((m, key) => reflection(key).mmul(m), identity(dim));
}

function stepOf(keys: readonly number[][], n: number, dim: number): Step {
  const padded = Array.from({ length: n }, (_, j) => keys[j] ?? unit(new Array(dim).fill(1)));
  return { keys: padded, betas: padded.map((_, j) => (j < keys.length ? 2 : 0)) };
}

/** Transpositions whose product is p: at most one less than the length of each cycle. */
function transpositions(p: readonly number[]): number[][] {
  const keys: number[][] = [];
  const now = p.map((_, i) => i);
  for (let i = 0; i < p.length; i++) {
    if (now[i] === p[i]) continue;
    const j = now.indexOf(p[i]);
    // Swaps what stands at i and j; the matrix below has its rows moved likewise.
    [now[i], now[j]] = [now[j], now[i]];
    keys.push(unit(p.map((_, at) => (at === i ? 1 : at === j ? -1 : 0))));
  }
  return keys;
}

function byPermutations(n: number, steps: number): Representation {
  const elements = permutations(n);
  // After these swaps the vector's entry i is what stood at p[i]: the matrix of the inverse of p.
  const inverse = elements.map((p) => p.map((_, i) => p.indexOf(i)));
  const keys = inverse.map(transpositions);
  return {
    name: `S${n}`,
    group: symmetric(n),
    dim: n,
    n: steps,
    matrices: keys.map((k) => productOf(k, n)),
    steps: keys.map((k) => {
      assert.ok(k.length <= steps);
      return stepOf(k, steps, n);
    }),
  };
}

/** Two mirrors that a rotation is made of, with half of its angle between them. */
function mirrors(rotation: Matrix): number[][] {
  if (near(rotation, identity(3))) return [];
  // What the rotation leaves in place is the axis; any vector across it is the first mirror.
  const svd = new SingularValueDecomposition(Matrix.sub(rotation, identity(3)));
  const least = svd.diagonal.indexOf(Math.min(...svd.diagonal));
  const axis = svd.rightSingularVectors.getColumn(least);
  const other = Math.abs(axis[0]) < 0.9 ? [1, 0, 0] : [0, 1, 0];
  const along = other.reduce((s, x, i) => s + x * axis[i], 0);
  const first = unit(other.map((x, i) => x - along * axis[i]));
  const turned = rotation.mmul(Matrix.columnVector(first)).getColumn(0);
  const half = turned.map((x, i) => x + first[i]);
  // Half a turn has no middle: a quarter turn about the axis.
  const second =
    Math.hypot(...half) > 1e-6
      ? unit(half)
      : [0, 1, 2].map(
          (i) => axis[(i + 1) % 3] * first[(i + 2) % 3] - axis[(i + 2) % 3] * first[(i + 1) % 3],
        );
  return [first, second];
}

function rotation(axis: number[], angle: number): Matrix {
  const [x, y, z] = unit(axis);
  const cross = new Matrix([
    [0, -z, y],
    [z, 0, -x],
    [-y, x, 0],
  ]);
  const { sin, cos } = { sin: Math.sin(angle), cos: Math.cos(angle) };
  return Matrix.add(
    Matrix.add(identity(3), Matrix.mul(cross, sin)),
    Matrix.mul(cross.mmul(cross), 1 - cos),
  );
}

/** All products of pairs of a permutation and a rotation; as many as the group has elements, if and only if they match. */
function byRotations(name: string, pairs: [number[], Matrix][], order: number): Representation {
  const found: [number[], Matrix][] = [[pairs[0][0].map((_, i) => i), identity(3)]];
  for (const [p, m] of found) {
    for (const [q, r] of pairs) {
      const next: [number[], Matrix] = [p.map((x) => q[x]), r.mmul(m)];
      if (!found.some(([a, b]) => a.join() === next[0].join() && near(b, next[1])))
        found.push(next);
      assert.ok(found.length <= order, `${name}: permutations and rotations do not match`);
    }
  }
  assert.is(found.length, order);
  const matrices = found.map(([, m]) => m);
  const keys = matrices.map(mirrors);
  keys.forEach((k, i) => {
    assert.ok(near(productOf(k, 3), matrices[i]));
  });
  return {
    name,
    group: permutationGroup(
      name,
      found.map(([p]) => p),
    ),
    dim: 3,
    n: 2,
    matrices,
    steps: keys.map((k) => stepOf(k, 2, 3)),
  };
}

const golden = (1 + Math.sqrt(5)) / 2;

/** Two generators with a^2 = b^3 = (ab)^m = 1 and as much among the rotations of a cube (m = 4) or an icosahedron (m = 5). */
function generators(m: 4 | 5): [number[], Matrix][] {
  const a = m === 4 ? [1, 0, 2, 3] : [1, 0, 3, 2, 4];
  const b = m === 4 ? [0, 2, 3, 1] : [2, 1, 4, 3, 0];
  const threefold = rotation([1, 1, 1], (2 * Math.PI) / 3);
  const axes = [-1, 1].flatMap((s) => [-1, 1].map((t) => [1, (s * 1) / golden, t * golden]));
  const twofold =
    m === 4
      ? [
          [1, 1, 0],
          [1, -1, 0],
          [0, 0, 1],
        ]
      : [...axes, [0, 0, 1]];
  for (const axis of twofold) {
    const half = rotation(axis, Math.PI);
    let power = identity(3);
    const orders: number[] = [];
    for (let i = 1; i <= m; i++) {
      power = threefold.mmul(half).mmul(power);
      if (near(power, identity(3))) orders.push(i);
    }
    if (orders.join() === `${m}`)
      return [
        [a, half],
        [b, threefold],
      ];
  }
  throw new Error('no generators');
}

function ofParity(): Representation {
  const matrices = [new Matrix([[1]]), new Matrix([[-1]])];
  const steps = [stepOf([], 1, 1), stepOf([[1]], 1, 1)];
  return { name: 'parity', group: cyclic(2), dim: 1, n: 1, matrices, steps };
}

/** Rotations of a plane by fifths of a turn. */
function ofFifths(): Representation {
  const keys = [0, 1, 2, 3, 4].map((i) => {
    const half = (Math.PI * i) / 5;
    return i === 0
      ? []
      : [
          [1, 0],
          [Math.cos(half), Math.sin(half)],
        ];
  });
  const matrices = keys.map((k) => productOf(k, 2));
  const steps = keys.map((k) => stepOf(k, 2, 2));
  return { name: 'addition modulo 5', group: cyclic(5), dim: 2, n: 2, matrices, steps };
}

const REPRESENTATIONS: (() => Representation)[] = [
  ofParity,
  ofFifths,
  () => byPermutations(3, 2),
  () => byRotations('S4', generators(4), 24),
  () => byRotations('A5', generators(5), 60),
  () => byPermutations(5, 4),
];

const BATCH = 2;

/** Random words as the inputs of the recurrence: no values, the letters in keys and betas, a query that tells all apart. */
function words({ group, dim, n, steps }: Representation, length: number) {
  const random = new Random(7);
  const letters = Array.from({ length: BATCH * length }, () => random.integer(group.order));
  const query = Array.from({ length: dim }, (_, i) => 1 / (i + 1) + 0.3 * i * i);
  const q = new Float32Array(BATCH * length * dim);
  for (let i = 0; i < q.length; i++) q[i] = query[i % dim];
  const tensor = (data: Float32Array, ...shape: number[]) => ({ data, shape });
  const start = new Float32Array(BATCH * dim * dim);
  for (let i = 0; i < start.length; i++) start[i] = (i % (dim * dim)) % (dim + 1) === 0 ? 1 : 0;
  return {
    letters,
    query,
    inputs: {
      q: tensor(q, BATCH, length, 1, dim),
      k: tensor(
        Float32Array.from(letters.flatMap((l) => steps[l].keys.flat())),
        BATCH,
        length * n,
        1,
        dim,
      ),
      v: tensor(new Float32Array(BATCH * length * n * dim), BATCH, length * n, 1, dim),
      beta: tensor(Float32Array.from(letters.flatMap((l) => steps[l].betas)), BATCH, length * n, 1),
    },
    initialState: tensor(start, BATCH, 1, dim, dim),
  };
}

/** The element whose matrix turns the query into o. */
function decode({ matrices, dim }: Representation, query: number[], o: Float32Array, at: number) {
  const row = Matrix.columnVector(query);
  const images = matrices.map((m) => m.transpose().mmul(row).getColumn(0));
  const distance = (image: number[]) =>
    image.reduce((sum, x, i) => sum + (x - o[at * dim + i]) ** 2, 0);
  let best = 0;
  for (let e = 1; e < images.length; e++)
    if (distance(images[e]) < distance(images[best])) best = e;
  return { best, distance: Math.sqrt(distance(images[best])) };
}

for (const make of REPRESENTATIONS) {
  const representation = make();
  const { name, group, n, dim, matrices, steps } = representation;

  test(`${name}: its matrices multiply as its elements do`, () => {
    for (let a = 0; a < group.order; a++)
      for (let b = 0; b < group.order; b++)
        assert.ok(
          near(matrices[a].mmul(matrices[b]), matrices[group.product[a * group.order + b]]),
        );
    assert.ok(steps.every((s) => s.keys.length === n));
  });

  for (const mode of ['recurrent', 'chunk'] as const)
    test(`${name}, n = ${n}, ${mode}: exact at every position of long words`, () => {
      const length = 1500;
      const { letters, query, inputs, initialState } = words(representation, length);
      const { o } = deltaProductSync(
        { ...inputs, initialState },
        { numHouseholder: n, scale: 1, mode },
      );
      for (let row = 0, at = 0; row < BATCH; row++) {
        for (let t = 0, state = 0; t < length; t++, at++) {
          state = group.product[letters[at] * group.order + state];
          const { best, distance } = decode(representation, query, o.data as Float32Array, at);
          assert.is(best, state, `letter ${t} of word ${row}`);
          assert.ok(distance < 0.02, `letter ${t}: off by ${distance}`);
        }
      }
    });

  test(`${name}: letter by letter in a carried state`, () => {
    const length = 40;
    const { letters, query, inputs, initialState } = words(representation, length);
    using state = createState({ batch: BATCH, valueHeads: 1, keyDim: dim, valueDim: dim });
    state.copyFrom(initialState);
    const now = new Array<number>(BATCH).fill(0);
    for (let t = 0; t < length; t++) {
      const cut = ({ data, shape }: { data: Float32Array; shape: number[] }, per: number) => {
        const size = data.length / BATCH;
        const one = (size / length) | 0;
        const parts = [0, 1].map((row) =>
          data.subarray(row * size + t * one, row * size + (t + 1) * one),
        );
        return {
          data: Float32Array.from(parts.flatMap((p) => [...p])),
          shape: [BATCH, per, ...shape.slice(2)],
        };
      };
      const { q, k, v, beta } = inputs;
      const { o } = deltaProductSync(
        { q: cut(q, 1), k: cut(k, n), v: cut(v, n), beta: cut(beta, n), state },
        { numHouseholder: n, scale: 1 },
      );
      for (let row = 0; row < BATCH; row++) {
        now[row] = group.product[letters[row * length + t] * group.order + now[row]];
        assert.is(decode(representation, query, o.data as Float32Array, row).best, now[row]);
      }
    }
  });
}

/** What n updates make of the identity: (I - beta_n k_n k_n^T) ... (I - beta_1 k_1 k_1^T). */
function transition(keys: number[][], betas: number[], dim: number): Matrix {
  const n = keys.length;
  const zeros = (size: number) => new Float32Array(size);
  const start = Float32Array.from(identity(dim).to1DArray());
  const { finalState } = deltaProductSync(
    {
      q: { data: zeros(dim), shape: [1, 1, 1, dim] },
      k: { data: Float32Array.from(keys.flat()), shape: [1, n, 1, dim] },
      v: { data: zeros(n * dim), shape: [1, n, 1, dim] },
      beta: { data: Float32Array.from(betas), shape: [1, n, 1] },
      initialState: { data: start, shape: [1, 1, dim, dim] },
    },
    { numHouseholder: n, outputFinalState: true },
  );
  return Matrix.from1DArray(dim, dim, [...finalState!.data]);
}

/**
 * n updates differ from the identity by a matrix of rank n at most, whatever keys and betas are. Elements of order 3 and
 * more differ from it by rank 2 in any real representation, and cycles of five letters by rank 4 in any that tells the
 * elements of S5 apart. By Eckart and Young, what is missing is at least the next singular value.
 */
const HARDEST: [string, () => Matrix, number][] = [
  ['a fifth of a turn', () => ofFifths().matrices[1], 2],
  ['S3: a cycle of three', () => byPermutations(3, 2).matrices[3], 2],
  ['S4: a quarter turn of the cube', () => rotation([0, 0, 1], Math.PI / 2), 2],
  ['A5: a fifth of a turn of the icosahedron', () => rotation([0, 1, golden], 0.4 * Math.PI), 2],
  ['S5: a cycle of five', () => cycleOfFive(), 4],
];

function cycleOfFive(): Matrix {
  const { matrices } = byPermutations(5, 4);
  const cycle = matrices.find((m) => near(power(m, 5), identity(5)) && !near(m, identity(5)));
  return cycle!;
}

const power = (m: Matrix, n: number) =>
  Array.from({ length: n - 1 }).reduce((x: Matrix) => x.mmul(m), m);

for (const [name, make, n] of HARDEST) {
  test(`${name}: out of reach of ${n - 1} Householder step${n > 2 ? 's' : ''}`, () => {
    const target = make();
    const dim = target.rows;
    const { diagonal } = new SingularValueDecomposition(Matrix.sub(target, identity(dim)));
    const gap = [...diagonal].sort((a, b) => b - a)[n - 1];
    assert.ok(gap > 1, `rank below ${n}`);
    const entry = fc.double({ min: -1, max: 1, noNaN: true });
    const key = fc
      .array(entry, { minLength: dim, maxLength: dim })
      .filter((x) => Math.hypot(...x) > 0.1)
      .map(unit);
    const step = fc.tuple(key, fc.double({ min: 0, max: 2, noNaN: true }));
    const steps = fc.array(step, { minLength: n - 1, maxLength: n - 1 });
    fc.assert(
      fc.property(steps, (all) => {
        const made = transition(
          all.map(([k]) => k),
          all.map(([, beta]) => beta),
          dim,
        );
        assert.ok(Matrix.sub(made, target).norm('frobenius') > gap - 1e-4);
      }),
      { seed: 9, numRuns: 200 },
    );
  });
}

test('parity: beta up to 1 never turns a state round, beta 2 always does', () => {
  const beta = fc.double({ min: 0, max: 1, noNaN: true });
  fc.assert(
    fc.property(fc.array(beta, { minLength: 1, maxLength: 8 }), (betas) => {
      const keys = betas.map(() => [1]);
      assert.ok(transition(keys, betas, 1).get(0, 0) >= 0);
      const twos = betas.map(() => 2);
      assert.is(transition(keys, twos, 1).get(0, 0), betas.length % 2 === 0 ? 1 : -1);
    }),
    { seed: 9, numRuns: 100 },
  );
});

test.run();
