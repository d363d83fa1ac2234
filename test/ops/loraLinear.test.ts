/** The fused LoRA product and its gradients against float64: pieces, routings, sizes, formats, dtypes. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { createAdapterBank, info, loraLinearBackwardSync, loraLinearSync } from '../../ts/index';
import { activate, activateBackward } from '../reference/loraActivation.ts';
import { decode, halfDtypes } from '../support/half.ts';
import type { AdapterSketch, LoraCase } from '../support/lora.ts';
import { makeCase, routingKinds, weightFormats } from '../support/lora.ts';
import { checkCase, checkForward } from '../support/loraChecks.ts';
import { native } from '../support/native.ts';

const hasDot = info().isa === 'avx512bf16';

/** Every piece alone, and some together. */
const PIECES: Record<string, AdapterSketch> = {
  plain: { rank: 8 },
  scale: { rank: 8, scale: -2.5 },
  'mid, a matrix': { rank: 8, mid: 'matrix', scale: 0.5 },
  'mid, wider': { rank: 5, width: 19, mid: 'matrix' },
  'mid, narrower': { rank: 19, width: 3, mid: 'matrix' },
  'mid, a diagonal': { rank: 9, mid: 'diagonal' },
  relu: { rank: 8, act: 'relu' },
  gelu: { rank: 8, act: 'gelu' },
  silu: { rank: 8, act: 'silu' },
  'self-gate of 3': { rank: 11, act: { topK: 3 } },
  'self-gate of 1': { rank: 8, act: { topK: 1 } },
  'self-gate of all': { rank: 7, act: { topK: 7 } },
  'rank bias': { rank: 8, rankBias: true },
  'base scale': { rank: 8, baseScale: true },
  'output bias': { rank: 8, outBias: true, scale: 3 },
  'a list': { rank: 8, aList: true },
  'b list': { rank: 8, bList: true },
  'both lists': { rank: 12, aList: true, bList: true, mid: 'diagonal' },
  'lists and a matrix': { rank: 6, width: 10, aList: true, bList: true, mid: 'matrix' },
  'fewer ranks': { rank: 20, used: 9 },
  'fewer ranks of a list': { rank: 20, used: 5, aList: true },
  'fewer ranks to a list': { rank: 20, used: 11, bList: true },
  'fewer ranks, a matrix': { rank: 20, used: 3, width: 6, mid: 'matrix', act: 'silu' },
  'fewer ranks, a diagonal': { rank: 20, used: 16, mid: 'diagonal', rankBias: true },
  'a bottleneck': { rank: 16, act: 'gelu', rankBias: true, outBias: true, scale: 0.5 },
  everything: {
    rank: 24,
    used: 17,
    width: 12,
    mid: 'matrix',
    act: { topK: 5 },
    rankBias: true,
    baseScale: true,
    outBias: true,
    scale: 1.5,
  },
};

const pieces = suite('loraLinear: pieces');

for (const [name, sketch] of Object.entries(PIECES))
  pieces(name, () => {
    for (const rows of [1, 6, 40]) {
      const spec = { rows, in: 57, out: 45, adapters: [sketch], bias: rows > 1 };
      checkCase(spec);
      checkCase({ ...spec, base: null });
      checkCase({ ...spec, in: 45, base: 'identity' });
    }
    const routed: LoraCase = { rows: 30, in: 33, out: 100, adapters: [sketch, { rank: 3 }] };
    checkCase({ ...routed, routing: 'tokens' });
    checkCase({ ...routed, routing: 'segments', dtype: 'bf16' });
    if (!sketch.baseScale) checkCase({ ...routed, routing: 'topK', bias: true });
  });

pieces('gelu far below zero', () => {
  for (const u of [-2, -4, -5, -5.5, -7, -9]) {
    const bank = createAdapterBank({ inFeatures: 1, outFeatures: 1 });
    const one = { data: Float32Array.of(1), shape: [1, 1] };
    const routing = { kind: 'one', id: bank.load({ a: one, b: one, act: 'gelu' }) } as const;
    const x = { data: Float32Array.of(u), shape: [1, 1] };
    const { y } = loraLinearSync({ x, bank, routing });
    const { dx } = loraLinearBackwardSync({ x, dY: one, bank, routing });
    const [phi] = activate('gelu', Float64Array.of(u));
    const [slope] = activateBackward('gelu', Float64Array.of(u), Float64Array.of(1));
    assert.ok(Math.abs(y.data[0] / phi - 1) < 1e-5, `gelu(${u}) = ${phi}, got ${y.data[0]}`);
    assert.ok(Math.abs(dx.data[0] / slope - 1) < 1e-4, `gelu'(${u}) = ${slope}, got ${dx.data[0]}`);
    bank.dispose();
  }
});

pieces('factors of other dtypes', () => {
  for (const dtype of halfDtypes)
    for (const own of ['f32', dtype] as const)
      for (const rows of [1, 20])
        checkCase({ rows, in: 70, out: 41, dtype: own, adapters: [{ rank: 8, dtype }] });
});

