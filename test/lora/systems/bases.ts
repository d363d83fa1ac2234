/** Systems by their bases: quantised, pruned, the identity, none at all. */
import * as assert from 'uvu/assert';
import { initLqLora, packQuantisedSync, packWeightSync } from '../../../ts/index';
import { dynamicMap, NF4_VALUES } from '../../reference/packedWeight.ts';
import { Random } from '../../support/random.ts';
import type { Matrix } from '../reference.ts';
import { norm, subtract, svd, toMatrix, truncated, withSpectrum } from '../reference.ts';
import type { System } from './layer.ts';
import {
  apart,
  applied,
  backward,
  draw,
  drawVector,
  forward,
  near,
  sum,
  tensor,
  times,
  vector,
} from './layer.ts';

const [IN, OUT, R, ROWS] = [50, 37, 6, 9];

const erf = (x: number): number => {
  // A series of terms of one sign, times exp(-x^2); far enough for what is drawn here.
  let term = x;
  let total = x;
  for (let n = 1; Math.abs(term) > 1e-17 * Math.abs(total); n++) {
    term *= (2 * x * x) / (2 * n + 1);
    total += term;
  }
  return (2 / Math.sqrt(Math.PI)) * Math.exp(-x * x) * total;
};

const ACTIVATIONS = {
  relu: (x: number) => Math.max(x, 0),
  gelu: (x: number) => (x * (1 + erf(x / Math.SQRT2))) / 2,
  silu: (x: number) => x / (1 + Math.exp(-x)),
} as const;

const plus = (x: Matrix, bias: readonly number[]): Matrix =>
  x.map((row) => row.map((value, i) => value + bias[i]));

