// Whole layers against what their published implementations gave for the same weights (test/fixtures/layers), and against
// themselves: prompts in pieces, decode, packed sequences, packed weights.
import { readdirSync } from 'node:fs';
import path from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { packWeightSync, type Tensor } from '../../ts/index';
import * as layers from '../../ts/layers/index';
import { decode, encode } from '../support/half.ts';
import { readSafetensors } from '../support/safetensors.ts';
import { sameBits, throwsWith } from './helpers.ts';

const test = suite('layers');
const folder = path.join(__dirname, '../fixtures/layers');

/** The layer of each file, by the beginning of its name. */
const LAYERS: readonly [file: string, layer: string][] = [
  ['delta_net', 'deltaNetLayer'],
  ['delta_product', 'gatedDeltaProductLayer'],
  ['gated_delta_product', 'gatedDeltaProductLayer'],
  ['gated_deltanet', 'gatedDeltaNetLayer'],
  ['gla', 'glaLayer'],
  ['hgrn2', 'hgrn2Layer'],
  ['kda', 'kdaLayer'],
  ['mamba2', 'mamba2Layer'],
  ['qwen3_next', 'qwen3NextLayer'],
  ['retention', 'retentionLayer'],
  ['rwkv7', 'rwkv7Layer'],
];

interface Case {
  name: string;
  layer: string;
  x: Tensor;
  y: Tensor;
  weights: Record<string, Tensor>;
  options: any;
  /** Of RWKV-7: what the first layer gives and the others take. */
  vFirst?: Tensor;
}

function load(file: string): Case {
  const { tensors, metadata } = readSafetensors(path.join(folder, file));
  const name = file.replace('.safetensors', '');
  const found = LAYERS.find(([prefix]) => name.startsWith(prefix));
  assert.ok(found, `a layer for ${file}`);
  const weights: Record<string, any> = Object.fromEntries(
    [...tensors].map(([key, { data, shape }]) => [key, { data, shape }]),
  );
  const { x, y, lowerBound, vFirst, ...rest } = weights;
  const options = JSON.parse(metadata.options);
  if (lowerBound) options.lowerBound = lowerBound;
  return { name, layer: found[1], x, y, weights: rest, options, vFirst };
}

const run = (name: string, inputs: object, options: object): any =>
  (layers as any)[`${name}Sync`](inputs, options);

function near(label: string, actual: Tensor, expected: Tensor, limit: number): void {
  assert.equal(actual.shape, expected.shape, label);
  let error = 0;
  let norm = 0;
  for (let i = 0; i < expected.data.length; i++) {
    error += (actual.data[i] - expected.data[i]) ** 2;
    norm += expected.data[i] ** 2;
  }
  assert.ok(norm > 0, label);
  assert.ok(Math.sqrt(error / norm) <= limit, `${label}: ${Math.sqrt(error / norm)} > ${limit}`);
}

/** Tokens `[begin, end)` of x `[B,T,D]`. */
function slice({ data, shape: [B, T, D] }: Tensor, begin: number, end: number): Tensor {
  const part = new Float32Array(B * (end - begin) * D);
  for (let b = 0; b < B; b++)
    part.set(data.subarray((b * T + begin) * D, (b * T + end) * D), b * (end - begin) * D);
  return { data: part, shape: [B, end - begin, D] };
}

