/** Systems with something between the factors, or with factors of a structure. */
import { initLoldu, initSvfit } from '../../../ts/index';
import { Random } from '../../support/random.ts';
import type { Matrix } from '../reference.ts';
import {
  columnsFrom,
  diagonal,
  multiply,
  randomBasis,
  subtract,
  svd,
  toMatrix,
  toTensor32,
  transpose,
  withSpectrum,
} from '../reference.ts';
import type { System } from './layer.ts';
import {
  apart,
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

const EXACT = { oversample: 40 };
const [IN, OUT, R, ROWS] = [22, 26, 5, 8];
const base = (): { x: Matrix; w: Matrix } => ({ x: draw(ROWS, IN), w: draw(OUT, IN, 0.3) });

/** Zeros but at some columns. */
const spreadColumns = (m: Matrix, kept: number[], columns: number): Matrix =>
  m.map((row) => {
    const wide = new Array<number>(columns).fill(0);
    for (const [i, column] of kept.entries()) wide[column] = row[i];
    return wide;
  });

const spreadRows = (m: Matrix, kept: number[], rows: number): Matrix =>
  transpose(spreadColumns(transpose(m), kept, rows));

export const structured: System[] = [
  {
    name: 'LaMDA',
    run() {
      const { x, w } = base();
      const [a, s, b] = [draw(R, IN), draw(R, R), draw(OUT, R)];
      const spec = { a: tensor(a), mid: tensor(s), b: tensor(b) };
      near(forward(x, { base: w, adapters: [spec] }), sum(applied(x, w), applied(x, b, s, a)));
      // A is frozen, S and at first B are trained.
      const dY = draw(ROWS, OUT);
      const [{ dMid, dB }] = backward(x, dY, { base: w, adapters: [spec] }).adapters;
      const g = multiply(transpose(dY), x);
      near(toMatrix(dMid!), multiply(transpose(b), g, transpose(a)), 1e-5, 'dS');
      near(toMatrix(dB!), multiply(g, transpose(a), transpose(s)), 1e-5, 'dB');
    },
  },
  {
    name: 'LoTR',
    run() {
      // One pair of outer factors for all layers, a core of its own for each: dW_l = U G_l V^T.
      const [u, v] = [draw(OUT, R), draw(IN, R)];
      for (let l = 0; l < 3; l++) {
        const { x, w } = base();
        const core = draw(R, R);
        const spec = { a: tensor(transpose(v)), mid: tensor(core), b: tensor(u) };
        const expected = sum(applied(x, w), applied(x, u, core, transpose(v)));
        near(forward(x, { base: w, adapters: [spec] }), expected);
      }
    },
  },
  {
    name: 'FLoRA',
    run() {
      // A low-rank core G between factors of other ranks: dW = s A G B.
      const { x, w } = base();
      const [r1, r2, s] = [7, 3, 4];
      const [a, core, b] = [draw(OUT, r1), draw(r1, r2), draw(r2, IN)];
      const spec = { a: tensor(b), mid: tensor(core), b: tensor(a), scale: s };
      const expected = sum(applied(x, w), times(applied(x, a, core, b), s));
      near(forward(x, { base: w, adapters: [spec] }), expected);
    },
  },
  {
    name: 'LoLDU',
    async run() {
      const { x } = base();
      const w = draw(OUT, IN);
      const { adapter, base: rest } = await initLoldu({ weight: tensor(w) }, { rank: R });
      near(forward(x, { base: toMatrix(rest), adapters: [adapter] }), applied(x, w), 1e-5);
      // (W - P L D U) x + P L diag(z) U x
      const [pl, u] = [toMatrix(adapter.b), toMatrix(adapter.a)];
      for (let i = 0; i < R; i++) for (let j = 0; j < i; j++) near([[u[i][j]]], [[0]], 0, 'U');
      const z = drawVector(R);
      const trained = { ...adapter, mid: vector(z) };
      const outside = subtract(w, multiply(pl, diagonal(adapter.mid!.data), u));
      const expected = sum(applied(x, outside), applied(x, pl, diagonal(z), u));
      near(forward(x, { base: toMatrix(rest), adapters: [trained] }), expected, 1e-5);
    },
  },
  {
    name: 'SVFit',
    async run() {
      const { x } = base();
      const spectrum = Array.from({ length: IN }, (_, k) => 0.7 ** k);
      const w = toMatrix(withSpectrum(OUT, IN, spectrum, 8));
      const { adapter, base: rest } = await initSvfit({ weight: tensor(w) }, { rank: R, ...EXACT });
      const { u, s, v } = svd(w);
      const factor = [2, 0.5, -1, 1, 3];
      const trained = {
        ...adapter,
        mid: vector(s.slice(0, R).map((value, i) => value * factor[i])),
      };
      const all = s.map((value, i) => value * (factor[i] ?? 1));
      const expected = applied(x, u, diagonal(all), transpose(v));
      near(forward(x, { base: toMatrix(rest), adapters: [trained] }), expected, 1e-4);
    },
  },
  {
    name: 'LoRA-XS',
    run() {
      const { x, w } = base();
      const { u, s, v } = svd(w);
      const a = times(multiply(diagonal(s.slice(0, R)), transpose(columnsFrom(v, 0, R))), 1);
      const [frozenA, frozenB] = [toTensor32(a), toTensor32(columnsFrom(u, 0, R))];
      const r = draw(R, R, 0.1);
      const spec = { a: frozenA, mid: tensor(r), b: frozenB };
      const expected = sum(applied(x, w), applied(x, toMatrix(frozenB), r, toMatrix(frozenA)));
      near(forward(x, { base: w, adapters: [spec] }), expected);
    },
  },
  {
    name: 'VeRA',
    run() {
      // Frozen random factors, shared by all layers; vectors b [out] and d [r] are trained.
      const { x, w } = base();
      const [a, b] = [draw(R, IN), draw(OUT, R)];
      const [scaleB, scaleD] = [drawVector(OUT), drawVector(R)];
      const scaled = b.map((row, o) => row.map((value) => Math.fround(value * scaleB[o])));
      const spec = { a: tensor(a), mid: vector(scaleD), b: tensor(scaled) };
      const delta = multiply(diagonal(scaleB), b, diagonal(scaleD), a);
      near(forward(x, { base: w, adapters: [spec] }), sum(applied(x, w), applied(x, delta)));
    },
  },
  {
    name: 'DyLoRA',
    run() {
      const { x, w } = base();
      const [a, b] = [draw(8, IN), draw(OUT, 8)];
      const alpha = 16;
      for (const rank of [1, 3, 8]) {
        const spec = { a: tensor(a), b: tensor(b), rank, scale: alpha / rank };
        const delta = multiply(columnsFrom(b, 0, rank), a.slice(0, rank));
        const expected = sum(applied(x, w), times(applied(x, delta), alpha / rank));
        near(forward(x, { base: w, adapters: [spec] }), expected);
        const [{ dA }] = backward(x, draw(ROWS, OUT), { base: w, adapters: [spec] }).adapters;
        near(
          toMatrix(dA!).slice(rank),
          a.slice(rank).map((row) => row.map(() => 0)),
          0,
          'beyond',
        );
      }
    },
  },
  {
    name: 'SoRA',
    run() {
      const { x, w } = base();
      const [down, up, dY] = [draw(R, IN), draw(OUT, R), draw(ROWS, OUT)];
      let gate = [1.5, -0.2, 0.7, 0.05, -1];
      const layer = () => ({
        base: w,
        adapters: [{ a: tensor(down), mid: vector(gate), b: tensor(up) }],
      });
      const expected = (): Matrix => sum(applied(x, w), applied(x, up, diagonal(gate), down));
      near(forward(x, layer()), expected());
      // A proximal step: what the gradient leaves near zero is zero.
      const [{ dMid }] = backward(x, dY, layer()).adapters;
      const inner = multiply(dY, up);
      const z = applied(x, down);
      const gradient = gate.map((_, i) => inner.reduce((s, row, m) => s + row[i] * z[m][i], 0));
      near([[...dMid!.data]], [gradient], 1e-5, 'dg');
      const [eta, lambda] = [1e-5, 0.3];
      gate = gate.map((value, i) => {
        const moved = value - eta * dMid!.data[i];
        return Math.sign(moved) * Math.max(Math.abs(moved) - lambda, 0);
      });
      near([[Math.sign(gate[1]), Math.sign(gate[3])]], [[0, 0]], 0, 'pruned ranks');
      gate = gate.map(Math.fround);
      near(forward(x, layer()), expected());
    },
  },
  {
    name: 'AdaLoRA',
    run() {
      // W + P L Q with L a diagonal; the least important of its values become zero, and stay what they are where wanted.
      const { x, w } = base();
      const [q, p, dY] = [draw(R, IN), draw(OUT, R), draw(ROWS, OUT)];
      const values = [...drawVector(R)].map(Math.fround);
      const layer = () => ({
        base: w,
        adapters: [{ a: tensor(q), mid: vector(values), b: tensor(p) }],
      });
      const expected = (): Matrix => applied(x, sum(w, multiply(p, multiply(diagonal(values), q))));
      near(forward(x, layer()), expected());
      const [{ dMid }] = backward(x, dY, layer()).adapters;
      const importance = values.map((value, i) => Math.abs(value * dMid!.data[i]));
      const budget = [...importance].sort((i, j) => j - i)[2];
      values.forEach((_, i) => {
        if (importance[i] < budget) values[i] = 0;
      });
      near([[values.filter((value) => value !== 0).length]], [[3]], 0, 'kept');
      near(forward(x, layer()), expected());
    },
  },
  {
    name: 'Hydra',
    run() {
      // h = W x + B A x + D C W x: a parallel branch, and a sequential one behind the base.
      const { x, w } = base();
      const [a, b, c, d] = [draw(R, IN), draw(OUT, R), draw(3, OUT), draw(OUT, 3)];
      const sequential = { a: tensor(c), b: tensor(d) };
      const behind = forward(forward(x, { base: w }), { base: 'identity', adapters: [sequential] });
      const parallel = forward(x, { adapters: [{ a: tensor(a), b: tensor(b) }] });
      const expected = applied(x, sum(w, multiply(b, a), multiply(d, c, w)));
      near(sum(behind, parallel), expected);
      // In one call, of ranks R + 3, once C W is known.
      const joined = {
        a: toTensor32([...a, ...multiply(c, w)]),
        b: tensor(b.map((row, i) => [...row, ...d[i]])),
      };
      near(forward(x, { base: w, adapters: [joined] }), expected);
    },
  },
  {
    name: 'Block-LoRA',
    run() {
      // Ranks of their own for the blocks of a network, and none for some.
      let x = draw(ROWS, OUT);
      let expected = x;
      for (const rank of [4, 0, 9]) {
        const w = draw(OUT, OUT, 0.2);
        const [a, b] = [draw(rank || 1, OUT, 0.2), draw(OUT, rank || 1, 0.2)];
        const adapters = [{ a: tensor(a), b: tensor(b) }];
        const routing = ([id]: number[]) => ({ kind: 'one', id: rank ? id : -1 }) as const;
        x = forward(x, { base: w, adapters, routing });
        expected = applied(expected, rank ? sum(w, multiply(b, a)) : w);
      }
      near(x, expected, 5e-6);
    },
  },
  {
    name: 'Orthogonal Adaptation',
    run() {
      // dW_i = A_i B_i^T with frozen B_i out of one orthogonal basis: merged concepts do not disturb each other.
      const { w } = base();
      const basis = randomBasis(IN, 2 * R, new Random(4));
      const parts = [columnsFrom(basis, 0, R), columnsFrom(basis, R, R)].map((b) => ({
        trained: draw(OUT, R),
        frozen: toMatrix(toTensor32(b)),
      }));
      const specs = parts.map(({ trained, frozen }) => ({
        a: tensor(transpose(frozen)),
        b: tensor(trained),
      }));
      const own = multiply(draw(ROWS, R), transpose(parts[0].frozen)).map((row) =>
        row.map(Math.fround),
      );
      const both = {
        base: w,
        adapters: specs,
        routing: (ids: number[]) => ({
          kind: 'topK' as const,
          k: 2,
          ids: Int32Array.from({ length: 2 * ROWS }, (_, i) => ids[i % 2]),
          gates: { data: new Float32Array(2 * ROWS).fill(1), shape: [ROWS, 2] },
        }),
      };
      const first = multiply(parts[0].trained, transpose(parts[0].frozen));
      near(forward(own, both), applied(own, sum(w, first)), 5e-6);
      const x = draw(ROWS, IN);
      const second = multiply(parts[1].trained, transpose(parts[1].frozen));
      near(forward(x, both), applied(x, sum(w, first, second)), 5e-6);
    },
  },
  {
    name: 'PaCA',
    run() {
      // Some columns of the weight are trained: dP = dY^T x of those columns alone.
      const { x, w } = base();
      const columns = [19, 3, 4, 11, 0];
      const p = draw(OUT, columns.length);
      const spec = { a: Int32Array.from(columns), b: tensor(p) };
      const expected = applied(x, sum(w, spreadColumns(p, columns, IN)));
      near(forward(x, { base: w, adapters: [spec] }), expected);
      const dY = draw(ROWS, OUT);
      const [{ dA, dB }] = backward(x, dY, { base: w, adapters: [spec] }).adapters;
      const g = multiply(transpose(dY), x).map((row) => columns.map((i) => row[i]));
      near(toMatrix(dB!), g, 1e-5, 'dP');
      if (dA) throw new Error('a list of columns has no gradient');
    },
  },
  {
    name: 'S2FT',
    run() {
      // Rows of one projection and the columns that they feed of the next one are trained.
      const { x, w } = base();
      const down = draw(IN, OUT, 0.3);
      const chosen = [25, 7, 8];
      const [rows, columns] = [draw(chosen.length, IN), draw(IN, chosen.length)];
      const up = { a: tensor(rows), b: Int32Array.from(chosen) };
      const next = { a: Int32Array.from(chosen), b: tensor(columns) };
      const h = forward(x, { base: w, adapters: [up] });
      near(h, applied(x, sum(w, spreadRows(rows, chosen, OUT))), 2e-6, 'rows');
      const y = forward(h, { base: down, adapters: [next] });
      near(y, applied(h, sum(down, spreadColumns(columns, chosen, OUT))), 2e-6, 'columns');
      const dY = draw(ROWS, OUT);
      const [{ dA }] = backward(x, dY, { base: w, adapters: [up] }).adapters;
      const g = multiply(transpose(dY), x);
      near(
        toMatrix(dA!),
        chosen.map((row) => g[row]),
        1e-5,
        'dA',
      );
    },
  },
  {
    name: 'LoRAM',
    run() {
      // Trained on a pruned model, of fewer columns or rows; recovered, with zeros there, for the whole one.
      const { x, w } = base();
      const [keptIn, keptOut] = [
        [0, 2, 3, 5, 8, 13, 21],
        [1, 4, 9, 16, 25],
      ];
      const [a, b] = [draw(R, keptIn.length), draw(OUT, R)];
      const ofColumns = { a: Int32Array.from(keptIn), mid: tensor(a), b: tensor(b) };
      const recoveredA = multiply(b, spreadColumns(a, keptIn, IN));
      near(
        forward(x, { base: w, adapters: [ofColumns] }),
        applied(x, sum(w, recoveredA)),
        2e-6,
        'columns',
      );
      const [wide, short] = [draw(R, IN), draw(keptOut.length, R)];
      const ofRows = { a: tensor(wide), mid: tensor(short), b: Int32Array.from(keptOut) };
      const recoveredB = multiply(spreadRows(short, keptOut, OUT), wide);
      const y = forward(x, { base: w, adapters: [ofRows] });
      near(y, applied(x, sum(w, recoveredB)), 2e-6, 'rows');
      apart(y, applied(x, w));
    },
  },
  {
    name: 'Compress-then-Serve',
    run() {
      // Adapters of one basis, B_i A_i ~ U S_i V^T, each with a core of its own, full or diagonal.
      const { x, w } = base();
      const [u, v] = [draw(OUT, R), draw(IN, R)];
      const shared = { a: tensor(transpose(v)), b: tensor(u) };
      const cores = [draw(R, R), diagonal(drawVector(R))];
      const adapters = [
        { ...shared, mid: tensor(cores[0]) },
        { ...shared, mid: vector(cores[1].map((row, i) => row[i])) },
      ];
      const routing = (ids: number[]) => ({
        kind: 'tokens' as const,
        ids: Int32Array.from(x, (_, row) => ids[row % 2]),
      });
      const expected = x.map((row, i) => {
        return applied([row], sum(w, multiply(u, cores[i % 2], transpose(v))))[0];
      });
      near(forward(x, { base: w, adapters, routing }), expected);
    },
  },
  {
    name: 'EigenLoRAx',
    run() {
      // Principal components of known adapters stay, coefficients are trained: A = alpha_A V_A, B = V_B alpha_B.
      const { x, w } = base();
      const k = 6;
      const [componentsA, componentsB] = [draw(k, IN), draw(OUT, k)];
      const [alphaA, alphaB] = [draw(R, k), draw(k, R)];
      const mid = toTensor32(multiply(alphaB, alphaA));
      const spec = { a: tensor(componentsA), mid, b: tensor(componentsB) };
      const [a, b] = [multiply(alphaA, componentsA), multiply(componentsB, alphaB)];
      near(forward(x, { base: w, adapters: [spec] }), sum(applied(x, w), applied(x, b, a)));
    },
  },
  {
    name: 'DiffScaler',
    run() {
      const { x, w } = base();
      const [a, b, d] = [draw(R, IN), draw(OUT, R), drawVector(OUT)];
      const shift = drawVector(OUT);
      const spec = { a: tensor(a), b: tensor(b), baseScale: vector(d) };
      const scaled = columnsTimes(applied(x, w), d);
      const expected = sum(scaled, applied(x, b, a)).map((row) => row.map((y, o) => y + shift[o]));
      near(forward(x, { base: w, adapters: [spec], bias: shift }), expected);
    },
  },
];
