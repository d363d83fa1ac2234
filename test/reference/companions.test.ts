/** The references of the ops around the LoRA product: values worked by hand, and gradients against central differences. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { checkGradient, dot } from '../support/gradcheck.ts';
import { Random } from '../support/random.ts';
import type { Tensor64, TensorLike } from '../support/tensor.ts';
import { sizeOf, toFloat64 } from '../support/tensor.ts';
import * as reference from './companions.ts';

const companions = suite('reference: companions');
const random = new Random(5);

function normal(...shape: number[]): Tensor64 {
  return toFloat64({ data: random.normals(sizeOf(shape)), shape });
}

function of(shape: number[], ...values: number[]): Tensor64 {
  return { data: Float64Array.from(values), shape };
}

/** Gradients of a function of tensors, all of them, against central differences of <results, cotangents>. */
function checkAll<I extends Record<string, unknown>>(
  label: string,
  inputs: I,
  forward: (inputs: I) => TensorLike,
  backward: (inputs: I, cotangent: Tensor64) => Record<string, TensorLike>,
): void {
  const y = forward(inputs);
  const cotangent = normal(...y.shape);
  for (const [name, gradient] of Object.entries(backward(inputs, cotangent))) {
    const argument = name[1].toLowerCase() + name.slice(2);
    const input = inputs[argument] as Tensor64;
    checkGradient(`${label}: ${name}`, () => dot(forward(inputs), cotangent), input, gradient);
  }
}

companions('row norms by hand', () => {
  const weight = of([2, 2], 1, 2, 3, 4);
  const [a, b] = [of([1, 2], 1, 1), of([2, 1], 2, -4)];
  // [1,2] + 1/2 [2,2] and [3,4] - 1/2 [4,4]
  const { norms } = reference.doraNorms({ weight, a, b }, { scale: 0.5 });
  assert.equal([...norms.data], [Math.hypot(2, 3), Math.hypot(1, 2)]);
  const mid = of([1], 2);
  assert.is(reference.doraNorms({ weight, a, b, mid }).norms.data[0], Math.hypot(5, 6));
});

companions('a sparse matrix by hand, duplicates added up', () => {
  const values = of([4], 1, 2, 3, 4);
  const columns = { data: [1, 0, 1, 1], shape: [4] };
  const coo = { rows: { data: [0, 1, 0, 1], shape: [4] }, columns };
  assert.equal([...reference.dense(coo, values, 2, 2).data], [0, 4, 2, 4]);
  const csr = { indptr: { data: [0, 1, 1, 4], shape: [4] }, columns };
  assert.equal([...reference.dense(csr, values, 3, 2).data], [0, 1, 0, 0, 2, 7]);
  const x = of([1, 2], 10, 1);
  assert.equal([...reference.spmm({ x, values, ...csr }).y.data], [1, 0, 27]);
  assert.equal([...reference.spmm({ x, values, ...coo }, { outFeatures: 2 }).y.data], [4, 24]);
  const w = of([2, 2], 1, 1, 1, 1);
  assert.equal(
    [...reference.scatterAdd({ w, values, ...coo }, { scale: -1 }).w.data],
    [1, -3, -1, -3],
  );
});

companions('sparse gradients', () => {
  const positions = {
    rows: { data: [2, 0, 2, 1, 2], shape: [5] },
    columns: { data: [1, 3, 1, 0, 2], shape: [5] },
  };
  const options = { scale: 0.7, outFeatures: 4 };
  checkAll(
    'spmm',
    { x: normal(3, 4), values: normal(5) },
    (inputs) => reference.spmm({ ...inputs, ...positions }, options).y,
    (inputs, dY) => ({ ...reference.spmmBackward({ ...inputs, ...positions, dY }, options) }),
  );
});

companions('a Kronecker product by hand', () => {
  const [a, b] = [of([2, 1], 1, 10), of([1, 2], 1, 2)];
  const x = of([1, 2], 3, 4);
  assert.equal([...reference.kroneckerLinear({ x, a, b }).y.data], [11, 110]);
  const addend = of([1, 2], 0.5, 0);
  const { y } = reference.kroneckerLinear({ x, a, b, addend }, { scale: 2 });
  assert.equal([...y.data], [22.5, 220]);
});

companions('Kronecker gradients', () => {
  for (const lead of [[], [2]]) {
    checkAll(
      'kroneckerLinear',
      { x: normal(3, 6), a: normal(...lead, 4, 3), b: normal(...lead, 3, 2) },
      (inputs) => reference.kroneckerLinear(inputs, { scale: 0.6 }).y,
      (inputs, dY) => ({
        ...reference.kroneckerLinearBackward({ ...inputs, dY }, { scale: 0.6 }),
      }),
    );
  }
});

companions('combinations by hand', () => {
  const bases = of([2, 2, 2], 1, 2, 3, 4, 10, 20, 30, 40);
  const sum = (c: Tensor64, headAxis?: 'rows' | 'columns') => [
    ...reference.basisCombination({ coefficients: c, bases }, { headAxis }).sum.data,
  ];
  assert.equal(sum(of([2], 2, 1)), [12, 24, 36, 48]);
  assert.equal(sum(of([2, 2], 1, 0, 0, 1)), [1, 2, 30, 40]);
  assert.equal(sum(of([2, 2], 1, 0, 0, 1), 'columns'), [1, 20, 3, 40]);
  const delta = reference.randLora({
    a: of([1, 2], 1, 2),
    b: of([2, 1, 1], 3, 5),
    lambda: of([2, 1], 1, 10),
    gamma: of([2, 2], 1, 1, 0, 1),
  });
  assert.equal([...delta.delta.data], [3, 106]);
});

companions('gradients of combinations', () => {
  for (const headAxis of ['rows', 'columns'] as const)
    for (const lead of [[], [2]])
      checkAll(
        `basisCombination, ${headAxis}`,
        { coefficients: normal(...lead, 3), bases: normal(3, 4, 6) },
        (inputs) => reference.basisCombination(inputs, { headAxis }).sum,
        (inputs, dSum) => ({
          ...reference.basisCombinationBackward({ ...inputs, dSum }, { headAxis }),
        }),
      );
  for (const lead of [[], [3]])
    checkAll(
      'randLora',
      { a: normal(...lead, 2, 5), b: normal(3, 4, 2), lambda: normal(3, 2), gamma: normal(3, 5) },
      (inputs) => reference.randLora(inputs, { scale: 0.3 }).delta,
      (inputs, dDelta) => ({
        ...reference.randLoraBackward({ ...inputs, dDelta }, { scale: 0.3 }),
      }),
    );
});

companions('a sketch by hand', () => {
  const x = of([2, 1], 3, 4);
  const s = of([2, 2], 1, 0, 2, 1);
  const { sketch } = reference.rowSketch(x, s);
  assert.equal([...sketch.data], [11, 4]);
  const { dWeight } = reference.rowSketchGradient(of([2, 1], 1, 1), sketch, s);
  assert.equal([...dWeight.data], [37]); // S^T dY = [3, 1]
});

companions.run();
