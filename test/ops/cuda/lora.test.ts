/** loraLinear and its gradients on a device against float64: pieces, routings, sizes, formats, dtypes. */
import * as assert from 'uvu/assert';
import * as rankone from '../../../ts/index';
import { placed, test } from '../../support/device.ts';
import { decode, encode } from '../../support/half.ts';
import type { AdapterSketch, LoraCase } from '../../support/lora.ts';
import { makeCase, routingKinds, weightFormats } from '../../support/lora.ts';
import { checkCase } from '../../support/loraChecks.ts';
import { callThrough, native } from '../../support/native.ts';
import { Random } from '../../support/random.ts';

callThrough((name, f) => placed(name, f, 'cuda'));

const PIECES: Record<string, AdapterSketch> = {
  plain: { rank: 8 },
  'a matrix, wider': { rank: 5, width: 19, mid: 'matrix', scale: 0.5 },
  'a diagonal, biases': { rank: 9, mid: 'diagonal', rankBias: true, outBias: true, scale: 3 },
  gelu: { rank: 8, act: 'gelu', rankBias: true },
  'a self-gate': { rank: 11, act: { topK: 3 } },
  'base scale': { rank: 8, baseScale: true },
  'both lists': { rank: 12, aList: true, bList: true, mid: 'diagonal' },
  'fewer ranks of a list': { rank: 20, used: 5, aList: true },
  'fewer ranks, a matrix': { rank: 20, used: 3, width: 6, mid: 'matrix', act: 'silu' },
};

for (const [name, sketch] of Object.entries(PIECES))
  test(`float32: ${name}`, () => {
    checkCase({ rows: 6, in: 57, out: 45, adapters: [sketch], bias: true });
  });

for (const base of [...weightFormats, 'identity', null] as const)
  test(`base: ${base}`, () => {
    const [width, out] = base === 'identity' ? [49, 49] : [96, 45];
    const spec = { rows: 5, in: width, out, base, adapters: [{ rank: 4 }] } satisfies LoraCase;
    checkCase(spec);
    if (base !== 'identity') checkCase({ ...spec, in: 41 });
  });

for (const routing of routingKinds)
  for (const dtype of ['f32', 'bf16', 'f16'] as const)
    test(`${routing} in ${dtype}`, () => {
      const adapters: AdapterSketch[] = [
        { rank: 3 },
        { rank: 17, dtype },
        { rank: 8, act: 'relu' },
      ];
      const spec: LoraCase = { rows: 23, in: 40, out: 33, base: 'bf16', adapters, routing, dtype };
      checkCase(spec, { compute: 'f32' });
      if (dtype === 'bf16') checkCase({ ...spec, seed: 2 }, { compute: 'bf16' });
    });

test('dropout and skip draw what the CPU draws', () => {
  const adapters = [{ rank: 4 }, { rank: 6 }];
  const spec: LoraCase = { rows: 9, in: 64, out: 32, adapters, routing: 'tokens' };
  checkCase(spec, { dropout: { p: 0.3, seed: 2 ** 40 + 7 }, skip: { p: 0.5, seed: 3 } });
});

test('t of the forward serves the backward', () => {
  const made = makeCase({ rows: 7, in: 40, out: 24, adapters: [{ rank: 5, act: 'silu' }] });
  const { t } = native.loraLinearSync(made.inputs, { saveRank: true });
  const given = { ...made.inputs, dY: made.dY };
  const [own, again] = [{ ...given, t }, given].map((x) => native.loraLinearBackwardSync(x));
  assert.equal(own.dx, again.dx);
  assert.equal([...own.adapters], [...again.adapters]);
  made.dispose();
});

test('a packed weight stands for the same values as on the CPU', async () => {
  const random = new Random(3);
  for (const width of [1, 40, 77, 128])
    for (const format of weightFormats) {
      const weight = { data: random.normals(19 * width), shape: [19, width] };
      const cpu = rankone.packWeightSync(weight, { format });
      const there = rankone.packWeightSync(weight, { format, device: 'cuda' });
      const later = await rankone.packWeight(weight, { format, device: 'cuda:0' });
      assert.is(there.device, 'cuda:0');
      assert.equal(there.toTensor(), cpu.toTensor(), `${format}, ${width}`);
      assert.equal(later.toTensor(), cpu.toTensor(), `${format}, ${width}`);
      for (const packed of [cpu, there, later]) packed.dispose();
    }
});

test('adapters come and go', () => {
  const random = new Random(4);
  const [inFeatures, outFeatures] = [24, 20];
  const bank = rankone.createAdapterBank({ inFeatures, outFeatures, device: 'cuda' });
  assert.is(bank.device, 'cuda:0');
  const spec = (rank: number) => ({
    a: { data: random.normals(rank * inFeatures), shape: [rank, inFeatures] },
    b: { data: random.normals(rank * outFeatures), shape: [outFeatures, rank] },
  });
  const before = rankone.deviceMemory('cuda').usedBytes;
  const ids = [3, 9, 4].map((rank) => bank.load(spec(rank)));
  assert.equal(bank.ids(), ids);
  assert.ok(bank.memory().usedBytes > 0);
  bank.replace(ids[1], spec(2));
  bank.evict(ids[0]);
  assert.is(bank.has(ids[0]), false);
  const x = { data: random.normals(3 * inFeatures), shape: [3, inFeatures] };
  const call = (id: number) =>
    native.loraLinearSync({ x, base: null, bank, routing: { kind: 'one', id } }).y;
  assert.ok(decode(call(ids[1])).data.some((y) => y !== 0));
  assert.throws(() => call(ids[0]), /routing.id: expected -1 or the id of a loaded adapter/);
  assert.throws(() => bank.load(spec(0)), /expected from 1 to/);
  assert.is(bank.size, 2);
  bank.dispose();
  assert.is(rankone.deviceMemory('cuda').usedBytes, before);
  assert.throws(() => call(ids[1]), /bank: it has been disposed/);
});

test('half-width gates and an output of the caller', () => {
  const made = makeCase({ rows: 5, in: 24, out: 16, adapters: [{ rank: 3 }], routing: 'topK' });
  const { gates } = made.inputs.routing;
  const half = encode('bf16', gates);
  const routing = (given: object) => ({
    ...made.inputs,
    routing: { ...made.inputs.routing, gates: given },
  });
  const expected = native.loraLinearSync(routing(decode(half)));
  assert.equal(native.loraLinearSync(routing(half)), expected);
  const y = { data: new Float32Array(5 * 16).fill(Number.NaN), shape: [5, 16] };
  native.loraLinearSync(routing(half), { out: { y } });
  assert.equal(y.data, expected.y.data);
  made.dispose();
});

test.run();