pieces('activations of the largest numbers and of none', () => {
  const unit = { data: Float32Array.of(1, 0, 0, 1), shape: [2, 2] };
  const bank = createAdapterBank({ inFeatures: 2, outFeatures: 2 });
  const run = (act: 'relu' | { topK: number }, x: number[], back: boolean) => {
    const routing = { kind: 'one', id: bank.load({ a: unit, b: unit, act }) } as const;
    const inputs = { x: { data: Float32Array.from(x), shape: [1, 2] }, base: null, bank, routing };
    const dY = { data: Float32Array.of(1, 1), shape: [1, 2] };
    return back ? loraLinearBackwardSync({ ...inputs, dY }).dx : loraLinearSync(inputs).y;
  };
  // s = t / |t| whatever the size of t, whose square float32 does not hold
  const [first, second] = run({ topK: 2 }, [3e38, 2e38], false).data;
  const share = Math.exp(1 / Math.hypot(3, 2));
  assert.ok(Math.abs(first / ((3e38 * share) / (share + 1)) - 1) < 1e-6);
  assert.ok(Math.abs(second / (2e38 / (share + 1)) - 1) < 1e-6);
  // 0 times NaN: both ranks are none
  assert.equal([...run('relu', [Number.NaN, -1], true).data], [1, 1]);
  bank.dispose();
});

pieces.run();

const routings = suite('loraLinear: routings');

/** Mixed ranks and pieces. */
const MIXED: AdapterSketch[] = [
  { rank: 1 },
  { rank: 16, scale: 2 },
  { rank: 64, mid: 'diagonal' },
  { rank: 5, act: 'relu', rankBias: true, outBias: true },
  { rank: 33, used: 7 },
  { rank: 3, aList: true },
  { rank: 8, bList: true },
];

for (const routing of routingKinds)
  routings(`${routing}: mixed adapters`, () => {
    const adapters = routing === 'topK' ? MIXED : [...MIXED, { rank: 4, baseScale: true }];
    for (const rows of [1, 2, 7, 8, 9, 31, 64, 130, 530])
      for (const base of ['f32', 'nf4', null] as const) {
        if (base !== 'f32' && rows > 64) continue;
        const spec = { rows, in: 100, out: 33, routing, adapters, base, bias: true, seed: rows };
        checkCase(spec, {}, { cancels: rows < 10 });
      }
  });

routings('topK of every width', () => {
  for (const k of [1, 3, 5])
    checkCase({ rows: 37, in: 33, out: 57, routing: 'topK', k, adapters: MIXED });
  const adapters = [{ rank: 4, baseScale: true }];
  checkCase({ rows: 9, in: 33, out: 57, routing: 'topK', k: 1, adapters });
});

routings('gates of other dtypes', () => {
  for (const dtype of halfDtypes) {
    const spec: LoraCase = { rows: 9, in: 20, out: 30, routing: 'topK', adapters: MIXED };
    const made = makeCase(spec);
    const gates = makeCase({ rows: 9, in: 2, out: 2, dtype }).inputs.x;
    made.inputs.routing = { ...made.inputs.routing, gates };
    made.reference.routing = { ...made.inputs.routing, gates: decode(gates) };
    checkForward(spec, made);
    made.dispose();
  }
});

routings('more axes than two, and none at all', () => {
  const made = makeCase({ rows: 12, in: 20, out: 30, routing: 'tokens', adapters: MIXED });
  const { x } = made.inputs;
  const flat = native.loraLinearSync(made.inputs).y;
  const inputs = { ...made.inputs, x: { ...x, shape: [2, 3, 2, 20] } };
  const { y } = native.loraLinearSync(inputs);
  assert.equal(y.shape, [2, 3, 2, 30]);
  assert.equal(y.data, flat.data);
  const dY = { ...made.dY, shape: [2, 3, 2, 30] };
  assert.equal(native.loraLinearBackwardSync({ ...inputs, dY }).dx.shape, [2, 3, 2, 20]);
  made.dispose();
  const one = makeCase({ rows: 1, in: 20, out: 30, adapters: [{ rank: 4 }] });
  const vector = { ...one.inputs.x, shape: [20] };
  const single = native.loraLinearSync({ ...one.inputs, x: vector }).y;
  assert.equal(single.shape, [30]);
  assert.equal(single.data, native.loraLinearSync(one.inputs).y.data);
  one.dispose();
});

routings('no rows', () => {
  for (const routing of routingKinds)
    for (const base of ['f32', 'q4', null] as const)
      checkCase({ rows: 0, in: 20, out: 30, routing, adapters: MIXED, base, bias: true });
});

routings('no adapter: the base product alone', () => {
  for (const base of weightFormats)
    for (const rows of [1, 5, 40]) checkCase({ rows, in: 65, out: 70, base, bias: rows > 1 });
});

routings.run();

const sizes = suite('loraLinear: sizes');

const SIZES = [1, 7, 33, 100, 257];

