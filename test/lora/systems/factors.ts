/** Systems of two factors: scales, optimiser rules, initialisers. */
import {
  alloraGradient,
  initCorda,
  initEva,
  initLora,
  initLoraGa,
  initLoraSb,
  initNlora,
  initPissa,
  initSlora,
  loraPlusRates,
  loraProGradients,
  updateEva,
} from '../../../ts/index';
import type { Matrix } from '../reference.ts';
import {
  columnsFrom,
  diagonal,
  identity,
  inverse,
  multiply,
  norm,
  subtract,
  svd,
  toMatrix,
  toTensor32,
  transpose,
  truncated,
  withSpectrum,
} from '../reference.ts';
import type { System } from './layer.ts';
import { apart, applied, backward, draw, forward, near, sum, tensor, times } from './layer.ts';

const EXACT = { oversample: 40 }; // a sketch as wide as the matrix
const [IN, OUT, R, ROWS] = [20, 24, 4, 9];

interface Factors {
  x: Matrix;
  w: Matrix;
  a: Matrix;
  b: Matrix;
  dY: Matrix;
}

const layer = (r = R): Factors => ({
  x: draw(ROWS, IN),
  w: draw(OUT, IN, 0.3),
  a: draw(r, IN, 0.3),
  b: draw(OUT, r),
  dY: draw(ROWS, OUT),
});

/** Of dense W + s B A: the gradients of B and A by the chain rule from that of the weight, dY^T X. */
function factorGradients({ x, a, b, dY }: Factors, s: number): { dA: Matrix; dB: Matrix } {
  const g = multiply(transpose(dY), x);
  return { dA: times(multiply(transpose(b), g), s), dB: times(multiply(g, transpose(a)), s) };
}

const spectrum = (length: number): number[] => Array.from({ length }, (_, k) => 0.75 ** k);

