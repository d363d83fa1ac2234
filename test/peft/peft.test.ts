// Adapters as PEFT saves them.
import fs from 'node:fs';
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import { isDeepStrictEqual } from 'node:util';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import {
  type PeftModules,
  readPeftConfig,
  readPeftConfigSync,
  readPeftSync,
  writePeft,
  writePeftSync,
} from '../../ts/index';
import { A, CONFIG, factors, M, P, Q, read, reading, SIZES } from './adapters';
import { counted, fresh, type Raw, refused, unpacked, words, writeAdapter } from './files';

/** Reads a folder, writes what was read, and holds both against each other. */
async function roundTrip(
  tensors: Record<string, Raw>,
  config: unknown,
  modules?: PeftModules,
  expected = tensors,
): Promise<Map<string, any>> {
  const folder = writeAdapter(tensors, config);
  const adapters = readPeftSync(folder, modules);
  const json = readPeftConfigSync(folder);
  assert.equal(await readPeftConfig(folder), json);
  const [sync, async] = [fresh('again'), fresh('again')];
  writePeftSync(sync, adapters, json);
  await writePeft(pathToFileURL(async), adapters, json);
  for (const again of [sync, async]) {
    const file = path.join(again, 'adapter_model.safetensors');
    const names = Object.keys(expected).sort();
    const written = unpacked(file);
    assert.equal(Object.keys(written).sort(), names);
    for (const name of names)
      assert.equal(
        written[name],
        { ...expected[name], bytes: Uint8Array.from(expected[name].bytes) },
        name,
      );
    assert.match(fs.readFileSync(file).toString('latin1'), '"__metadata__":{"format":"pt"}');
    assert.equal(
      JSON.parse(fs.readFileSync(path.join(again, 'adapter_config.json'), 'utf8')),
      JSON.parse(typeof config === 'string' ? config : JSON.stringify(config)),
    );
    assert.ok(isDeepStrictEqual(readPeftSync(again, modules), adapters));
  }
  return adapters;
}

test('a linear layer', async () => {
  const adapters = await roundTrip(factors(Q), CONFIG);
  assert.equal([...adapters.keys()], [Q]);
  const { kind, a, b, scale } = adapters.get(Q);
  assert.is(kind, 'linear');
  assert.is(scale, 2);
  assert.equal(a, { data: new Float32Array([1, 2, 3, 4, 5, 6]), shape: [2, 3], dtype: 'f32' });
  assert.equal(b.shape, [5, 2]);
  assert.equal([...b.data], [100, 101, 102, 103, 104, 105, 106, 107, 108, 109]);
});

test('half-precision factors keep their bits', async () => {
  const nan = [0x7fc1, 0xffff, 0x8000];
  const adapters = await roundTrip(
    {
      [`${P}${Q}.lora_A.weight`]: words('BF16', [1, 3], nan),
      [`${P}${Q}.lora_B.weight`]: words('F16', [3, 1], nan),
    },
    { ...CONFIG, r: 1 },
  );
  const { a, b } = adapters.get(Q);
  assert.equal(a, { data: new Uint16Array(nan), shape: [1, 3], dtype: 'bf16' });
  assert.equal(b, { data: new Uint16Array(nan), shape: [3, 1], dtype: 'f16' });
});

test('ranks and scales of their own', async () => {
  const K = 'model.layers.0.self_attn.k_proj';
  const adapters = await roundTrip(
    { ...factors(Q, 3, 5, 4), ...factors(K) },
    {
      ...CONFIG,
      target_modules: '.*self_attn.*',
      use_rslora: true,
      rank_pattern: { q_proj: 4 },
      alpha_pattern: { '.*k_proj': 7 },
    },
  );
  assert.is(adapters.get(Q).scale, 2);
  assert.is(adapters.get(K).scale, 7 / Math.sqrt(2));
});

