/** Native calls of the layer ops: every form of a call, any number of threads, one result. */
import * as assert from 'uvu/assert';
import type { Tensor } from '../../ts/index';
import * as rankone from '../../ts/index';
import { Random } from './random.ts';
import type { Tensor32, TensorLike } from './tensor.ts';
import { sizeOf } from './tensor.ts';

export type Results = Record<string, Tensor>;

const ops = rankone as unknown as Record<string, (inputs: object, options?: object) => any>;

/** Calls `name` synchronously with 1, 2 and 5 threads and asynchronously; all must have the same bits. */
export async function call(name: string, inputs: object, options: object = {}): Promise<Results> {
  const before = rankone.getNumThreads();
  try {
    rankone.setNumThreads(1);
    const first: Results = ops[`${name}Sync`](inputs, options);
    for (const threads of [2, 5]) {
      rankone.setNumThreads(threads);
      expectSameBits(`${name}, ${threads} threads`, ops[`${name}Sync`](inputs, options), first);
    }
    expectSameBits(`${name}, asynchronous`, await ops[name](inputs, options), first);
    return first;
  } finally {
    rankone.setNumThreads(before);
  }
}

function expectSameBits(label: string, actual: Results, expected: Results): void {
  assert.equal(Object.keys(actual), Object.keys(expected), label);
  for (const [name, { data, shape }] of Object.entries(actual)) {
    assert.equal(shape, expected[name].shape, `${label}: ${name}`);
    const bits = (x: Tensor['data']) => Buffer.from(x.buffer, x.byteOffset, x.byteLength);
    assert.is(
      Buffer.compare(bits(data), bits(expected[name].data)),
      0,
      `${label}: bits of ${name}`,
    );
  }
}

/** Holds results against references of the same names, all of them and no others: ||out - ref|| <= limit ||ref||. */
export function expectNear(
  label: string,
  actual: Results,
  expected: Record<string, TensorLike | undefined>,
  limit: number | Record<string, number>,
): void {
  const wanted = Object.keys(expected).filter((name) => expected[name]);
  assert.equal(Object.keys(actual).sort(), wanted.sort(), `${label}: names`);
  for (const name of wanted) {
    const [out, ref] = [actual[name], expected[name]!];
    assert.equal(out.shape, [...ref.shape], `${label}: shape of ${name}`);
    let error = 0;
    let norm = 0;
    for (let i = 0; i < ref.data.length; i++) {
      error += (out.data[i] - ref.data[i]) ** 2;
      norm += ref.data[i] ** 2;
    }
    const relative = error === 0 ? 0 : Math.sqrt(error / norm);
    const most = typeof limit === 'number' ? limit : (limit[name] ?? limit.other);
    assert.ok(relative <= most, `${label}: ${name} is off by ${relative}, at most ${most}`);
  }
}

/** Seeded tensors of normal values. */
export function normals(seed: number): (...shape: number[]) => Tensor32 {
  const random = new Random(seed);
  return (...shape) => ({ data: random.normals(sizeOf(shape)), shape });
}

/** Seeded integers in [0, bound). */
export function indices(seed: number, bound: number, ...shape: number[]) {
  const random = new Random(seed);
  const data = Int32Array.from({ length: sizeOf(shape) }, () => random.integer(bound));
  return { data, shape };
}
