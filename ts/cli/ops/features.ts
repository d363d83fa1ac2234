// Feature maps, and the linear attention without order that has them inside.
import * as bidirectional from '#oracle/reference/bidirectionalLinearAttention';
import * as reference from '#oracle/reference/featureMap';
import type { Tensor32 } from '#oracle/support/tensor';
import type { FeatureMapKind } from '../../ops/featureMap';
import type { Operation, Pass, Shape } from '../operation';
import { operation, perElement } from './layers';

const heads = [
  { B: 2, T: 9, H: 3, K: 20 },
  { B: 1, T: 130, H: 2, K: 64 },
];

const ofHeads = ({ B, T, H, K }: Shape): number => B * T * H * K;

/** A map of queries or keys without anything learned; operations per element, forward and backward. */
const featureMapOf = (kind: FeatureMapKind, forward: number, backward: number): Operation => ({
  ...operation({
    name: 'featureMap',
    shapes: heads,
    options: { kind },
    limits: { other: 4e-6 },
    draw: ({ B, T, H, K }, { normals }) => ({
      x: normals(B, T, H, K),
      dY: normals(B, T, H, reference.widthOf({ x: { data: [], shape: [K] } }, { kind })),
    }),
    forward: (inputs) => ({ y: reference.featureMap(inputs, { kind }) }),
    backward: (inputs) => reference.featureMapBackward(inputs, { kind }),
    flops: perElement(forward, backward, ofHeads),
    tokens: 'T',
    usual: { B: 1, T: 512, H: 16, K: 64 },
  }),
  name: `featureMap/${kind}`,
});

const featureMaps: readonly Operation[] = [
  // exp, a sum, a choice; backward: exp, a product, a choice
  featureMapOf('elu1', 3, 3),
  featureMapOf('relu', 1, 2),
  // The largest, minus it, exp, sum, times; backward: those again, dY y and its sum, minus it, times
  featureMapOf('softmax', 5, 9),
  // relu, eps, the largest, over it, w^2 and its sum, w^3 (2), its square and sum, times; backward: the first ten again, a g
  // and its sum, w^2 and times w (2), and six more
  featureMapOf('focused', 11, 20),
  {
    ...operation({
      name: 'featureMap',
      shapes: heads.map((shape) => ({ ...shape, D: shape.K - 3 })),
      options: { kind: 'hedgehog' },
      limits: { other: 4e-6 },
      draw: ({ B, T, H, K, D }, { normals }) => ({
        x: normals(B, T, H, K),
        weight: scaledBy(K ** -0.5, normals(H, K, D)),
        dY: normals(B, T, H, 2 * D),
      }),
      forward: (inputs) => ({ y: reference.featureMap(inputs, { kind: 'hedgehog' }) }),
      backward: (inputs) => reference.featureMapBackward(inputs, { kind: 'hedgehog' }),
      // The projection and two softmaxes (5); backward: those again (9 with their slopes), and a product each for dx and
      // dWeight.
      flops: (pass, { B, T, H, K, D }) =>
        (pass === 'backward' ? 6 * K + 18 : 2 * K + 10) * B * T * H * D,
      tokens: 'T',
      usual: { B: 1, T: 512, H: 16, K: 64, D: 64 },
    }),
    name: 'featureMap/hedgehog',
  },
  {
    ...featureMapOf('taylor2', 0, 0),
    // A product of x_i c and x_j to a pair; backward: a product and a sum for each of the two
    flops: (pass, { B, T, H, K }) => (pass === 'backward' ? 2 : 0.5) * B * T * H * K * (K + 1),
    usual: { B: 1, T: 512, H: 16, K: 16 },
  },
];

function scaledBy(factor: number, x: Tensor32): Tensor32 {
  x.data.forEach((value, i) => {
    x.data[i] = factor * value;
  });
  return x;
}

/** Features of a head of K: two of a column in Hedgehog's map, and all pairs in Taylor's. */
const widthOf = (kind: FeatureMapKind, K: number): number =>
  reference.widthOf({ x: { data: [], shape: [K] } }, { kind });

/** Keys by values and queries by their sums; backward: the numerator again, and five products of that size. */
function bidirectionalFlops(kind: FeatureMapKind) {
  return (pass: Pass, { B, T, S, H, HKV, K, V }: Shape): number => {
    const [queries, keys] = [B * T * H, B * S * HKV];
    const backward = pass === 'backward';
    return 2 * widthOf(kind, K) * V * (queries * (backward ? 3 : 1) + keys * (backward ? 3 : 1));
  };
}

function bidirectionalOf(
  name: string,
  featureMap: FeatureMapKind,
  more: { rankAugmented?: boolean } = {},
): Operation {
  const options = { featureMap, ...more };
  const weighted = featureMap === 'elu1' && !more.rankAugmented;
  return {
    ...operation({
      name: 'bidirectionalLinearAttention',
      options,
      shapes: [
        { B: 2, T: 13, S: 11, H: 4, HKV: 2, K: 9, V: 20 },
        { B: 1, T: 100, S: 90, H: 2, HKV: 2, K: 16, V: 32 },
      ],
      rounded: ['o'],
      unbenched: ['alpha', 'modulate'],
      limits: { o: 2e-6, other: 1e-5 },
      draw: ({ B, T, S, H, HKV, K, V }, { normals }) => ({
        q: normals(B, T, H, K),
        k: normals(B, S, HKV, K),
        v: normals(B, S, HKV, V),
        ...(weighted && { alpha: positive(normals(B, S, HKV)), modulate: normals(B, T, H, V) }),
        dO: normals(B, T, H, V),
      }),
      forward: (inputs) => bidirectional.bidirectionalLinearAttention(inputs, options),
      backward: (inputs) => ({
        ...bidirectional.bidirectionalLinearAttentionBackward(inputs, options),
      }),
      flops: bidirectionalFlops(featureMap),
      tokens: 'T',
      usual:
        featureMap === 'taylor2'
          ? { B: 1, T: 512, S: 512, H: 8, HKV: 8, K: 16, V: 64 }
          : { B: 1, T: 512, S: 512, H: 8, HKV: 8, K: 64, V: 64 },
    }),
    name,
    objection: ({ H, HKV }) =>
      H % HKV === 0 ? undefined : `H = ${H} is no multiple of HKV = ${HKV}`,
  };
}

function positive(x: Tensor32): Tensor32 {
  return { ...x, data: x.data.map(Math.abs) };
}

export const features: readonly Operation[] = [
  ...featureMaps,
  bidirectionalOf('bidirectionalLinearAttention', 'elu1'),
  bidirectionalOf('bidirectionalLinearAttention/rankAugmented', 'elu1', { rankAugmented: true }),
  bidirectionalOf('bidirectionalLinearAttention/softmax', 'softmax'),
  bidirectionalOf('bidirectionalLinearAttention/taylor2', 'taylor2'),
];