for (const width of SIZES)
  sizes(`in ${width}, every out`, () => {
    for (const out of SIZES)
      for (const rows of [1, 3, 26]) {
        const adapters = [{ rank: 4, scale: 2 }];
        const spec = { rows, in: width, out, adapters };
        const cancels = out === 1 || width === 1; // sums of few terms
        checkCase({ ...spec, seed: rows }, {}, { cancels });
        checkCase({ ...spec, base: 'int8', routing: 'tokens' }, {}, { cancels });
      }
  });

sizes('every rank from 1 to 70, and up to 512', () => {
  for (let rank = 1; rank <= 70; rank++)
    checkCase({ rows: 1 + (rank % 11), in: 40, out: 37, adapters: [{ rank }] });
  for (const rank of [96, 127, 128, 129, 200, 255, 256, 257, 384, 511, 512])
    for (const rows of [1, 13]) {
      checkCase({ rows, in: 65, out: 50, adapters: [{ rank }] });
      checkCase({ rows, in: 65, out: 50, adapters: [{ rank: 3, width: rank, mid: 'matrix' }] });
    }
});

sizes('every number of rows from 1 to 70, and blocks of them', () => {
  const adapters = [{ rank: 5 }, { rank: 18 }];
  for (let rows = 1; rows <= 70; rows++)
    for (const routing of ['one', 'tokens'] as const)
      checkCase({ rows, in: 34, out: 35, adapters, routing });
  for (const rows of [127, 128, 511, 512, 513, 1023, 1025, 1100])
    for (const routing of ['one', 'segments', 'topK'] as const)
      checkCase({ rows, in: 34, out: 35, adapters, routing });
});

sizes('depths that are cut into blocks', () => {
  const adapters = [{ rank: 7 }, { rank: 40 }];
  for (const width of [2047, 2048, 2049, 2100, 4096, 4500, 8300])
    for (const rows of [1, 5, 30])
      for (const base of ['f32', 'bf16', 'int8', 'nf4'] as const) {
        if (width > 4500 && base !== 'int8') continue;
        checkCase({ rows, in: width, out: 33, adapters, routing: 'tokens', base });
      }
  checkCase({ rows: 520, in: 2100, out: 17, adapters, routing: 'segments' });
});

sizes('outputs that are cut into chunks', () => {
  const adapters = [{ rank: 7 }, { rank: 40, baseScale: true }];
  for (const rows of [1, 6, 40])
    checkCase({ rows, in: 30, out: 3001, adapters, routing: 'tokens' });
});

sizes.run();

const formats = suite('loraLinear: formats and dtypes');

const SKETCHES = [
  { rank: 8, scale: 2 },
  { rank: 21, outBias: true },
];

for (const base of weightFormats)
  for (const dtype of ['f32', ...halfDtypes] as const)
    formats(`${base}, x of ${dtype}`, () => {
      for (const routing of routingKinds)
        for (const [rows, width, out] of [
          [1, 130, 70],
          [2, 33, 100],
          [9, 95, 33],
          [50, 257, 65],
        ])
          checkCase({ rows, in: width, out, base, dtype, routing, adapters: SKETCHES, bias: true });
    });

formats('dropout and skip: the masks are those of the definition', () => {
  const spec: LoraCase = { rows: 30, in: 57, out: 40, adapters: MIXED, routing: 'tokens' };
  for (const seed of [0, 7, 2 ** 32 + 5, 2 ** 53 - 1]) {
    checkCase(spec, { dropout: { p: 0.3, seed } });
    checkCase(spec, { skip: { p: 0.5, seed } });
  }
  for (const p of [0, 0.999]) checkCase(spec, { dropout: { p, seed: 3 }, skip: { p, seed: 3 } });
  for (const routing of routingKinds)
    for (const rows of [1, 20, 600]) {
      const adapters = [{ rank: 8 }, { rank: 3, aList: true }];
      checkCase({ ...spec, rows, routing, adapters }, { dropout: { p: 0.5, seed: 9 } });
    }
  for (const dtype of halfDtypes) checkCase({ ...spec, dtype }, { dropout: { p: 0.5, seed: 9 } });
});

if (hasDot)
  for (const base of [...weightFormats, null])
    formats(`products in bf16, ${base}`, () => {
      for (const dtype of ['f32', 'bf16'] as const)
        for (const routing of routingKinds)
          for (const [rows, width, out] of [
            [1, 130, 70],
            [6, 33, 100],
            [50, 257, 65],
            [13, 2100, 40],
          ]) {
            const spec = { rows, in: width, out, base, dtype, routing, adapters: SKETCHES };
            checkCase(spec, { compute: 'bf16' });
          }
    });
else
  formats('products in bf16 need their instructions', () => {
    const made = makeCase({ rows: 3, in: 8, out: 8, adapters: SKETCHES });
    const pattern = /compute: expected 'f32' on this instruction set .* got 'bf16'$/;
    assert.throws(() => native.loraLinearSync(made.inputs, { compute: 'bf16' }), pattern);
    const inputs = { ...made.inputs, dY: made.dY };
    assert.throws(() => native.loraLinearBackwardSync(inputs, { compute: 'bf16' }), pattern);
    made.dispose();
  });

formats.run();