for (const file of readdirSync(folder).sort()) {
  const { name, layer, x, y, weights, options, vFirst } = load(file);
  const given = vFirst && name !== 'rwkv7_first' ? vFirst : undefined;

  test(`${name}: as published`, async () => {
    const inputs = { x, weights, ...(given && { vFirst: given }) };
    const whole = run(layer, inputs, options);
    near(name, whole.y, y, 3e-6);
    if (vFirst) near('vFirst', whole.vFirst, vFirst, 3e-6);
    const promised = await (layers as any)[layer](inputs, options);
    sameBits(promised.y, whole.y);
  });

  test(`${name}: a prompt in pieces and decode give what one call gives`, () => {
    const [, T] = x.shape;
    const cache = layers.createLayerCache();
    const steps = Array.from({ length: T - 9 }, (_, i) => [9 + i, 10 + i]);
    for (const [begin, end] of [[0, 5], [5, 5], [5, 9], ...steps]) {
      const first = given && { vFirst: slice(given, begin, end) };
      const piece = run(layer, { x: slice(x, begin, end), weights, cache, ...first }, options);
      if (end > begin) near(`${name} ${begin}`, piece.y, slice(y, begin, end), 5e-6);
      assert.equal(cache.lengths, [end, end]);
    }
    cache.dispose();
  });

  test(`${name}: packed sequences, an empty one between them, twice with a cache`, () => {
    const [B, T, D] = x.shape;
    const cuSeqlens = new Int32Array([0, T, T, 2 * T]);
    const flat = (tensor: Tensor): Tensor => ({
      ...tensor,
      shape: [1, B * T, tensor.shape[2]],
    });
    const cache = layers.createLayerCache();
    const inputs = { x: flat(x), weights, cache, ...(given && { vFirst: flat(given) }) };
    near(name, run(layer, inputs, { ...options, cuSeqlens }).y, flat(y), 5e-6);
    assert.equal(cache.lengths, [T, 0, T]);
    // Another token for each sequence, the empty one's its first.
    const next = { ...slice(x, 0, 1), shape: [1, B, D] };
    const token = (tensor: Tensor, parts: number[]): Tensor => {
      const width = tensor.shape[2];
      const rows = parts.map((row) => tensor.data.subarray(row * width, (row + 1) * width));
      return { data: Float32Array.from(rows.flatMap((row) => [...row])), shape: [1, 3, width] };
    };
    const later = { x: token(next, [0, 0, 1]), weights, cache };
    const firsts = given && { ...slice(given, 0, 1), shape: [1, B, given.shape[2]] };
    const packed = run(
      layer,
      { ...later, ...(firsts && { vFirst: token(firsts, [0, 0, 1]) }) },
      { ...options, cuSeqlens: new Int32Array([0, 1, 2, 3]) },
    ).y;
    const alone = layers.createLayerCache();
    const both = { x, weights, cache: alone, ...(given && { vFirst: given }) };
    run(layer, both, options);
    const again = run(
      layer,
      { x: slice(x, 0, 1), weights, cache: alone, ...(given && { vFirst: slice(given, 0, 1) }) },
      options,
    ).y;
    near(
      `${name} 0`,
      slice(packed, 0, 1),
      { data: again.data.subarray(0, D), shape: [1, 1, D] },
      5e-6,
    );
    near(`${name} 1`, slice(packed, 1, 2), { data: y.data.subarray(0, D), shape: [1, 1, D] }, 5e-6);
    near(
      `${name} 2`,
      slice(packed, 2, 3),
      { data: again.data.subarray(D), shape: [1, 1, D] },
      5e-6,
    );
    cache.dispose();
    alone.dispose();
  });

  test(`${name}: packed weights`, () => {
    const packed = layers.packLayerWeights(weights);
    const names = Object.keys(packed).filter((key) => packed[key] !== weights[key]);
    assert.ok(names.length >= 2 && names.every((key) => /proj/.test(key) || /lora/.test(key)));
    const inputs = { x, weights: packed, ...(given && { vFirst: given }) };
    near(name, run(layer, inputs, options).y, y, 3e-6);
  });
}

const { x, weights, options } = load('gated_deltanet.safetensors');
const gdn = (inputs: object, more: object = {}): any =>
  layers.gatedDeltaNetLayerSync({ x, weights, ...inputs } as any, { ...options, ...more });

test('a cache: a copy goes its own way, reset() begins anew, and what does not fit is refused', () => {
  const cache = layers.createLayerCache();
  assert.equal([cache.lengths, cache.state], [[], undefined]);
  const first = gdn({ cache }).y;
  const copy = cache.clone();
  const second = gdn({ cache }).y;
  sameBits(gdn({ cache: copy }).y, second);
  assert.ok(second.data.some((value: number, i: number) => value !== first.data[i]));
  assert.equal(cache.lengths, [26, 26]);

  const one = { ...x, data: x.data.subarray(0, x.data.length / 2), shape: [1, 13, 24] };
  throwsWith(
    () => gdn({ x: one, cache }),
    RangeError,
    /^\[gatedDeltaNetLayer\] cache: expected one of 1 sequences, got one of 2$/,
  );
  cache.reset();
  sameBits(gdn({ cache }).y, first);
  const other = load('delta_net.safetensors');
  throwsWith(
    () =>
      layers.deltaNetLayerSync({ x: other.x, weights: other.weights as any, cache }, other.options),
    RangeError,
    /cache: expected one with inputs \[N,C,W-1\] = \[2,24,3\] of q_conv1d, got one with \[2,16,3\]/,
  );
  sameBits(gdn({ cache }).y, second);

  const { x: bare, weights: plain, options: how } = load('delta_net_elu.safetensors');
  cache.reset();
  const inputs = { x: bare, weights: plain as any, cache };
  layers.deltaNetLayerSync(inputs, how);
  throwsWith(
    () => layers.deltaNetLayerSync(inputs, { ...how, heads: 4 }),
    RangeError,
    /cache: expected one with a state \[N,HV,K,V\] = \[2,4,6,6\], got one with \[2,2,12,12\]/,
  );
  layers.deltaNetLayerSync(inputs, how);

  const gone = packWeightSync(plain['o_proj.weight'], { format: 'f32' });
  gone.dispose();
  const broken = { ...inputs, weights: { ...plain, 'o_proj.weight': gone } as any };
  throwsWith(() => layers.deltaNetLayerSync(broken, how), Error, /disposed/);
  throwsWith(() => layers.deltaNetLayerSync(inputs, how), Error, /needs reset\(\)/);
  cache.reset();
  layers.deltaNetLayerSync(inputs, how);
  cache.dispose();
  cache.dispose();
  assert.ok(cache.disposed);
  throwsWith(() => gdn({ cache }), Error, /has been disposed/);
  throwsWith(() => cache.clone(), Error, /has been disposed/);
});

