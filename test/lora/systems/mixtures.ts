/** Systems with more than one adapter: many tenants, and mixtures of experts. Routers are plain code; gates go in. */
import * as assert from 'uvu/assert';
import type { AdapterRouting } from '../../../ts/index';
import { createAdapterBank, loraLinearSync, packWeightSync } from '../../../ts/index';
import { keyOf, philox } from '../../reference/philox.ts';
import type { Matrix } from '../reference.ts';
import { multiply, toMatrix, transpose } from '../reference.ts';
import type { System } from './layer.ts';
import {
  apart,
  applied,
  backward,
  draw,
  forward,
  largest,
  near,
  softmax,
  sum,
  tensor,
  times,
} from './layer.ts';

const [IN, OUT, R, ROWS, EXPERTS] = [18, 21, 4, 11, 6];

interface Expert {
  a: Matrix;
  b: Matrix;
}

const draws = (count: number, columns = IN, rows = OUT): Expert[] =>
  Array.from({ length: count }, () => ({ a: draw(R, columns, 0.3), b: draw(rows, R, 0.5) }));

const specs = (experts: Expert[]) => experts.map(({ a, b }) => ({ a: tensor(a), b: tensor(b) }));

/** Gates as a call takes them: of each row k experts and their weights. */
interface Chosen {
  experts: number[][];
  weights: Matrix;
}

const topK =
  ({ experts, weights }: Chosen) =>
  (ids: number[]): AdapterRouting => ({
    kind: 'topK',
    k: weights[0].length,
    ids: Int32Array.from(experts.flat(), (e) => ids[e]),
    gates: tensor(weights),
  });

/** W x + the sum of g_e B_e A_e x, row by row. */
const mixture = (x: Matrix, w: Matrix, all: Expert[], { experts, weights }: Chosen): Matrix =>
  x.map((row, m) => {
    const parts = experts[m].map((e, i) =>
      times(applied([row], all[e].b, all[e].a), Math.fround(weights[m][i])),
    );
    return sum(applied([row], w), ...parts)[0];
  });

/** The k largest of a router, with what `weigh` makes of their logits and of the others'. */
function route(
  x: Matrix,
  router: Matrix,
  k: number,
  weigh: (logits: number[], chosen: number[]) => number[],
): Chosen {
  const logits = applied(x, router);
  const experts = logits.map((row) => largest(row, k));
  return { experts, weights: logits.map((row, m) => weigh(row, experts[m])) };
}

/** Softmax of all, then of the chosen ones in proportion. */
const renormalised = (logits: number[], chosen: number[]): number[] => {
  const shares = softmax(logits);
  const total = chosen.reduce((s, e) => s + shares[e], 0);
  return chosen.map((e) => shares[e] / total);
};

const base = (): { x: Matrix; w: Matrix } => ({ x: draw(ROWS, IN), w: draw(OUT, IN, 0.3) });

