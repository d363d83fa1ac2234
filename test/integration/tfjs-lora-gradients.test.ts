// loraLinear of rankone/tfjs: values, and gradients through the tape, against the float64 reference.
import * as tf from '@tensorflow/tfjs-core';
import { suite } from 'uvu';
import { packWeightSync, type WeightFormat } from '../../ts/index';
import {
  type LoraLinearTensorOptions,
  type LoraLinearTensors,
  loraLinear,
} from '../../ts/integrations/tfjs/index';
import * as reference from '../reference/loraLinear.ts';
import { expectNear, normals } from '../support/layers.ts';
import type { Tensor32, TensorLike } from '../support/tensor.ts';
import { toPlain, toTensor } from '../support/tfjsCases.ts';

const [ROWS, IN, OUT] = [6, 10, 7];

/** Plain tensors where loraLinear takes tf.Tensors. */
interface Problem {
  x: Tensor32;
  base?: Tensor32 | 'identity' | null;
  adapters?: Record<string, any>[];
  routing?: any;
  bias?: Tensor32;
}

interface Case extends Problem {
  name: string;
  format?: WeightFormat;
  options?: { dropout?: reference.Chance; skip?: reference.Chance };
}

const isTensor = (value: any): value is Tensor32 => Array.isArray(value?.shape);

/** The same structure with f of every plain tensor, by its path: `adapters.1.a`. */
function mapTensors(value: any, f: (t: Tensor32, path: string) => unknown, path = ''): any {
  if (isTensor(value)) return f(value, path);
  if (typeof value !== 'object' || value === null || ArrayBuffer.isView(value)) return value;
  const at = (key: string) => (path ? `${path}.${key}` : key);
  const entries = Object.entries(value).map(([k, v]) => [k, mapTensors(v, f, at(k))]);
  return Array.isArray(value) ? entries.map(([, v]) => v) : Object.fromEntries(entries);
}

function leaves(problem: Problem): Map<string, Tensor32> {
  const found = new Map<string, Tensor32>();
  mapTensors({ ...problem, base: null }, (t, path) => found.set(path, t));
  return found;
}

/** The problem as the reference takes it; `base` as the values that it stands for. */
function forReference({ x, bias, routing, adapters }: Problem, base: any): any {
  const list = adapters?.map((adapter) => {
    const { scale } = adapter;
    return { ...adapter, scale: isTensor(scale) ? scale.data[0] : scale };
  });
  const byId = list && new Map(list.map((adapter, id) => [id, adapter]));
  const given = routing ?? (list && { kind: 'one', id: 0 });
  return {
    x,
    base,
    bias,
    adapters: byId,
    routing: given,
    outFeatures: base === 'identity' ? IN : OUT,
  };
}

/** The reference's gradients by the paths of the tensors that they belong to. */
function expectedGradients(problem: Problem, inputs: any, dY: Tensor32, options?: object) {
  const { dx, dBias, dGates, adapters } = reference.loraLinearBackward({ ...inputs, dY }, options);
  const expected: Record<string, TensorLike> = {};
  for (const [path, { shape }] of leaves(problem)) {
    const [head, index, field = ''] = path.split('.');
    const own = adapters.get(Number(index)) as any;
    const name = `d${field[0]?.toUpperCase()}${field.slice(1)}`;
    const zeros = { data: new Float64Array(shape.reduce((a, b) => a * b, 1)), shape };
    if (head === 'x') expected[path] = dx;
    else if (head === 'bias') expected[path] = dBias!;
    else if (head === 'routing') expected[path] = { data: dGates!.data, shape };
    else if (own && field === 'scale')
      expected[path] = { data: Float64Array.of(own.dScale), shape };
    else expected[path] = own?.[name] ?? zeros;
  }
  return expected;
}

const draw = normals(41);
const weight = draw(OUT, IN);
const factors = (r: number, r2 = r) => ({ a: draw(r, IN), b: draw(OUT, r2) });
const everything = { ...factors(3, 2), scale: 1.5, mid: draw(2, 3), act: 'silu' };
const several = [
  { ...everything, rankBias: draw(3), outBias: draw(OUT) },
  { ...factors(5), mid: draw(5), act: { topK: 2 } },
  { ...factors(1), scale: { data: Float32Array.of(0.7), shape: [] } },
];
const x = draw(ROWS, IN);
const bias = draw(OUT);
const ids = Int32Array.of(2, -1, 0, 0, 1, 2);

