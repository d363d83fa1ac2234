// What a benchmark of the fused LoRA product times: the product, and the same from a base product and two more.
import { encode } from '#oracle/support/half';
import { Random } from '#oracle/support/random';
import type { TensorLike } from '#oracle/support/tensor';
import type { AdapterRouting } from '../../../lora/loraLinear';
import type { FloatTensor } from '../../../types';
import type { Case, Prepared } from '../../benchCase';
import { engine } from '../../engine';
import { routeOf } from '../../ops/lora';
import { placed } from '../../place';
import { adaptersOf, adaptersRead, factorsOf, isDecode, nextTurn, weightsOf } from './assets';

/** Different routings of a bank with more adapters than rows. */
const TURNS = 16;

function tensor(dtype: Case['dtype'], seed: number, rows: number, columns: number): FloatTensor {
  const data = new Random(seed).uniforms(rows * columns, -1, 1);
  return encode(dtype, { data, shape: [rows, columns] }) as FloatTensor;
}

/** As the engine makes a result: of the type of x. */
function blank(dtype: Case['dtype'], rows: number, columns: number): FloatTensor {
  return encode(dtype, {
    data: new Float32Array(rows * columns),
    shape: [rows, columns],
  }) as FloatTensor;
}

interface Sides {
  x: FloatTensor;
  y: FloatTensor;
  dY: FloatTensor;
  dx: FloatTensor;
}

function sidesOf({ shape: { M, N, K }, dtype }: Case): Sides {
  return {
    x: tensor(dtype, 1, M, K),
    y: blank(dtype, M, N),
    dY: tensor(dtype, 2, M, N),
    dx: blank(dtype, M, K),
  };
}

const bytesOf = ({ data }: FloatTensor): number => data.byteLength;

/** What a call of the case is given, one after the other for every turn. */
function argumentsOf(one: Case): (x: FloatTensor) => any {
  const { op, shape } = one;
  const { perRow } = op.lora!;
  const bases = weightsOf(one);
  const copies = bases.length;
  if (shape.E === 0) {
    const calls = bases.map((base) => ({ base }));
    return (x) => ({ x, ...calls[nextTurn() % copies] });
  }
  const many = shape.E > shape.M;
  const { bank, ids } = adaptersOf(one, many ? shape.E : shape.E * copies);
  const gates = placed({
    data: new Random(3).uniforms(shape.M * perRow, 0.2, 0.8),
    shape: [shape.M, perRow],
  });
  const routings = Array.from({ length: many ? TURNS : copies }, (_, turn): AdapterRouting => {
    const own = many ? ids : ids.slice(turn * shape.E, (turn + 1) * shape.E);
    return routeOf(shape, perRow, own, gates, turn);
  });
  return (x) => {
    const turn = nextTurn();
    return { x, base: bases[turn % copies], bank, routing: routings[turn % routings.length] };
  };
}

/** One run of the product itself. */
export function fusedRun(one: Case): Prepared {
  const { op, pass, shape } = one;
  const { loraLinearSync, loraLinearBackwardSync } = engine();
  const sides = sidesOf(one);
  const { x, y, dY, dx } = Object.fromEntries(
    Object.entries(sides).map(([name, side]) => [name, placed(side)]),
  ) as unknown as Sides;
  const next = argumentsOf(one);
  const saveRank = shape.E > 0;
  const forwardOptions = { ...op.options, out: { y } } as any;
  const backwardOptions = { ...op.options, gradDtype: 'input', out: { dx } } as any;
  const traffic = trafficOf(one, sides);
  if (pass === 'forward') return { traffic, run: () => loraLinearSync(next(x), forwardOptions) };
  if (pass === 'backward')
    return {
      traffic,
      run: () => loraLinearBackwardSync({ ...next(x), dY } as any, backwardOptions),
    };
  return {
    traffic,
    run: () => {
      const given = next(x);
      const { t } = loraLinearSync(given, { ...forwardOptions, saveRank });
      return loraLinearBackwardSync({ ...given, dY, ...(t && { t }) } as any, backwardOptions);
    },
  };
}

function trafficOf(one: Case, { x, y, dY, dx }: Sides): Prepared['traffic'] {
  const { pass, shape } = one;
  const { E, r, N, K } = shape;
  const bases = weightsOf(one);
  const adapter = E > 0 ? r * (N + K) : 0;
  const adapters = adaptersRead(shape) * adapter;
  const weights = bases[0].bytes + adapters * (bytesOf(x) / x.data.length);
  const forward = { read: weights + bytesOf(x), written: bytesOf(y) };
  const backward = {
    read: weights + bytesOf(x) + bytesOf(dY),
    written: bytesOf(dx) + 4 * E * adapter,
  };
  const parts =
    pass === 'forward' ? [forward] : pass === 'backward' ? [backward] : [forward, backward];
  const read = parts.reduce((sum, part) => sum + part.read, 0);
  const written = parts.reduce((sum, part) => sum + part.written, 0);
  // The copies of a decode step are what has to fit somewhere.
  const footprint = isDecode(one) ? bases.length * weights : read + written;
  return { read, written, footprint };
}

/** The same without fusing: the base product, x A^T and t B^T. Scaling and adding them up is left out. */
export function unfusedRun(one: Case): { run: () => unknown; y: () => TensorLike[] } {
  const { op, pass, shape, dtype } = one;
  const { matmulSync, matmulBackwardSync } = engine();
  const { M, N, K, r } = shape;
  const { x, dY } = sidesOf(one);
  const base = fusedRun({ ...one, shape: { ...shape, r: 0, E: 0 } });
  const factors = Array.from({ length: weightsOf(one).length }, () => factorsOf(one));
  const t = blank(dtype, M, r);
  const added = blank(dtype, M, N);
  const options = { ...op.options, transposeB: true } as any;
  const gradients = { ...options, gradDtype: 'input' };
  const of = (a: FloatTensor, b: FloatTensor, dY: FloatTensor) => ({ a, b, dY }) as any;
  const [dt, dB, dA, dx] = [
    blank(dtype, M, r),
    blank(dtype, N, r),
    blank(dtype, r, K),
    blank(dtype, M, K),
  ];
  let turn = 0;
  const run = (): unknown => {
    const result = base.run();
    const { a, b } = factors[turn++ % factors.length];
    matmulSync({ a: x, b: a } as any, { ...options, out: { y: t } });
    matmulSync({ a: t, b } as any, { ...options, out: { y: added } });
    if (pass === 'forward-backward') {
      matmulBackwardSync(of(t, b, dY), { ...gradients, out: { da: dt, db: dB } });
      matmulBackwardSync(of(x, a, dt), { ...gradients, out: { da: dx, db: dA } });
    }
    return result;
  };
  return { run, y: () => [(base.run() as { y: TensorLike }).y, added as TensorLike] };
}