test('DoRA, and the bias of lora_B', async () => {
  const magnitude = { [`${P}${Q}.lora_magnitude_vector`]: counted([5], 7) };
  const dora = await roundTrip({ ...factors(Q), ...magnitude }, { ...CONFIG, use_dora: true });
  assert.equal([...dora.get(Q).magnitude.data], [7, 8, 9, 10, 11]);
  const bias = { [`${P}${Q}.lora_B.bias`]: counted([5], 3) };
  const biased = await roundTrip({ ...factors(Q), ...bias }, { ...CONFIG, lora_bias: true });
  assert.equal([...biased.get(Q).outBias.data], [3, 4, 5, 6, 7]);
});

test('an embedding', async () => {
  const E = 'model.embed_tokens';
  const tensors = {
    [`${P}${E}.lora_embedding_A`]: counted([2, 11]),
    [`${P}${E}.lora_embedding_B`]: counted([4, 2]),
    [`${P}${E}.base_layer.weight`]: counted([11, 4]),
    [`${P}lm_head.weight`]: counted([11, 4]),
  };
  const config = { ...CONFIG, target_modules: ['embed_tokens'] };
  const modules: PeftModules = {
    [E]: { inFeatures: 11, outFeatures: 4, kind: 'embedding' },
    lm_head: { inFeatures: 4, outFeatures: 9 },
  };
  const adapters = await roundTrip(tensors, config, modules);
  const { kind, a, b, scale, saved } = adapters.get(E);
  assert.is(kind, 'embedding');
  assert.is(scale, 2);
  assert.equal(
    [a.shape, b.shape],
    [
      [2, 11],
      [4, 2],
    ],
  );
  assert.equal([...saved.keys()], ['weight']);
  assert.is(adapters.get('lm_head').kind, 'saved');
});

test('an embedding of another name, its table in front of its factors', async () => {
  const tensors = {
    [`${P}wte.base_layer.weight`]: counted([11, 4]),
    [`${P}wte.lora_embedding_A`]: counted([2, 11]),
    [`${P}wte.lora_embedding_B`]: counted([4, 2]),
  };
  const adapters = await roundTrip(tensors, { ...CONFIG, target_modules: ['wte'] });
  assert.equal([...adapters.get('wte').saved.keys()], ['weight']);
});

test('saved layers of a model whose layers are stored in both ways', async () => {
  const modules = { ...SIZES, score: { inFeatures: 3, outFeatures: 2 } };
  const config = { ...CONFIG, modules_to_save: ['score'], fan_in_fan_out: true };
  for (const shape of [
    [2, 3],
    [3, 2],
  ]) {
    const tensors = { ...factors(Q), [`${P}score.weight`]: counted(shape) };
    assert.is((await read(tensors, config, modules)).get('score').kind, 'saved');
  }
});

test('a saved tensor that is neither weight nor bias has any shape', async () => {
  const tensors = { ...factors(Q), [`${P}score.steps`]: counted([7]) };
  const modules = { ...SIZES, score: { inFeatures: 3, outFeatures: 2 } };
  await roundTrip(tensors, { ...CONFIG, modules_to_save: ['score'] }, modules);
});

test('modules that are saved whole', async () => {
  const adapters = await roundTrip(
    {
      ...factors(Q),
      [`${P}score.weight`]: counted([2, 3]),
      [`${P}pooler.dense.weight`]: counted([3, 3]),
      [`${P}pooler.dense.bias`]: counted([3]),
      [`${P}pooler.steps`]: { dtype: 'I64', shape: [], bytes: new Uint8Array(8).fill(1) },
    },
    { ...CONFIG, modules_to_save: ['score', 'pooler', 'classifier'] },
  );
  assert.equal(adapters.get('score').kind, 'saved');
  const { saved } = adapters.get('pooler');
  assert.equal([...saved.keys()].sort(), ['dense.bias', 'dense.weight', 'steps']);
  assert.equal(saved.get('steps').data, new BigInt64Array([0x0101010101010101n]));
});

