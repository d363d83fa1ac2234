/** Systems whose own part is another operation beside the fused product. */
import * as assert from 'uvu/assert';
import {
  basisCombinationBackwardSync,
  basisCombinationSync,
  doraAdapterSync,
  kroneckerLinearBackwardSync,
  kroneckerLinearSync,
  loraLinearSync,
  packWeightSync,
  randLoraSync,
  rowSketchGradientSync,
  rowSketchSync,
  scatterAddSync,
  sddmmSync,
  spmmSync,
} from '../../../ts/index';
import { Random } from '../../support/random.ts';
import type { Matrix } from '../reference.ts';
import { diagonal, multiply, norm, toMatrix, toTensor32, transpose } from '../reference.ts';
import type { System } from './layer.ts';
import {
  applied,
  backward,
  columnsTimes,
  draw,
  drawVector,
  forward,
  near,
  sum,
  tensor,
  times,
  vector,
} from './layer.ts';

const [IN, OUT, R, ROWS] = [24, 30, 4, 9];
const base = (): { x: Matrix; w: Matrix } => ({ x: draw(ROWS, IN), w: draw(OUT, IN, 0.3) });

/** Distinct positions in a weight, rising, with their values. */
function sparse(share: number, seed: number) {
  const random = new Random(seed);
  const at: [number, number][] = [];
  for (let o = 0; o < OUT; o++)
    for (let i = 0; i < IN; i++) if (random.uniform() < share) at.push([o, i]);
  const values = drawVector(at.length);
  const dense = Array.from({ length: OUT }, () => new Array<number>(IN).fill(0));
  for (const [p, [o, i]] of at.entries()) dense[o][i] = values[p];
  const list = (axis: 0 | 1) => ({
    data: Int32Array.from(at, (position) => position[axis]),
    shape: [at.length],
  });
  return { at, values, dense, rows: list(0), columns: list(1) };
}

/** [a (x) b] as a matrix. */
const kronecker = (a: Matrix, b: Matrix): Matrix =>
  a.flatMap((left) => b.map((right) => left.flatMap((v) => right.map((u) => v * u))));

/** A stack of matrices `[count,rows,columns]`. */
const stack = (all: readonly Matrix[]) => ({
  data: Float32Array.from(all.flat(2)),
  shape: [all.length, all[0].length, all[0][0].length],
});