test('a cache serves one call at a time, and x is copied at the call', async () => {
  const cache = layers.createLayerCache();
  const mine = { ...x, data: x.data.slice() };
  const pending = layers.gatedDeltaNetLayer({ x: mine, weights: weights as any, cache }, options);
  throwsWith(() => gdn({ cache }), Error, /in use by a call/);
  throwsWith(() => cache.dispose(), Error, /in use by a call/);
  mine.data.fill(Number.NaN);
  sameBits((await pending).y, gdn({}).y);
  cache.dispose();
});

test('a call that is aborted before its recurrence leaves the cache as it was', async () => {
  const cache = layers.createLayerCache();
  gdn({ cache });
  const signal = AbortSignal.abort(new Error('enough'));
  const call = layers.gatedDeltaNetLayer(
    { x, weights: weights as any, cache },
    { ...options, signal },
  );
  await call.then(
    () => assert.unreachable(),
    (error) => assert.is(error.message, 'enough'),
  );
  assert.equal(cache.lengths, [13, 13]);
  const copy = layers.createLayerCache();
  gdn({ cache: copy });
  sameBits(gdn({ cache }).y, gdn({ cache: copy }).y);
});

test('weights: what is missing, misspelt or of another shape or dtype is named', () => {
  const without = (name: string): object =>
    Object.fromEntries(Object.entries(weights).filter(([key]) => key !== name));
  const refused = (inputs: object, kind: any, pattern: RegExp): void =>
    throwsWith(() => gdn(inputs), kind, pattern);
  refused(
    { weights: without('A_log') },
    TypeError,
    /^\[gatedDeltaNetLayer\] A_log: expected a tensor/,
  );
  refused({ weights: without('q_proj.weight') }, TypeError, /q_proj\.weight: expected a tensor/);
  refused({ weights: { ...weights, 'q_proj.wieght': x } }, TypeError, /nearest: q_proj\.weight/);
  refused({ weights: [] }, TypeError, /weights: expected tensors by name, got an array/);
  const short = { data: new Float32Array(3 * 24), shape: [3, 24] };
  refused(
    { weights: { ...weights, 'a_proj.weight': short } },
    RangeError,
    /a_proj\.weight: expected shape \[4,24\], got \[3,24\]/,
  );
  refused(
    { weights: { ...weights, 'q_proj.weight': { ...short, shape: [24, 3] } } },
    RangeError,
    /q_proj\.weight: expected shape \[out,24\], got \[24,3\]/,
  );
  const half = { data: new Uint16Array(16 * 24), shape: [16, 24], dtype: 'bf16' };
  refused(
    { weights: { ...weights, 'q_proj.weight': half } },
    TypeError,
    /q_proj\.weight: expected the dtype of x, f32, or a packed weight, got bf16/,
  );
  refused({ x: { ...x, shape: [26, 24] } }, RangeError, /x: expected shape \[B,T,D\]/);
  refused({ cache: {} }, TypeError, /cache: expected one of createLayerCache\(\)/);
  throwsWith(() => gdn({}, { heads: 3 }), RangeError, /heads/);
  throwsWith(() => gdn({}, { head: 2 }), TypeError, /head: expected one of .* nearest: heads/);
  throwsWith(() => gdn({}, { cuSeqlens: new Int32Array([0, 13]) }), RangeError, /batch 1/);
});

test('half precision: results are those of float32 within its rounding', () => {
  const names = Object.keys(weights).filter((key) => /proj/.test(key));
  const rounded = Object.fromEntries(
    Object.entries(weights).map(([key, value]) => [
      key,
      names.includes(key) ? encode('bf16', value as any) : value,
    ]),
  );
  const { y } = gdn({ x: encode('bf16', x as any), weights: rounded });
  assert.is(y.dtype, 'bf16');
  near('bf16', decode(y) as any, gdn({}).y, 2e-2);
});

test('layerTensors takes those of one layer', () => {
  const tensors = new Map([
    ['model.layers.0.attn.A_log', 1],
    ['model.layers.1.attn.A_log', 2],
  ]);
  assert.equal(layers.layerTensors(tensors, 'model.layers.1.attn.'), { A_log: 2 });
  assert.equal(layers.layerTensors({ 'a.b': 1, b: 2 }, 'a.'), { b: 1 });
  const none = () => layers.layerTensors(tensors, 'model.layer.1.');
  throwsWith(none, RangeError, /^\[layerTensors\] prefix: .*got 'model\.layer\.1\.'/);
  const nothing = () => layers.layerTensors(undefined as any, '');
  throwsWith(nothing, TypeError, /^\[layerTensors\] tensors: expected/);
});

test('packLayerWeights refuses what it does not know', () => {
  const typo = () => layers.packLayerWeights({}, { fromat: 'nf4' } as any);
  throwsWith(typo, TypeError, /^\[packLayerWeights\] fromat: .*nearest: format/);
  const list = () => layers.packLayerWeights(undefined as any);
  throwsWith(list, TypeError, /^\[packLayerWeights\] weights: expected/);
});

test.run();