test('biases that were trained', async () => {
  const own = { [`${P}${Q}.base_layer.bias`]: counted([5], 9) };
  const adapters = await roundTrip({ ...factors(Q), ...own }, { ...CONFIG, bias: 'lora_only' });
  assert.equal([...adapters.get(Q).saved.get('bias').data], [9, 10, 11, 12, 13]);
  const others = { ...own, [`${P}model.norm.bias`]: counted([3], 1) };
  const all = await roundTrip({ ...factors(Q), ...others }, { ...CONFIG, bias: 'all' });
  assert.equal([...all.get('model.norm').saved.get('bias').data], [1, 2, 3]);
});

/** As PEFT computes with them: experts outside in the rows of A, inside in the columns of B. */
const [E, R] = [3, 2];

test('factors of a parameter of experts', async () => {
  const tensors = {
    [`${P}${M}.lora_A.weight`]: counted([R * E, 4]),
    [`${P}${M}.lora_B.weight`]: counted([5, R * E]),
  };
  const config = { ...CONFIG, target_modules: [], target_parameters: ['experts.down_proj'] };
  const path = `${M}.down_proj`;
  const adapters = await roundTrip(tensors, config);
  assert.equal([...adapters.keys()], [path]);
  const { kind, a, b, scale } = adapters.get(path);
  assert.is(kind, 'experts');
  assert.is(scale, 2);
  assert.equal(a.shape, [E, R, 4]);
  assert.equal(b.shape, [E, 5, R]);
  for (let e = 0; e < E; e++)
    for (let k = 0; k < R; k++) {
      for (let i = 0; i < 4; i++) assert.is(a.data[(e * R + k) * 4 + i], (e * R + k) * 4 + i);
      for (let o = 0; o < 5; o++) assert.is(b.data[(e * 5 + o) * R + k], o * R * E + k * E + e);
    }
  const sized = { [path]: { inFeatures: 4, outFeatures: 5, experts: E } };
  assert.equal(await read(tensors, config, sized), adapters);
  await refused(
    reading(tensors, config, { [path]: { inFeatures: 5, outFeatures: 4, experts: E } }),
    RangeError,
    `"${P}${M}.lora_A.weight": expected shape [r,in] = [6,5], got [6,4]: in and out are swapped`,
  );
  await refused(
    reading(tensors, config, { [path]: { inFeatures: 4, outFeatures: 5, experts: 2 } }),
    RangeError,
    'expected shape [r,in] = [4,4], got [6,4]',
  );
});

test('two parameters of one module: the inner one is the one that it defines first', async () => {
  const tensors = {
    [`${P}${M}.base_layer.lora_A.weight`]: counted([R * E, 4]),
    [`${P}${M}.base_layer.lora_B.weight`]: words('BF16', [6, R * E], [...Array(36).keys()]),
    [`${P}${M}.lora_A.weight`]: counted([E, 3]),
    [`${P}${M}.lora_B.weight`]: counted([4, E]),
  };
  const config = {
    ...CONFIG,
    target_modules: null,
    rank_pattern: { down_proj: 1 },
    target_parameters: ['experts.down_proj', 'experts.gate_up_proj'],
  };
  const modules = new Map([
    ['model.norm', { inFeatures: 4, outFeatures: 4 }],
    [`${M}.gate_up_proj`, { inFeatures: 4, outFeatures: 6, experts: E }],
    [`${M}.down_proj`, { inFeatures: 3, outFeatures: 4, experts: E }],
  ]);
  const adapters = await roundTrip(tensors, config, modules);
  assert.equal([...adapters.keys()], [`${M}.gate_up_proj`, `${M}.down_proj`]);
  assert.equal(adapters.get(`${M}.gate_up_proj`).a.shape, [E, R, 4]);
  assert.equal(adapters.get(`${M}.down_proj`).a.shape, [E, 1, 3]);
  assert.is(adapters.get(`${M}.down_proj`).scale, 4);
  await refused(reading(tensors, config), RangeError, 'expected to be told the base model');
  await refused(
    reading(tensors, config, new Map([...modules].reverse())),
    RangeError,
    `"${P}${M}.base_layer.lora_A.weight": expected shape [r,in] = [3,3], got [6,4]`,
  );
  const { [`${P}${M}.base_layer.lora_A.weight`]: _, ...less } = tensors;
  await refused(reading(less, config, modules), RangeError, 'lora_A.weight": is missing');
  const outer = factors(M, 3, 4, R * E);
  await refused(
    reading(outer, config, modules),
    RangeError,
    'expected factors of gate_up_proj, down_proj, got 1',
  );
});