export const bases: System[] = [
  {
    name: 'QLoRA',
    run() {
      // Y = X doubleDequant(c1, c2, W) + s X L1 L2: NF4, and 8 bits for its scales.
      const random = new Random(5);
      const codes = Array.from({ length: OUT * IN }, () => random.integer(16));
      const bytes = new Uint8Array(Math.ceil(codes.length / 2));
      codes.forEach((code, i) => {
        bytes[i >> 1] |= i % 2 ? code : code << 4;
      });
      const blocks = Math.ceil(codes.length / 64);
      const scales = Uint8Array.from({ length: blocks }, () => random.integer(256));
      const nested = random.uniforms(Math.ceil(blocks / 256), 0.05, 0.1);
      const offset = Math.fround(0.15);
      const absmax = { codes: scales, absmax: nested, offset };
      const base = packQuantisedSync({ format: 'nf4', codes: bytes, absmax, shape: [OUT, IN] });
      const map = dynamicMap();
      const flat = codes.map((code, i) => {
        const block = Math.floor(i / 64);
        return NF4_VALUES[code] * (map[scales[block]] * nested[Math.floor(block / 256)] + offset);
      });
      const w = Array.from({ length: OUT }, (_, o) => flat.slice(o * IN, (o + 1) * IN));
      const x = draw(ROWS, IN);
      const [a, b] = [draw(R, IN, 0.2), draw(OUT, R, 0.2)];
      const adapters = [{ a: tensor(a), b: tensor(b), scale: 2 }];
      const expected = sum(applied(x, w), times(applied(x, b, a), 2));
      near(forward(x, { base, adapters }), expected);
      const dY = draw(ROWS, OUT);
      const dx = sum(
        applied(dY, transposed(w)),
        times(applied(dY, transposed(a), transposed(b)), 2),
      );
      near(backward(x, dY, { base, adapters }).dx, dx, 1e-5, 'dx');
      base.dispose();
    },
  },
  {
    name: 'LQ-LoRA',
    async run() {
      // W ~ Q + L1 L2, Q in NF4, from a decomposition by turns.
      const w = toMatrix(withSpectrum(OUT, IN, spectrum(OUT), 4));
      const result = await initLqLora({ weight: tensor(w) }, { rank: R, oversample: 40 });
      const base = packQuantisedSync({ format: 'nf4', ...result.quantised });
      const [l1, l2] = [toMatrix(result.adapter.b), toMatrix(result.adapter.a)];
      const { codes, absmax } = result.quantised;
      const q = Array.from({ length: OUT }, (_, o) =>
        Array.from({ length: IN }, (_, i) => {
          const at = o * IN + i;
          const code = at % 2 ? codes[at >> 1] & 15 : codes[at >> 1] >> 4;
          return NF4_VALUES[code] * absmax[Math.floor(at / 64)];
        }),
      );
      const x = draw(ROWS, IN);
      const y = forward(x, { base, adapters: [result.adapter] });
      near(y, sum(applied(x, q), applied(x, l1, l2)));
      const alone = packWeightSync(tensor(w), { format: 'nf4' });
      const off = (actual: Matrix): number => norm(subtract(actual, applied(x, w)));
      assert.ok(off(y) < 0.8 * off(forward(x, { base: alone })), 'nearer than NF4 alone');
      base.dispose();
      alone.dispose();
    },
  },
  {
    name: 'SLoPe',
    run() {
      // Two of every four weights are zeros; the low-rank part is added late in pretraining.
      const dense = draw(OUT, IN - 2, 0.3);
      const w = dense.map((row) =>
        row.map((value, i) => {
          const four = row.slice(i - (i % 4), i - (i % 4) + 4).map(Math.abs);
          return four.filter((other) => other > Math.abs(value)).length < 2 ? value : 0;
        }),
      );
      const zeros = w.flat().filter((value) => value === 0).length;
      assert.is(zeros, w.flat().length / 2);
      const x = draw(ROWS, IN - 2);
      const [l, r] = [draw(OUT, R), draw(R, IN - 2)];
      const adapters = [{ a: tensor(r), b: tensor(l) }];
      near(forward(x, { base: w, adapters }), sum(applied(x, w), applied(x, l, r)));
    },
  },
  {
    name: 'LoRD',
    run() {
      // A layer replaced by its best factors: y = B A x + bias, and no base.
      const w = toMatrix(withSpectrum(OUT, IN, spectrum(OUT), 9));
      const best = svd(w);
      const b = best.u.map((row) => row.slice(0, R).map((value, k) => value * best.s[k]));
      const a = transposed(best.v.map((row) => row.slice(0, R)));
      const x = draw(ROWS, IN);
      const bias = drawVector(OUT);
      const y = forward(x, { adapters: [{ a: tensor(a), b: tensor(b) }], bias });
      near(y, plus(applied(x, truncated(best, R)), bias), 5e-6);
    },
  },
  {
    name: 'Greenformers',
    run() {
      // Factors in the place of a weight, trained from the start: x A B + bias, with gradients of both.
      const x = draw(ROWS, IN);
      const [a, b, dY] = [draw(R, IN), draw(OUT, R), draw(ROWS, OUT)];
      const layer = { adapters: [{ a: tensor(a), b: tensor(b) }] };
      near(forward(x, layer), applied(x, b, a));
      const got = backward(x, dY, layer);
      near(got.dx, applied(dY, transposed(a), transposed(b)), 1e-5, 'dx');
      const dB = applied(transposed(dY), transposed(applied(x, a)));
      near(toMatrix(got.adapters[0].dB!), dB, 1e-5, 'dB');
    },
  },
  {
    name: 'Houlsby-family adapters',
    run() {
      // h + W_up f(W_down h + b_down) + b_up behind a layer, or beside one with a scale.
      const h = draw(ROWS, IN);
      const [down, up] = [draw(R, IN), draw(IN, R)];
      const [bDown, bUp] = [drawVector(R), drawVector(IN)];
      for (const [act, f] of Object.entries(ACTIVATIONS)) {
        const spec = {
          a: tensor(down),
          b: tensor(up),
          act: act as keyof typeof ACTIVATIONS,
          rankBias: vector(bDown),
          outBias: vector(bUp),
        };
        const inner = plus(applied(h, down), bDown).map((row) => row.map(f));
        const serial = sum(h, plus(applied(inner, up), bUp));
        near(forward(h, { base: 'identity', adapters: [spec] }), serial, 2e-6, `${act}, serial`);
        const w = draw(IN, IN);
        const s = 4;
        const scaled = { ...spec, scale: s };
        const parallel = sum(applied(h, w), times(plus(applied(inner, up), bUp), s));
        near(forward(h, { base: w, adapters: [scaled] }), parallel, 2e-6, `${act}, parallel`);
      }
    },
  },
  {
    name: 'LAuReL',
    run() {
      // A residual stream with weights of its own: f(x) + x + B A x.
      const x = draw(ROWS, IN);
      const f = draw(ROWS, IN);
      const [a, b] = [draw(R, IN), draw(IN, R)];
      const stream = forward(x, { base: 'identity', adapters: [{ a: tensor(a), b: tensor(b) }] });
      near(sum(f, stream), sum(f, x, applied(x, b, a)));
      apart(stream, x);
    },
  },
];

function transposed(m: Matrix): Matrix {
  return m[0].map((_, j) => m.map((row) => row[j]));
}

function spectrum(length: number): number[] {
  return Array.from({ length }, (_, k) => 0.85 ** k);
}