const CASES: Case[] = [
  { name: 'one adapter', x, base: weight, adapters: [factors(4)] },
  { name: 'with bias and scale', x, base: weight, adapters: [{ ...factors(4), scale: 2 }], bias },
  { name: 'x of rank 3', x: draw(2, 3, IN), base: weight, adapters: [factors(4)], bias },
  { name: 'x of rank 1', x: draw(IN), base: weight, adapters: [factors(2)] },
  { name: 'no adapter', x, base: weight, bias },
  { name: 'no base', x, base: null, adapters: [factors(4)], bias },
  { name: 'base left out', x, adapters: [factors(4)] },
  { name: 'identity', x, base: 'identity', adapters: [{ a: draw(2, IN), b: draw(IN, 2) }] },
  { name: 'packed, f32', x, base: weight, format: 'f32', adapters: [factors(4)] },
  { name: 'packed, nf4', x, base: weight, format: 'nf4', adapters: [factors(4)] },
  { name: 'DoRA', x, base: weight, adapters: [{ ...factors(4), baseScale: draw(OUT) }], bias },
  { name: 'a given rank', x, base: weight, adapters: [{ ...factors(4), rank: 2 }] },
  {
    name: 'columns for a',
    x,
    base: weight,
    adapters: [{ ...factors(3), a: Int32Array.of(9, 0, 9) }],
  },
  { name: 'rows for b', x, base: weight, adapters: [{ ...factors(3), b: Int32Array.of(6, 1, 1) }] },
  { name: 'every piece', x, base: weight, adapters: several.slice(0, 1), bias },
  { name: 'one of several', x, base: weight, adapters: several, routing: { kind: 'one', id: 1 } },
  { name: 'none of them', x, base: weight, adapters: several, routing: { kind: 'one', id: -1 } },
  {
    name: 'segments',
    x,
    base: weight,
    adapters: several,
    routing: {
      kind: 'segments',
      indptr: Int32Array.of(0, 2, 2, 5, 6),
      ids: Int32Array.of(1, 0, -1, 2),
    },
    bias,
  },
  { name: 'tokens', x, base: weight, adapters: several, routing: { kind: 'tokens', ids }, bias },
  {
    name: 'top 2',
    x,
    base: weight,
    adapters: several,
    routing: {
      kind: 'topK',
      k: 2,
      ids: Int32Array.of(0, 1, 2, 0, 1, -1, 2, 1, -1, -1, 0, 2),
      gates: draw(ROWS, 2),
    },
    bias,
  },
  {
    name: 'dropout',
    x,
    base: weight,
    adapters: [factors(4)],
    options: { dropout: { p: 0.4, seed: 2 ** 40 + 3 } },
  },
  {
    name: 'skip',
    x,
    base: weight,
    adapters: several,
    routing: { kind: 'tokens', ids },
    options: { skip: { p: 0.6, seed: 5 } },
  },
];

const LIMIT = 1e-5;
const oracle = suite('tfjs loraLinear: against the reference');

/** loraLinear of the problem with these tensors in the place of its own, and its base as given. */
function call(
  problem: Problem,
  tensors: Map<string, tf.Tensor>,
  base: LoraLinearTensors['base'],
  options?: LoraLinearTensorOptions,
): tf.Tensor {
  const inputs = mapTensors({ ...problem, base: null }, (_, path) => tensors.get(path));
  return loraLinear({ ...inputs, base }, options).y;
}

function inputsOf({ x, adapters, routing, bias }: Case): Problem {
  return { x, ...(adapters && { adapters }), ...(routing && { routing }), ...(bias && { bias }) };
}

for (const given of CASES) {
  oracle(given.name, () => {
    const { base, format, options = {} } = given;
    const problem = inputsOf(given);
    const packed = format && packWeightSync(base as Tensor32, { format });
    const inputs = forReference(problem, packed?.toTensor() ?? base);
    const { y } = reference.loraLinear(inputs, options);
    const dY = normals(42)(...y.shape);
    const expected = expectedGradients(problem, inputs, dY, options);
    const names = [...leaves(problem).keys()];
    const tensors = [...leaves(problem).values()].map(toTensor);
    const frozen = packed ?? (isTensor(base) ? toTensor(base) : base);
    for (const saveForBackward of [true, false]) {
      const f = (...xs: tf.Tensor[]) =>
        call(problem, new Map(names.map((name, i) => [name, xs[i]])), frozen, {
          ...options,
          saveForBackward,
        });
      expectNear('outputs', { y: toPlain(f(...tensors)) }, { y }, 5e-6);
      const gradients = tf.grads(f)(tensors, toTensor(dY));
      const actual = Object.fromEntries(names.map((name, i) => [name, toPlain(gradients[i])]));
      expectNear('gradients', actual as any, expected, LIMIT);
    }
    packed?.dispose();
  });
}

oracle.run();