export const factors: System[] = [
  {
    name: 'LoRA',
    async run() {
      const { x, w, a, b } = layer();
      const alpha = 16;
      const spec = { a: tensor(a), b: tensor(b), scale: alpha / R };
      near(
        forward(x, { base: w, adapters: [spec] }),
        sum(applied(x, w), times(applied(x, b, a), alpha / R)),
      );
      const { adapter } = await initLora({ inFeatures: IN, outFeatures: OUT }, { rank: R });
      near(forward(x, { base: w, adapters: [adapter] }), applied(x, w));
    },
  },
  {
    name: 'rsLoRA',
    run() {
      for (const r of [2, 64]) {
        const { x, w, a, b } = layer(r);
        const scale = 16 / Math.sqrt(r);
        const spec = { a: tensor(a), b: tensor(b), scale };
        const expected = sum(applied(x, w), times(applied(x, b, a), 16 / Math.sqrt(r)));
        near(forward(x, { base: w, adapters: [spec] }), expected);
      }
    },
  },
  {
    name: 'LoRA+',
    run() {
      const all = layer();
      const { x, w, a, b, dY } = all;
      const [s, eta, lambda] = [2, 1e-2, 16];
      const spec = { a: tensor(a), b: tensor(b), scale: s };
      const [{ dA, dB }] = backward(x, dY, { base: w, adapters: [spec] }).adapters;
      const rates = loraPlusRates({ lr: eta, ratio: lambda });
      const [nextA, nextB] = [
        sum(a, times(toMatrix(dA!), -rates.a)),
        sum(b, times(toMatrix(dB!), -rates.b)),
      ];
      const g = factorGradients(all, s);
      near(nextA, sum(a, times(g.dA, -eta)), 1e-5, 'A');
      near(nextB, sum(b, times(g.dB, -lambda * eta)), 1e-5, 'B');
    },
  },
  {
    name: 'LoRA-Pro',
    run() {
      const { x, w, a, b, dY } = layer();
      const s = 2;
      const spec = { a: tensor(a), b: tensor(b), scale: s };
      const [{ dA, dB }] = backward(x, dY, { base: w, adapters: [spec] }).adapters;
      const better = loraProGradients({ a: spec.a, b: spec.b, dA: dA!, dB: dB! }, { scale: s });
      // The step of the weight is the full gradient but for its part off both column spaces.
      const step = sum(
        times(multiply(b, toMatrix(better.dA)), s),
        times(multiply(toMatrix(better.dB), a), s),
      );
      const onto = (basis: Matrix): Matrix => {
        const gram = inverse(multiply(transpose(basis), basis));
        return multiply(basis, gram, transpose(basis));
      };
      const g = multiply(transpose(dY), x);
      const off = multiply(
        subtract(identity(OUT), onto(b)),
        g,
        subtract(identity(IN), onto(transpose(a))),
      );
      near(step, subtract(g, off), 1e-5, 'the step');
    },
  },
  {
    name: 'ALLoRA',
    run() {
      const all = layer();
      const { x, w, a, b, dY } = all;
      const eta = 3;
      const pair = { a: tensor(a), b: tensor(b) };
      const scaled = alloraGradient({ ...pair, dY: tensor(dY) }, { eta });
      const { adapters } = backward(x, toMatrix(scaled), { base: w, adapters: [pair] });
      const factor = multiply(b, a).map((row) => 1 / Math.sqrt(norm([row]) + 1 / eta ** 2));
      const g = factorGradients({ ...all, dY: multiply(dY, diagonal(factor)) }, 1);
      near(toMatrix(adapters[0].dB!), g.dB, 1e-5, 'dB');
      near(toMatrix(adapters[0].dA!), g.dA, 1e-5, 'dA');
      const dx = multiply(dY, sum(w, multiply(b, a)));
      near(backward(x, dY, { base: w, adapters: [pair] }).dx, dx, 1e-5, 'dx');
    },
  },
  {
    name: 'LoRA-GA',
    async run() {
      const { x, w, dY } = layer();
      const gradient = withSpectrum(OUT, IN, spectrum(IN), 3);
      const given = { weight: tensor(w), gradient };
      const gamma = 16;
      const { adapter, base } = await initLoraGa(given, { rank: R, scale: 2, gamma, ...EXACT });
      const spec = { base: toMatrix(base), adapters: [adapter] };
      near(forward(x, spec), applied(x, w), 1e-5, 'the start');
      // A0 = c V_1..r^T, B0 = c U_r+1..2r; the outer signs are free.
      const { u, v } = svd(toMatrix(gradient));
      const c = OUT ** 0.25 / Math.sqrt(gamma);
      const outer = (m: Matrix): Matrix => multiply(m, transpose(m));
      const ofA = times(outer(columnsFrom(v, 0, R)), c * c);
      const ofB = times(outer(columnsFrom(u, R, R)), c * c);
      near(outer(transpose(toMatrix(adapter.a))), ofA, 1e-4, 'A');
      near(outer(toMatrix(adapter.b)), ofB, 1e-4, 'B');
      const [{ dA }] = backward(x, dY, spec).adapters;
      const g = multiply(transpose(dY), x);
      const expected = times(multiply(transpose(toMatrix(adapter.b)), g), 2);
      near(toMatrix(dA!), expected, 1e-5, 'dA');
    },
  },
  {
    name: 'LoRA-SB',
    async run() {
      const { x, w, dY } = layer();
      const [s, learningRate] = [0.5, 1e-2];
      const gradient = tensor(draw(OUT, IN));
      const options = { rank: R, scale: s, learningRate, ...EXACT };
      const { adapter } = await initLoraSb({ gradient }, options);
      const stepOf = (value: number): number => Math.fround(-learningRate * Math.sign(value));
      const first = svd(toMatrix(gradient).map((row) => row.map(stepOf)));
      const spec = { base: w, adapters: [adapter] };
      near(forward(x, spec), sum(applied(x, w), applied(x, truncated(first, R))), 1e-5);
      // W + s B R A with R alone in training: dR = s B^T G A^T.
      const [a, b] = [toMatrix(adapter.a), toMatrix(adapter.b)];
      const [{ dMid }] = backward(x, dY, spec).adapters;
      const g = multiply(transpose(dY), x);
      near(toMatrix(dMid!), times(multiply(transpose(b), g, transpose(a)), s), 1e-5, 'dR');
      const r = draw(R, R);
      const trained = { ...adapter, mid: tensor(r) };
      const expected = sum(applied(x, w), times(applied(x, b, r, a), s));
      near(forward(x, { base: w, adapters: [trained] }), expected, 2e-6, 'R of its own');
    },
  },
  {
    name: 'EVA',
    async run() {
      const { w } = layer();
      const x = toMatrix(withSpectrum(60, IN, spectrum(IN), 5));
      const state = await updateEva({ x: tensor(x) }, { components: IN, center: false, ...EXACT });
      const { adapter } = await initEva({ state, outFeatures: OUT }, { rank: R });
      near(forward(x, { base: w, adapters: [adapter] }), applied(x, w), 2e-6, 'the start');
      // The rows of A are the leading right singular vectors of the inputs.
      const { v } = svd(x);
      const outer = (m: Matrix): Matrix => multiply(m, transpose(m));
      near(outer(transpose(toMatrix(adapter.a))), outer(columnsFrom(v, 0, R)), 1e-3, 'A');
      const b = draw(OUT, R);
      const trained = { ...adapter, b: tensor(b) };
      const expected = sum(applied(x, w), applied(x, b, toMatrix(adapter.a)));
      near(forward(x, { base: w, adapters: [trained] }), expected);
    },
  },
  {
    name: 'CorDA',
    async run() {
      const w = toMatrix(withSpectrum(OUT, IN, spectrum(IN), 6));
      const x = draw(50, IN);
      const covariance = toTensor32(multiply(transpose(x), x));
      const options = { rank: R, damp: 0, ...EXACT };
      const { adapter, base } = await initCorda({ weight: tensor(w), covariance }, options);
      const c = toMatrix(covariance);
      const leading = truncated(svd(multiply(w, c)), R);
      // W' = W - U_r S_r V_r^T C^-1 of W C = U S V^T.
      const rest = subtract(w, multiply(leading, inverse(c)));
      near(toMatrix(base), rest, 1e-4, 'the base');
      const b = draw(OUT, R);
      const spec = { base: toMatrix(base), adapters: [adapter] };
      near(forward(x, spec), applied(x, w), 1e-5, 'the start');
      const trained = { ...adapter, b: tensor(b) };
      const expected = sum(applied(x, rest), applied(x, b, toMatrix(adapter.a)));
      near(forward(x, { ...spec, adapters: [trained] }), expected, 1e-4);
    },
  },
  {
    name: 'PiSSA',
    async run() {
      const { x } = layer();
      const w = toMatrix(withSpectrum(OUT, IN, spectrum(IN), 7));
      const { adapter, base } = await initPissa({ weight: tensor(w) }, { rank: R, ...EXACT });
      const spec = { base: toMatrix(base), adapters: [adapter] };
      near(forward(x, spec), applied(x, w), 1e-5, 'the start');
      const principal = truncated(svd(w), R);
      near(forward(x, { adapters: [adapter] }), applied(x, principal), 1e-4, 'what is trained');
      near(forward(x, { base: spec.base }), applied(x, subtract(w, principal)), 1e-4, 'the rest');
    },
  },
  {
    name: 'NLoRA',
    async run() {
      const { x } = layer();
      const w = draw(OUT, IN);
      const options = { rank: R, scale: 2 };
      const { adapter, base } = await initNlora({ weight: tensor(w) }, options);
      const block = w.slice(0, R).map((row) => row.slice(0, R));
      const nystrom = multiply(columnsFrom(w, 0, R), inverse(block), w.slice(0, R));
      near(forward(x, { adapters: [adapter] }), applied(x, nystrom), 1e-4, 'what is trained');
      const spec = { base: toMatrix(base!), adapters: [adapter] };
      near(forward(x, spec), applied(x, w), 1e-4, 'the start');
    },
  },
  {
    name: 'SLoRA',
    async run() {
      const { x, w, b } = layer();
      const sizes = { inFeatures: IN, outFeatures: OUT };
      const { adapter } = await initSlora(sizes, { rank: R, scale: 2 });
      near(forward(x, { base: w, adapters: [adapter] }), applied(x, w), 2e-6, 'the start');
      const [a, n] = [toMatrix(adapter.a), toMatrix(adapter.mid!)];
      const trained = { ...adapter, b: tensor(b) };
      const expected = sum(applied(x, w), times(applied(x, b, n, a), 2));
      near(forward(x, { base: w, adapters: [trained] }), expected);
    },
  },
  {
    name: 'IntTune',
    run() {
      const { x, w, a, b, dY } = layer();
      const n = draw(R, R);
      const spec = { a: tensor(a), b: tensor(b), mid: tensor(n) };
      // N alone is trained: a step of gradient descent from dY.
      const [{ dMid }] = backward(x, dY, { base: w, adapters: [spec] }).adapters;
      const g = multiply(transpose(dY), x);
      const gradient = multiply(transpose(b), g, transpose(a));
      near(toMatrix(dMid!), gradient, 1e-5, 'dN');
      const next = sum(n, times(toMatrix(dMid!), -0.1));
      const stepped = { ...spec, mid: tensor(next) };
      const expected = sum(applied(x, w), applied(x, b, sum(n, times(gradient, -0.1)), a));
      const y = forward(x, { base: w, adapters: [stepped] });
      near(y, expected, 1e-5);
      apart(y, forward(x, { base: w, adapters: [spec] }));
    },
  },
];