export const companions: System[] = [
  {
    name: 'DoRA',
    run() {
      // y = m (W + s B A) x / |W + s B A| by rows, + bias
      const { x, w } = base();
      const [a, b, magnitude, bias] = [draw(R, IN), draw(OUT, R), drawVector(OUT), drawVector(OUT)];
      const s = 2;
      const inputs = {
        weight: tensor(w),
        a: tensor(a),
        b: tensor(b),
        magnitude: vector(magnitude),
      };
      const { adapter: spec, norms } = doraAdapterSync(inputs, { scale: s });
      const whole = sum(w, times(multiply(b, a), s));
      near([[...norms.data]], [whole.map((row) => norm([row]))], 2e-7, 'norms');
      const ratio = whole.map((row, o) => magnitude[o] / norm([row]));
      const expected = columnsTimes(applied(x, whole), ratio).map((row) =>
        row.map((y, o) => y + bias[o]),
      );
      near(forward(x, { base: w, adapters: [spec], bias }), expected);
      // The gradient of d is that of the magnitude times the norm; norms count as constants.
      const dY = draw(ROWS, OUT);
      const [{ dBaseScale }] = backward(x, dY, { base: w, adapters: [spec] }).adapters;
      const onBase = applied(x, w);
      const sums = bias.map((_, o) => dY.reduce((t, row, m) => t + row[o] * onBase[m][o], 0));
      near([[...dBaseScale!.data]], [sums], 1e-5, 'dd');
    },
  },
  {
    name: 'SHiRA',
    run() {
      // W + alpha S with a sparse S; only S is trained, and taken out again.
      const { x, w } = base();
      const { at, values, dense, rows, columns } = sparse(0.05, 3);
      const alpha = 0.5;
      const weight = tensor(w);
      scatterAddSync({ w: weight, values: vector(values), rows, columns }, { scale: alpha });
      near(forward(x, { base: toMatrix(weight) }), applied(x, sum(w, times(dense, alpha))));
      const dY = draw(ROWS, OUT);
      const got = sddmmSync({ a: tensor(dY), b: tensor(x), rows, columns }, { scale: alpha });
      const g = multiply(transpose(dY), x);
      near([[...got.values.data]], [at.map(([o, i]) => alpha * g[o][i])], 1e-5, 'dS');
      scatterAddSync({ w: weight, values: vector(values), rows, columns }, { scale: -alpha });
      near(toMatrix(weight), w, 1e-6, 'W');
    },
  },
  {
    name: 'SLTrain',
    run() {
      // y = (alpha / r) B A x + V x, V sparse on a random support: the two parts are the whole weight.
      const { x } = base();
      const [a, b] = [draw(R, IN), draw(OUT, R)];
      const { values, dense, rows, columns } = sparse(0.03, 4);
      const scale = 8 / R;
      const lowRank = forward(x, { adapters: [{ a: tensor(a), b: tensor(b), scale }] });
      const inputs = { x: tensor(x), values: vector(values), rows, columns };
      const { y } = spmmSync({ ...inputs, addend: tensor(lowRank) });
      near(toMatrix(y), sum(times(applied(x, b, a), scale), applied(x, dense)));
    },
  },
  {
    name: 'DiffuseKronA',
    run() {
      // W x + (A (x) B) x, and the gradients of both factors.
      const { x, w } = base();
      const [a, b] = [draw(5, 4), draw(6, 6)];
      const y = forward(x, { base: w });
      const given = { x: tensor(x), a: tensor(a), b: tensor(b) };
      const sumOf = kroneckerLinearSync({ ...given, addend: tensor(y) }).y;
      near(toMatrix(sumOf), sum(applied(x, w), applied(x, kronecker(a, b))));
      const dY = draw(ROWS, OUT);
      const { da } = kroneckerLinearBackwardSync({ ...given, dY: tensor(dY) });
      const g = multiply(transpose(dY), x);
      const ofA = a.map((row, p) =>
        row.map((_, j) =>
          b.reduce(
            (t, own, q) => t + own.reduce((s, v, k) => s + v * g[p * 6 + q][j * 6 + k], 0),
            0,
          ),
        ),
      );
      near(toMatrix(da), ofA, 1e-5, 'dA');
    },
  },
  {
    name: 'Compacter',
    run() {
      // A bottleneck whose projections are sums of Kronecker products.
      const h = draw(ROWS, IN);
      const terms = 4;
      const of = (rows: number, columns: number): Matrix[] =>
        Array.from({ length: terms }, () => draw(rows, columns, 0.4));
      const [downA, downB, upA, upB] = [of(2, 4), of(4, 6), of(4, 2), of(6, 4)];
      const inner = kroneckerLinearSync({ x: tensor(h), a: stack(downA), b: stack(downB) }).y;
      const relu = { data: inner.data.map((v) => Math.max(v, 0)), shape: inner.shape };
      const { y } = kroneckerLinearSync({
        x: relu,
        a: stack(upA),
        b: stack(upB),
        addend: tensor(h),
      });
      const whole = (as: Matrix[], bs: Matrix[]): Matrix =>
        sum(...as.map((a, i) => kronecker(a, bs[i])));
      const z = applied(h, whole(downA, downB)).map((row) => row.map((v) => Math.max(v, 0)));
      near(toMatrix(y), sum(h, applied(z, whole(upA, upB))));
    },
  },
  {
    name: 'NOLA',
    run() {
      // A = sum alpha_i A_i, B = sum beta_j B_j of random bases; the coefficients are trained.
      const { x, w } = base();
      const count = 6;
      const basesOf = (rows: number, columns: number): Matrix[] =>
        Array.from({ length: count }, () => draw(rows, columns));
      const [basesA, basesB] = [basesOf(R, IN), basesOf(OUT, R)];
      const [alpha, beta] = [drawVector(count), drawVector(count)];
      const combined = (c: number[], all: Matrix[]) =>
        basisCombinationSync({ coefficients: vector(c), bases: stack(all) }).sum as any;
      const spec = { a: combined(alpha, basesA), b: combined(beta, basesB) };
      const mix = (c: number[], all: Matrix[]): Matrix => sum(...all.map((m, i) => times(m, c[i])));
      const [a, b] = [mix(alpha, basesA), mix(beta, basesB)];
      near(forward(x, { base: w, adapters: [spec] }), sum(applied(x, w), applied(x, b, a)));
      const dY = draw(ROWS, OUT);
      const [{ dA }] = backward(x, dY, { base: w, adapters: [spec] }).adapters;
      const { dCoefficients } = basisCombinationBackwardSync({
        coefficients: vector(alpha),
        bases: stack(basesA),
        dSum: dA!,
      });
      const g = multiply(transpose(b), transpose(dY), x);
      const inner = (m: Matrix): number =>
        m.reduce((t, row, i) => t + row.reduce((s, v, j) => s + v * g[i][j], 0), 0);
      near([[...(dCoefficients.data as Float32Array)]], [basesA.map(inner)], 1e-5, 'dalpha');
    },
  },
  {
    name: 'RandLoRA',
    run() {
      // dW = s sum_j B_j Lambda_j A Gamma_j, with random B_j and A and trained diagonals.
      const { x, w } = base();
      const count = 3;
      const a = draw(R, IN);
      const b = Array.from({ length: count }, () => draw(OUT, R));
      const [lambda, gamma] = [draw(count, R), draw(count, IN)];
      const s = 0.5;
      const terms = b.map((bj, j) => multiply(bj, diagonal(lambda[j]), a, diagonal(gamma[j])));
      const expected = sum(applied(x, w), times(applied(x, sum(...terms)), s));
      // As one adapter: ranks side by side, Lambda in the middle.
      const wide = {
        a: toTensor32(gamma.flatMap((own) => columnsTimes(a, own))),
        b: tensor(b[0].map((_, o) => b.flatMap((bj) => bj[o]))),
        mid: vector(lambda.flat()),
        scale: s,
      };
      near(forward(x, { base: w, adapters: [wide] }), expected);
      // As an update of the weight.
      const inputs = { a: tensor(a), b: stack(b), lambda: tensor(lambda), gamma: tensor(gamma) };
      const { delta } = randLoraSync(inputs, { scale: s });
      near(toMatrix(delta), times(sum(...terms), s), 2e-6, 'dW');
    },
  },
  {
    name: 'multi-head adapter routing',
    run() {
      // Heads of the columns of A and of the rows of B, each with mixing weights of its own over the tasks' modules.
      const { x, w } = base();
      const [modules, heads] = [5, 3];
      const [all, up] = [
        Array.from({ length: modules }, () => draw(R, IN)),
        Array.from({ length: modules }, () => draw(OUT, R)),
      ];
      const shares = draw(heads, modules);
      const call = (bases: Matrix[], headAxis: 'rows' | 'columns') =>
        basisCombinationSync({ coefficients: tensor(shares), bases: stack(bases) }, { headAxis })
          .sum as any;
      const spec = { a: call(all, 'columns'), b: call(up, 'rows') };
      const a = all[0].map((row, r) =>
        row.map((_, i) => {
          const head = Math.floor(i / (IN / heads));
          return all.reduce((t, m, j) => t + shares[head][j] * m[r][i], 0);
        }),
      );
      const b = up[0].map((row, o) =>
        row.map((_, r) => {
          const head = Math.floor(o / (OUT / heads));
          return up.reduce((t, m, j) => t + shares[head][j] * m[o][r], 0);
        }),
      );
      near(forward(x, { base: w, adapters: [spec] }), sum(applied(x, w), applied(x, b, a)));
    },
  },
  {
    name: 'memory-efficient backpropagation',
    run() {
      // S^T X is kept in place of X: dW ~ (S^T dY)^T (S^T X), whose mean over S is dY^T X.
      const { w } = base();
      const x = draw(40, IN);
      const packed = packWeightSync(tensor(w), { format: 'f32' });
      const { y } = loraLinearSync({ x: tensor(x), base: packed });
      near(toMatrix(y), applied(x, w));
      packed.dispose();
      const dY = draw(40, OUT);
      const g = multiply(transpose(dY), x);
      const size = 16;
      const steps = 400;
      let mean = times(g, 0);
      let squares = 0;
      for (let seed = 0; seed < steps; seed++) {
        const { sketch } = rowSketchSync({ x: tensor(x) }, { size, seed });
        assert.equal(sketch.shape, [size, IN]);
        const { dWeight } = rowSketchGradientSync({ dY: tensor(dY), sketch }, { seed });
        const estimate = toMatrix(dWeight);
        mean = sum(mean, times(estimate, 1 / steps));
        squares += norm(sum(estimate, times(g, -1))) ** 2 / steps;
      }
      const bound = (norm(dY) ** 2 * norm(x) ** 2 + norm(g) ** 2) / size;
      assert.ok(squares < 1.1 * bound && squares > 0.3 * bound, `${squares} of ${bound}`);
      const off = norm(sum(mean, times(g, -1)));
      assert.ok(off < 2 * Math.sqrt(bound / steps), `${off}, ${Math.sqrt(bound / steps)}`);
    },
  },
];