export const mixtures: System[] = [
  {
    name: 'S-LoRA',
    run() {
      // h = x W + x A_i B_i, each request with its own i and rank, in one batch over one pool of pages.
      const { x, w } = base();
      const ranks = [8, 1, 64, 16];
      const experts = ranks.map((r) => ({ a: draw(r, IN, 0.3), b: draw(OUT, r, 0.3) }));
      const packed = packWeightSync(tensor(w), { format: 'f32' });
      const bank = createAdapterBank({ inFeatures: IN, outFeatures: OUT });
      const ids = specs(experts).map((spec) => bank.load(spec));
      const used = bank.memory().usedBytes;
      const gone = bank.load(specs(experts)[2]);
      assert.ok(bank.memory().usedBytes > used);
      bank.evict(gone);
      assert.is(bank.memory().usedBytes, used, 'evicted');
      const requests = [3, 1, 1, 0, 2, 3, 0, 2, 2, 1, 3];
      const routing = { kind: 'tokens' as const, ids: Int32Array.from(requests, (i) => ids[i]) };
      const { y } = loraLinearSync({ x: tensor(x), base: packed, bank, routing });
      const alone = x.map((row, m) => {
        const { a, b } = experts[requests[m]];
        return applied([row], sum(w, multiply(b, a)))[0];
      });
      near(toMatrix(y), alone);
      bank.dispose();
      packed.dispose();
    },
  },
  {
    name: 'Punica',
    run() {
      // Segments of rows that share an adapter, sorted by it.
      const { x, w } = base();
      const experts = draws(3);
      const indptr = Int32Array.of(0, 4, 5, 11);
      const routing = (ids: number[]) => ({
        kind: 'segments' as const,
        indptr,
        ids: Int32Array.from(ids),
      });
      const expected = x.map((row, m) => {
        const { a, b } = experts[m < 4 ? 0 : m < 5 ? 1 : 2];
        return applied([row], sum(w, multiply(b, a)))[0];
      });
      near(forward(x, { base: w, adapters: specs(experts), routing }), expected);
    },
  },
  {
    name: 'CoTo',
    run() {
      // W x + delta s B A x, delta of 0 or 1 drawn for each adapter and step; the same one in the backward.
      const { x, w } = base();
      const [{ a, b }] = draws(1);
      const adapters = [{ a: tensor(a), b: tensor(b), scale: 2 }];
      const active = sum(applied(x, w), times(applied(x, b, a), 2));
      const activation = 0.25;
      let on = 0;
      for (let seed = 0; seed < 64; seed++) {
        // Adapter 0 of its bank.
        const delta = philox([0, 0, 0, 1], keyOf(seed))[0] >= (1 - activation) * 2 ** 32;
        on += Number(delta);
        const skip = { p: 1 - activation, seed };
        near(forward(x, { base: w, adapters }, { skip }), delta ? active : applied(x, w));
      }
      assert.ok(on > 6 && on < 28, `active in ${on} steps of 64`);
    },
  },
  {
    name: 'MixLoRA',
    run() {
      // A feed-forward block of experts that share W1, W2, W3: each row k times, each time with another expert.
      const x = draw(ROWS, IN);
      const hidden = 15;
      const [w1, w2, w3] = [draw(hidden, IN, 0.3), draw(IN, hidden, 0.3), draw(hidden, IN, 0.3)];
      const [e1, e2, e3] = [
        draws(EXPERTS, IN, hidden),
        draws(EXPERTS, hidden, IN),
        draws(EXPERTS, IN, hidden),
      ];
      const k = 2;
      const { experts, weights } = route(x, draw(EXPERTS, IN), k, renormalised);
      const silu = (v: number): number => v / (1 + Math.exp(-v));
      const block = (rows: Matrix, up: (m: Matrix) => Matrix[], down: (m: Matrix) => Matrix) => {
        const [gate, value] = up(rows);
        return down(gate.map((row, i) => row.map((v, j) => Math.fround(silu(v) * value[i][j]))));
      };
      const repeated = x.flatMap((row) => Array.from({ length: k }, () => row));
      const routing = (ids: number[]) => ({
        kind: 'tokens' as const,
        ids: Int32Array.from(experts.flat(), (e) => ids[e]),
      });
      const call = (rows: Matrix, w: Matrix, all: Expert[]): Matrix =>
        forward(rows, { base: w, adapters: specs(all), routing });
      const ours = block(
        repeated,
        (m) => [call(m, w1, e1), call(m, w3, e3)],
        (m) => call(m, w2, e2),
      );
      const weighted = (rows: Matrix): Matrix =>
        weights.map((own, m) => sum(...own.map((g, i) => times([rows[m * k + i]], g)))[0]);
      const theirs = repeated.map((row, i) => {
        const e = experts.flat()[i];
        const own = (w: Matrix, all: Expert[]): Matrix => sum(w, multiply(all[e].b, all[e].a));
        return block(
          [row],
          (m) => [applied(m, own(w1, e1)), applied(m, own(w3, e3))],
          (m) => applied(m, own(w2, e2)),
        )[0];
      });
      near(weighted(ours), weighted(theirs), 5e-6);
    },
  },
  {
    name: 'LoRA-Mixer',
    run() {
      // Experts on a projection: all of them by their soft weights in training, the top k at inference.
      const { x, w } = base();
      const experts = draws(EXPERTS);
      const router = draw(EXPERTS, IN);
      for (const k of [EXPERTS, 3]) {
        const chosen = route(x, router, k, (logits, top) => {
          const shares = softmax(logits);
          return top.map((e) => shares[e]);
        });
        const layer = { base: w, adapters: specs(experts), routing: topK(chosen) };
        near(forward(x, layer), mixture(x, w, experts, chosen));
      }
    },
  },
  {
    name: 'LLaVA-MoLE',
    run() {
      // W x + B_e A_e x of e = argmax of the router.
      const { x, w } = base();
      const experts = draws(3);
      const chosen = applied(x, draw(3, IN)).map((row) => largest(row, 1)[0]);
      const routing = (ids: number[]) => ({
        kind: 'tokens' as const,
        ids: Int32Array.from(chosen, (e) => ids[e]),
      });
      const expected = x.map((row, m) => {
        const { a, b } = experts[chosen[m]];
        return applied([row], sum(w, multiply(b, a)))[0];
      });
      near(forward(x, { base: w, adapters: specs(experts), routing }), expected);
    },
  },
  {
    name: 'MoA',
    run() {
      // One expert for a whole sequence, by the router's label of its domain.
      const { x, w } = base();
      const experts = draws(3);
      const [starts, domains] = [Int32Array.of(0, 2, 3, ROWS), [2, 0, 2]];
      const routing = (ids: number[]) => ({
        kind: 'segments' as const,
        indptr: starts,
        ids: Int32Array.from(domains, (domain) => ids[domain]),
      });
      const expected = x.map((row, m) => {
        const { a, b } = experts[domains[starts.findIndex((start) => start > m) - 1]];
        return applied([row], sum(w, multiply(b, a)))[0];
      });
      near(forward(x, { base: w, adapters: specs(experts), routing }), expected);
    },
  },
  {
    name: 'MoLA',
    run() {
      // More experts for higher layers; in each the k = 2 largest shares, made to sum to one.
      let x = draw(ROWS, OUT);
      let expected = x;
      for (const count of [2, 4, 6, 8]) {
        const w = draw(OUT, OUT, 0.15);
        const experts = draws(count, OUT);
        const router = draw(count, OUT);
        const chosen = route(x, router, 2, renormalised);
        x = forward(x, { base: w, adapters: specs(experts), routing: topK(chosen) });
        expected = mixture(expected, w, experts, chosen);
      }
      near(x, expected, 1e-5);
    },
  },
  {
    name: 'MeteoRA',
    run() {
      // Gates: softmax over the logits of the k largest alone; with gradients that reach the gates.
      const { x, w } = base();
      const experts = draws(EXPERTS);
      const chosen = route(x, draw(EXPERTS, IN), 2, (logits, top) => {
        return softmax(top.map((e) => logits[e]));
      });
      const layer = { base: w, adapters: specs(experts), routing: topK(chosen) };
      near(forward(x, layer), mixture(x, w, experts, chosen));
      const dY = draw(ROWS, OUT);
      const { dGates, adapters } = backward(x, dY, layer);
      const own = x.map((row, m) =>
        chosen.experts[m].map((e) => {
          const [part] = applied([row], experts[e].b, experts[e].a);
          return part.reduce((s, value, o) => s + value * dY[m][o], 0);
        }),
      );
      near(dGates!, own, 1e-5, 'dGates');
      const weightOf = (m: number, e: number): number => {
        const at = chosen.experts[m].indexOf(e);
        return at < 0 ? 0 : Math.fround(chosen.weights[m][at]);
      };
      const g = dY.map((row, m) => row.map((value) => value * weightOf(m, 0)));
      const dB = multiply(transpose(g), applied(x, experts[0].a));
      near(toMatrix(adapters[0].dB!), dB, 1e-5, 'dB');
    },
  },
  {
    name: 'MoRA',
    run() {
      // Every rank an expert that activates itself: s = A x / |A x|, softmax over the k largest.
      const { x, w } = base();
      const [a, b] = [draw(12, IN), draw(OUT, 12)];
      const k = 3;
      const expected = x.map((row) => {
        const [t] = applied([row], a);
        const length = Math.hypot(...t);
        const relevance = t.map((value) => value / length);
        const top = largest(relevance, k);
        const shares = softmax(top.map((i) => relevance[i]));
        const parts = top.map((i, n) => [b.map((column) => shares[n] * t[i] * column[i])]);
        return sum(applied([row], w), ...parts)[0];
      });
      const spec = { a: tensor(a), b: tensor(b), act: { topK: k } };
      const y = forward(x, { base: w, adapters: [spec] });
      near(y, expected);
      apart(y, sum(applied(x, w), applied(x, b, a)));
    },
  },
  {
    name: 'token-level adaptation',
    run() {
      // Of every token the weights of all experts: softmax over similarities to the centres of their data.
      const { x, w } = base();
      const experts = draws(4);
      const centres = draw(4, IN);
      const cosine = (u: number[], v: number[]): number =>
        u.reduce((s, value, i) => s + value * v[i], 0) / (Math.hypot(...u) * Math.hypot(...v));
      const weights = x.map((row) => softmax(centres.map((c) => cosine(row, c) / 0.25)));
      const chosen = { experts: x.map(() => [0, 1, 2, 3]), weights };
      const layer = { base: w, adapters: specs(experts), routing: topK(chosen) };
      near(forward(x, layer), mixture(x, w, experts, chosen));
    },
  },
  {
    name: 'Arrow',
    run() {
      // Prototypes of the experts are their leading input directions; |v . x| chooses and weighs.
      const { x, w } = base();
      const experts = draws(EXPERTS);
      const prototypes = experts.map(({ a, b }) => leadingInput(multiply(b, a)));
      const logits = applied(x, prototypes).map((row) => row.map(Math.abs));
      const chosen = {
        experts: logits.map((row) => largest(row, 2)),
        weights: logits.map((row) => softmax(largest(row, 2).map((e) => row[e]))),
      };
      const layer = { base: w, adapters: specs(experts), routing: topK(chosen) };
      near(forward(x, layer), mixture(x, w, experts, chosen));
    },
  },
];

/** The right singular vector of the largest singular value, by power iteration. */
function leadingInput(m: Matrix): number[] {
  let v = m[0];
  for (let step = 0; step < 100; step++) {
    v = multiply([v], transpose(m), m)[0];
    const length = Math.hypot(...v);
    v = v.map((value) => value / length);
  }
  return v;
}