test('older files: the name of the adapter, and the weight of a magnitude', async () => {
  const expected: Record<string, Raw> = {
    ...factors(Q),
    [`${P}${Q}.lora_magnitude_vector`]: counted([5]),
    [`${P}score.weight`]: counted([1, 3]),
  };
  const config = { ...CONFIG, use_dora: true, modules_to_save: ['score'] };
  const old = {
    [`${P}${Q}.lora_A.default.weight`]: expected[`${P}${Q}.lora_A.weight`],
    [`${P}${Q}.lora_B.default.weight`]: expected[`${P}${Q}.lora_B.weight`],
    [`${P}${Q}.lora_magnitude_vector.default`]: expected[`${P}${Q}.lora_magnitude_vector`],
    [`${P}score.modules_to_save.default.weight`]: expected[`${P}score.weight`],
  };
  const adapters = await roundTrip(old, config, undefined, expected);
  assert.equal(await read(expected, config), adapters);
  for (const end of ['.weight', '.default.weight']) {
    const { [`${P}${Q}.lora_magnitude_vector`]: magnitude, ...rest } = expected;
    const tensors = { ...rest, [`${P}${Q}.lora_magnitude_vector${end}`]: magnitude };
    assert.equal(await read(tensors, config), await read(expected, config));
  }
});

test('a configuration goes through as it is', async () => {
  const text = JSON.stringify({
    ...CONFIG,
    auto_mapping: { a: [1, null, { b: 'ä' }] },
    lora_dropout: 0.1,
    peft_version: '0.18.0',
    zzz: null,
  }).replace('{', '{"__proto__": null, "eva_config": {"rho": 2.0, "tau": 1e-3}, ');
  await roundTrip(factors(Q), text);
});

test('with the base model at hand', async () => {
  const plain = await read(factors(Q), CONFIG);
  assert.equal(await read(factors(Q), CONFIG, SIZES), plain);
  assert.equal(await read(factors(Q), CONFIG, new Map(Object.entries(SIZES))), plain);
  const linear = { ...SIZES, lm_head: { inFeatures: 3, outFeatures: 9 } };
  assert.equal(await read(factors(Q), { ...CONFIG, target_modules: 'all-linear' }, linear), plain);
  assert.equal(await read(factors(Q), { ...CONFIG, fan_in_fan_out: true }, SIZES), plain);
});

test('plain tensors without a dtype are written', () => {
  const folder = fresh('adapter');
  const a = { data: new Float32Array(6).fill(1), shape: [2, 3] };
  const b = { data: new Float32Array(10).fill(2), shape: [5, 2] };
  writePeftSync(folder, new Map([[Q, { kind: 'linear' as const, a, b, scale: 2 }]]), CONFIG);
  assert.equal(readPeftSync(folder, SIZES).get(Q), {
    kind: 'linear',
    a: { ...a, dtype: 'f32' },
    b: { ...b, dtype: 'f32' },
    scale: 2,
  });
});

test('bits that no arithmetic would keep', async () => {
  const patterns = Uint32Array.of(0x7f800001, 0xffc12345, 0x80000000, 0x00000001, 0x7f800000, 3);
  const raw: Raw = { dtype: 'F32', shape: [2, 3], bytes: new Uint8Array(patterns.buffer) };
  await roundTrip({ ...factors(Q), [A]: raw }, CONFIG);
  const config = { ...CONFIG, target_modules: [], target_parameters: ['experts.w'] };
  const b = { ...raw, shape: [1, 6] };
  await roundTrip({ ...factors(M, 3, 1, 6), [`${P}${M}.lora_B.weight`]: b }, config);
});

test.run();
