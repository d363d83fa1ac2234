/** The reference of the fused LoRA product: its gradients by central differences, its pieces by hand. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { checkGradient, dot } from '../support/gradcheck.ts';
import { Random } from '../support/random.ts';
import type { Tensor64 } from '../support/tensor.ts';
import { sizeOf } from '../support/tensor.ts';
import { activate } from './loraActivation.ts';
import type {
  LoraAdapter,
  LoraLinearInputs,
  LoraLinearOptions,
  LoraRouting,
} from './loraLinear.ts';
import { loraLinear, loraLinearBackward } from './loraLinear.ts';
import { dynamicMap } from './packedWeight.ts';
import { philox } from './philox.ts';

const IN = 5;
const OUT = 4;
const ROWS = 6;

function draws(seed: number): (...shape: number[]) => Tensor64 {
  const random = new Random(seed);
  return (...shape) => ({
    data: Float64Array.from({ length: sizeOf(shape) }, () => random.normal()),
    shape,
  });
}

type Made = Omit<LoraAdapter, 'a' | 'b'> & {
  a: Tensor64 | Int32Array;
  b: Tensor64 | Int32Array;
};

const draw = draws(5);

const ADAPTERS: Record<string, () => Made> = {
  plain: () => ({ a: draw(3, IN), b: draw(OUT, 3) }),
  scale: () => ({ a: draw(2, IN), b: draw(OUT, 2), scale: 0.7 }),
  matrix: () => ({ a: draw(3, IN), b: draw(OUT, 2), mid: draw(2, 3), scale: -1.5 }),
  diagonal: () => ({ a: draw(3, IN), b: draw(OUT, 3), mid: draw(3) }),
  relu: () => ({ a: draw(3, IN), b: draw(OUT, 3), act: 'relu', rankBias: draw(3) }),
  gelu: () => ({ a: draw(3, IN), b: draw(OUT, 3), act: 'gelu', outBias: draw(OUT), scale: 2 }),
  silu: () => ({ a: draw(3, IN), b: draw(OUT, 2), act: 'silu', mid: draw(2, 3) }),
  'self-gate': () => ({ a: draw(4, IN), b: draw(OUT, 4), act: { topK: 2 }, rankBias: draw(4) }),
  'self-gate of all': () => ({ a: draw(3, IN), b: draw(OUT, 3), act: { topK: 3 }, mid: draw(3) }),
  'base scale': () => ({ a: draw(2, IN), b: draw(OUT, 2), baseScale: draw(OUT), scale: 3 }),
  'a list': () => ({ a: Int32Array.of(4, 0, 4), b: draw(OUT, 3) }),
  'b list': () => ({ a: draw(3, IN), b: Int32Array.of(1, 1, 3) }),
  'both lists': () => ({ a: Int32Array.of(2, 1), b: Int32Array.of(3, 0, 0), mid: draw(3, 2) }),
  'fewer ranks': () => ({ a: draw(4, IN), b: draw(OUT, 4), rank: 2, rankBias: draw(4) }),
  'fewer ranks, matrix': () => ({
    a: draw(4, IN),
    b: draw(OUT, 2),
    mid: draw(2, 4),
    rank: 3,
    act: 'gelu',
  }),
  'fewer ranks, diagonal': () => ({ a: draw(4, IN), b: draw(OUT, 4), mid: draw(4), rank: 1 }),
};

const NAMES = Object.keys(ADAPTERS);

function check(label: string, inputs: LoraLinearInputs, options: LoraLinearOptions = {}): void {
  const { y } = loraLinear(inputs, options);
  const dY = draws(99)(...y.shape);
  const loss = (): number => dot(loraLinear(inputs, options).y, dY);
  const got = loraLinearBackward({ ...inputs, dY }, options);
  const hold = (name: string, x: unknown, gradient: Tensor64 | undefined): void => {
    if (!gradient) throw new Error(`${label}: no gradient ${name}`);
    checkGradient(`${label}: ${name}`, loss, x as Tensor64, gradient);
  };
  hold('dx', inputs.x, got.dx);
  if (inputs.bias) hold('dBias', inputs.bias, got.dBias);
  else assert.is(got.dBias, undefined);
  if (inputs.routing?.kind === 'topK') hold('dGates', inputs.routing.gates, got.dGates);
  else assert.is(got.dGates, undefined);
  for (const [id, g] of got.adapters) {
    const adapter = inputs.adapters!.get(id)!;
    const pieces = ['a', 'b', 'mid', 'rankBias', 'baseScale', 'outBias'] as const;
    const names = { a: 'dA', b: 'dB', mid: 'dMid', rankBias: 'dRankBias' } as const;
    const more = { baseScale: 'dBaseScale', outBias: 'dOutBias' } as const;
    for (const piece of pieces) {
      const name = { ...names, ...more }[piece];
      const x = adapter[piece];
      if (x && !(x instanceof Int32Array)) hold(`${name} of ${id}`, x, g[name]);
      else assert.is(g[name], undefined);
    }
    const scale = { data: Float64Array.of(adapter.scale ?? 1), shape: [1] };
    const kept = adapter.scale;
    const scaled = (): number => {
      adapter.scale = scale.data[0];
      const value = loss();
      adapter.scale = kept;
      return value;
    };
    checkGradient(`${label}: dScale of ${id}`, scaled, scale, { data: [g.dScale], shape: [1] });
  }
}

const gradients = suite('loraLinear reference: gradients by central differences');

for (const [id, name] of NAMES.entries())
  gradients(name, () => {
    const adapters = new Map([[id, ADAPTERS[name]()]]);
    const given = { x: draw(ROWS, IN), base: draw(OUT, IN), adapters };
    const routing: LoraRouting = { kind: 'one', id };
    check('one', { ...given, routing, bias: draw(OUT) });
    check('no base', { ...given, base: null, routing, outFeatures: OUT });
    check('dropout', { ...given, routing }, { dropout: { p: 0.4, seed: 2 ** 40 + 7 } });
  });

const all = (): Map<number, Made> => new Map(NAMES.map((name, i) => [i + 10, ADAPTERS[name]()]));
const without = (name: string) => [...all().keys()].filter((id) => NAMES[id - 10] !== name);

gradients('routings', () => {
  const given = { x: draw(2, 3, IN), base: draw(OUT, IN), adapters: all(), bias: draw(OUT) };
  const tokens = Int32Array.of(12, -1, 25, 17, 12, 19);
  check('tokens', { ...given, routing: { kind: 'tokens', ids: tokens } });
  const indptr = BigInt64Array.of(0n, 2n, 2n, 5n, 6n);
  const ids = Int32Array.of(18, 12, -1, 19);
  check('segments', { ...given, routing: { kind: 'segments', indptr, ids } });
  const random = new Random(3);
  const pool = [-1, ...without('base scale')];
  const many = Int32Array.from({ length: 18 }, () => pool[random.integer(pool.length)]);
  check('topK', { ...given, routing: { kind: 'topK', k: 3, ids: many, gates: draw(6, 3) } });
  const twice = Int32Array.from({ length: 12 }, () => 15);
  check('twice', { ...given, routing: { kind: 'topK', k: 2, ids: twice, gates: draw(6, 2) } });
  const skip = { p: 0.5, seed: 1 };
  check('skip', { ...given, routing: { kind: 'tokens', ids: tokens } }, { skip });
});

gradients('identity, and no adapter at all', () => {
  const square = new Map<number, Made>([[3, { a: draw(2, IN), b: draw(IN, 2), act: 'gelu' }]]);
  const x = draw(ROWS, IN);
  check('identity', {
    x,
    base: 'identity',
    adapters: square,
    routing: { kind: 'one', id: 3 },
    bias: draw(IN),
  });
  check('alone', { x, base: draw(OUT, IN), bias: draw(OUT) });
});

gradients.run();

const pieces = suite('loraLinear reference: pieces');

pieces('by hand', () => {
  const adapter = {
    a: { data: [1, 2, 3, 4], shape: [2, 2] },
    b: { data: [1, 0, 0, 1], shape: [2, 2] },
    mid: { data: [0, 1, 1, 0], shape: [2, 2] },
    act: 'relu' as const,
    rankBias: { data: [-100, 1], shape: [2] },
    outBias: { data: [0.5, 0], shape: [2] },
    baseScale: { data: [2, 3], shape: [2] },
    scale: 10,
  };
  const { y, t } = loraLinear({
    x: { data: [1, 1], shape: [1, 2] },
    base: { data: [1, 1, 1, 0], shape: [2, 2] },
    adapters: new Map([[0, adapter]]),
    routing: { kind: 'one', id: 0 },
    bias: { data: [1000, 2000], shape: [2] },
  });
  assert.equal([...t[0]], [3, 7]);
  assert.equal([...y.data], [2 * 2 + 10 * (8 + 0.5) + 1000, 3 * 1 + 2000]);
});

pieces('the erf of gelu', () => {
  const known = [
    [0.5, 0.6914624612740131, 0.3085375387259869],
    [1, 0.8413447460685429, 0.15865525393145707],
    [3, 0.9986501019683699, 0.0013498980316300957],
    [4.9, 0.9999995208167234, 4.791832765903205e-7],
    [5.1, 0.9999998301732593, 1.6982674071476037e-7],
    [6, 0.9999999990134123, 9.865876450377012e-10],
  ];
  for (const [x, below, above] of known) {
    const [up, down] = activate('gelu', Float64Array.of(x, -x));
    assert.ok(Math.abs(up / x - below) < 1e-14, `${x}: ${up / x}`);
    assert.ok(Math.abs(-down / x - above) < 1e-14 && down < 0, `${-x}: ${-down / x}`);
  }
});

pieces('the self-gate: the largest, and of equal ones the first', () => {
  const u = Float64Array.of(1, 2, 2, -4);
  assert.equal([...activate({ topK: 1 }, u)], [0, 2, 0, 0]);
  const [first, second] = [Math.exp(0.4), Math.exp(0.2)];
  const phi = activate({ topK: 3 }, u);
  const sum = 2 * first + second;
  const expected = [second / sum, (2 * first) / sum, (2 * first) / sum, 0];
  for (const [i, x] of expected.entries()) assert.ok(Math.abs(phi[i] - x) < 1e-15, `${i}`);
  assert.equal([...activate({ topK: 2 }, new Float64Array(3))], [0, 0, 0]);
});

pieces('philox: its authors’ known answers', () => {
  const ones = 0xffffffff;
  const pi = [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344];
  assert.equal(philox([0, 0, 0, 0], [0, 0]), [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]);
  assert.equal(
    philox([ones, ones, ones, ones], [ones, ones]),
    [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd],
  );
  assert.equal(
    philox(pi, [0xa4093822, 0x299f31d0]),
    [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1],
  );
});

pieces('the dynamic map has 256 values from -0.993 to 1', () => {
  const map = dynamicMap();
  assert.is(map.length, 256);
  assert.is(new Set(map).size, 256);
  assert.ok(Math.abs(map[0] + 0.99296875) < 1e-12, `${map[0]}`);
  assert.equal([map[127], map[255]], [0, 1]);
});

pieces.run();
