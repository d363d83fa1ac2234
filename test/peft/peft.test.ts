// Adapters as PEFT saves them.
import fs from 'node:fs';
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import { isDeepStrictEqual } from 'node:util';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import {
  type PeftAdapter,
  type PeftConfig,
  type PeftModules,
  type PeftOptions,
  readPeft,
  readPeftConfig,
  readPeftConfigSync,
  readPeftSync,
  writePeft,
  writePeftSync,
} from '../../ts/index';
import { counted, fresh, type Raw, refused, unpacked, words, writeAdapter } from './files';

const P = 'base_model.model.';
const Q = 'model.layers.0.self_attn.q_proj';
const CONFIG = { peft_type: 'LORA', r: 2, lora_alpha: 4, target_modules: ['q_proj'] };

const SIZES = { [Q]: { inFeatures: 3, outFeatures: 5 } };

/** Factors of rank r of a layer [out,in]. */
function factors(module: string, inFeatures = 3, outFeatures = 5, r = 2): Record<string, Raw> {
  return {
    [`${P}${module}.lora_A.weight`]: counted([r, inFeatures], 1),
    [`${P}${module}.lora_B.weight`]: counted([outFeatures, r], 100),
  };
}

function reading(
  tensors: Record<string, Raw>,
  config: unknown,
  modules?: PeftModules,
  options?: PeftOptions,
): [() => unknown, () => Promise<unknown>] {
  const folder = writeAdapter(tensors, config);
  return [() => readPeftSync(folder, modules, options), () => readPeft(folder, modules, options)];
}

/** What both forms of reading give. */
async function read(
  tensors: Record<string, Raw>,
  config: unknown,
  modules?: PeftModules,
  options?: PeftOptions,
): Promise<Map<string, any>> {
  const [sync, async] = reading(tensors, config, modules, options);
  const adapters = sync() as Map<string, PeftAdapter>;
  assert.equal(await async(), adapters);
  return adapters;
}

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

const M = 'model.layers.0.mlp.experts';
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

const A = `${P}${Q}.lora_A.weight`;
const B = `${P}${Q}.lora_B.weight`;

test('with the base model at hand', async () => {
  const plain = await read(factors(Q), CONFIG);
  assert.equal(await read(factors(Q), CONFIG, SIZES), plain);
  assert.equal(await read(factors(Q), CONFIG, new Map(Object.entries(SIZES))), plain);
  const linear = { ...SIZES, lm_head: { inFeatures: 3, outFeatures: 9 } };
  assert.equal(await read(factors(Q), { ...CONFIG, target_modules: 'all-linear' }, linear), plain);
  assert.equal(await read(factors(Q), { ...CONFIG, fan_in_fan_out: true }, SIZES), plain);
});

const BAD: [
  string,
  Record<string, Raw>,
  PeftConfig,
  PeftModules | undefined,
  ...(string | RegExp)[],
][] = [
  [
    'A without B',
    { [A]: counted([2, 3]) },
    {},
    undefined,
    `"${B}": is missing: there is a lora_A.weight`,
  ],
  [
    'B without A',
    { [B]: counted([5, 2]) },
    {},
    undefined,
    `"${A}": is missing: there is a lora_B.weight`,
  ],
  [
    'a bias alone',
    { [`${P}${Q}.lora_B.bias`]: counted([5]) },
    { lora_bias: true },
    undefined,
    `"${A}": is missing`,
  ],
  [
    'a module that is not targeted',
    factors('model.k_proj'),
    {},
    undefined,
    `"${P}model.k_proj.lora_A.weight": expected a module that the configuration targets, got "model.k_proj"`,
  ],
  [
    'a module that is excluded',
    factors(Q),
    { exclude_modules: ['q_proj'] },
    undefined,
    `"${A}"`,
    'targets',
  ],
  [
    'a layer that is left out',
    factors(Q),
    { layers_to_transform: [1] },
    undefined,
    `"${A}"`,
    'targets',
  ],
  [
    'another rank in A',
    { ...factors(Q), [A]: counted([4, 3]) },
    {},
    undefined,
    `"${A}": expected shape [r,in] = [2,in], got [4,3]`,
  ],
  [
    'another rank in B',
    { ...factors(Q), [B]: counted([5, 4]) },
    {},
    undefined,
    `"${B}": expected shape [out,r] = [out,2], got [5,4]`,
  ],
  [
    'another rank by its pattern',
    factors(Q),
    { rank_pattern: { q_proj: 3 } },
    undefined,
    `"${A}": expected shape [r,in] = [3,in], got [2,3]`,
  ],
  [
    'A transposed',
    { ...factors(Q), [A]: counted([3, 2]) },
    {},
    undefined,
    `"${A}": expected shape [r,in] = [2,in], got [3,2]: it is transposed`,
  ],
  [
    'B transposed',
    { ...factors(Q), [B]: counted([2, 5]) },
    {},
    undefined,
    `"${B}": expected shape [out,r] = [out,2], got [2,5]: it is transposed`,
  ],
  [
    'a vector for a factor',
    { ...factors(Q), [A]: counted([6]) },
    {},
    undefined,
    `"${A}": expected two dimensions, got [6]`,
  ],
  [
    'a convolution',
    { ...factors(Q), [A]: counted([2, 3, 1, 1]) },
    {},
    undefined,
    `"${A}": expected two dimensions, got [2,3,1,1]: convolutions are not supported`,
  ],
  [
    'integers for a factor',
    { ...factors(Q), [A]: { dtype: 'I32', shape: [2, 3], bytes: new Uint8Array(24) } },
    {},
    undefined,
    `"${A}": expected F32, BF16 or F16, got i32`,
  ],
  [
    'no prefix',
    { 'x.lora_A.weight': counted([2, 3]) },
    {},
    undefined,
    '"x.lora_A.weight": expected a name that begins with base_model.model.',
  ],
  [
    'a tensor of nothing known',
    { ...factors(Q), [`${P}model.norm.weight`]: counted([3]) },
    {},
    undefined,
    `"${P}model.norm.weight": expected a tensor of an adapter`,
  ],
  [
    'a part of an unknown method',
    { ...factors(Q), [`${P}${Q}.lora_diag`]: counted([2]) },
    {},
    undefined,
    `"${P}${Q}.lora_diag": is of no kind of adapter`,
  ],
  [
    'a token adapter',
    { ...factors(Q), [`${P}x.token_adapter.trainable_tokens_delta`]: counted([2]) },
    {},
    undefined,
    'trainable_tokens_delta": expected a tensor of an adapter',
  ],
  [
    'a bias that the configuration denies',
    { ...factors(Q), [`${P}${Q}.base_layer.bias`]: counted([5]) },
    {},
    undefined,
    `"${P}${Q}.base_layer.bias": expected a tensor of an adapter`,
  ],
  [
    'a bias of another layer with lora_only',
    { ...factors(Q), [`${P}x.bias`]: counted([5]) },
    { bias: 'lora_only' },
    undefined,
    `"${P}x.bias": expected a tensor`,
  ],
  [
    'no magnitude',
    factors(Q),
    { use_dora: true },
    undefined,
    `"${P}${Q}.lora_magnitude_vector": is missing: the configuration has use_dora`,
  ],
  [
    'a magnitude without DoRA',
    { ...factors(Q), [`${P}${Q}.lora_magnitude_vector`]: counted([5]) },
    {},
    undefined,
    `"${P}${Q}.lora_magnitude_vector": expected none: the configuration has no use_dora`,
  ],
  [
    'a magnitude of the input',
    { ...factors(Q), [`${P}${Q}.lora_magnitude_vector`]: counted([3]) },
    { use_dora: true },
    undefined,
    'expected shape [out] = [5], got [3]',
  ],
  [
    'no bias of lora_B',
    factors(Q),
    { lora_bias: true },
    undefined,
    `"${P}${Q}.lora_B.bias": is missing`,
  ],
  [
    'a bias of lora_B too many',
    { ...factors(Q), [`${P}${Q}.lora_B.bias`]: counted([5]) },
    {},
    undefined,
    `"${P}${Q}.lora_B.bias": expected none`,
  ],
  [
    'two adapters',
    {
      ...factors(Q),
      [`${P}x.q_proj.lora_A.one.weight`]: counted([2, 3]),
      [`${P}y.q_proj.lora_A.two.weight`]: counted([2, 3]),
    },
    {},
    undefined,
    'expected one adapter in a file, got two beside one',
  ],
  [
    'one factor twice',
    { ...factors(Q), [`${P}${Q}.lora_A.default.weight`]: counted([2, 3]) },
    {},
    undefined,
    `"${P}${Q}.lora_A.default.weight": expected one lora_A.weight of "${Q}", got two`,
  ],
  [
    'a saved tensor twice',
    {
      ...factors(Q),
      [`${P}score.weight`]: counted([2]),
      [`${P}score.modules_to_save.weight`]: counted([2]),
    },
    { modules_to_save: ['score'] },
    undefined,
    'modules_to_save.weight": expected one weight of "score", got two',
  ],
  [
    'factors of both kinds',
    { ...factors(Q), [`${P}${Q}.lora_embedding_A`]: counted([2, 3]) },
    {},
    undefined,
    'a linear layer or of an embedding, got both',
  ],
  [
    'a module that the base model lacks',
    factors(Q),
    {},
    { x: { inFeatures: 3, outFeatures: 5 } },
    `"${A}": expected a module of the base model, got "${Q}"`,
  ],
  [
    'another input',
    factors(Q),
    {},
    { [Q]: { inFeatures: 4, outFeatures: 5 } },
    `"${A}": expected shape [r,in] = [2,4], got [2,3]`,
  ],
  [
    'another output',
    factors(Q),
    {},
    { [Q]: { inFeatures: 3, outFeatures: 6 } },
    `"${B}": expected shape [out,r] = [6,2], got [5,2]`,
  ],
  [
    'input and output swapped',
    factors(Q),
    { fan_in_fan_out: true },
    { [Q]: { inFeatures: 5, outFeatures: 3 } },
    `"${A}": expected shape [r,in] = [2,5], got [2,3]: in and out are swapped (fan_in_fan_out is about the base model alone`,
  ],
  [
    'a module that the file lacks',
    factors(Q),
    {},
    { ...SIZES, 'x.q_proj': { inFeatures: 3, outFeatures: 5 } },
    `"${P}x.q_proj.lora_A.weight": is missing: the configuration targets the module`,
  ],
  [
    'an embedding that the file lacks',
    factors(Q),
    { target_modules: ['q_proj', 'wte'] },
    { ...SIZES, wte: { inFeatures: 3, outFeatures: 5, kind: 'embedding' } },
    `"${P}wte.lora_embedding_A": is missing`,
  ],
  [
    'a parameter that the file lacks',
    factors(Q),
    { target_parameters: ['experts.w'] },
    { ...SIZES, 'x.experts.w': { inFeatures: 3, outFeatures: 5 } },
    `"${P}x.experts.lora_A.weight": is missing: "x.experts.w" is targeted`,
  ],
  [
    'factors of a layer for an embedding',
    factors(Q),
    {},
    { [Q]: { inFeatures: 3, outFeatures: 5, kind: 'embedding' } },
    `"${A}": expected factors of an embedding module`,
  ],
  [
    'a saved bias of another shape',
    { ...factors(Q), [`${P}${Q}.base_layer.bias`]: counted([3]) },
    { bias: 'lora_only' },
    SIZES,
    'expected shape [out] = [5], got [3]',
  ],
  [
    'a saved head, transposed',
    { ...factors(Q), [`${P}score.weight`]: counted([3, 2]) },
    { modules_to_save: ['score'] },
    { ...SIZES, score: { inFeatures: 3, outFeatures: 2 } },
    `"${P}score.weight": expected shape [2,3], got [3,2]`,
  ],
  [
    'an embedding of another width',
    { ...factors(Q), [`${P}embed_tokens.weight`]: counted([9, 2]) },
    {},
    { ...SIZES, embed_tokens: { inFeatures: 9, outFeatures: 3, kind: 'embedding' } },
    `"${P}embed_tokens.weight": expected shape [tokens,3], got [9,2]`,
  ],
  [
    'rows of no rank',
    { [`${P}${M}.lora_A.weight`]: counted([3, 4]), [`${P}${M}.lora_B.weight`]: counted([5, 3]) },
    { target_modules: [], target_parameters: ['experts.w'] },
    undefined,
    'expected a multiple of r = 2 rows, got [3,4]',
  ],
  [
    'a magnitude of a parameter',
    { ...factors(M), [`${P}${M}.lora_magnitude_vector`]: counted([5]) },
    { target_modules: [], target_parameters: ['experts.w'] },
    undefined,
    'expected factors alone for a parameter',
  ],
  [
    'another tensor of an embedding',
    { ...factors(Q), [`${P}embed_tokens.scale`]: counted([1]) },
    {},
    undefined,
    'embed_tokens.scale": expected a tensor of an adapter',
  ],
  [
    'a factor of each kind',
    { [A]: counted([2, 3]), [`${P}${Q}.lora_embedding_B`]: counted([5, 2]) },
    {},
    undefined,
    'a linear layer or of an embedding, got both',
  ],
  [
    'a bias of lora_B of an embedding',
    {
      [`${P}${Q}.lora_embedding_A`]: counted([2, 3]),
      [`${P}${Q}.lora_embedding_B`]: counted([5, 2]),
      [`${P}${Q}.lora_B.bias`]: counted([5]),
    },
    { lora_bias: true },
    undefined,
    `"${P}${Q}.lora_B.bias": is of no embedding`,
  ],
  [
    'a module of which no parameter is targeted',
    factors(Q),
    { target_modules: [], target_parameters: ['experts.w'] },
    undefined,
    `"${A}": expected a module that the configuration targets, got "${Q}"`,
  ],
  [
    'DoRA of a parameter',
    factors(M),
    { use_dora: true, target_modules: [], target_parameters: ['experts.w'] },
    undefined,
    'expected no use_dora',
  ],
  [
    'the module that a saved one replaced',
    { ...factors(Q), [`${P}score.original_module.weight`]: counted([2]) },
    { modules_to_save: ['score'] },
    undefined,
    'score.original_module.weight": is of the module that was replaced',
  ],
  [
    'a long name',
    { [`${P}${'x'.repeat(3000)}`]: counted([1]) },
    {},
    undefined,
    'expected at most 2000 characters',
  ],
  [
    'a key of the configuration',
    factors(Q),
    { use_qalora: true },
    undefined,
    'adapter_config.json: use_qalora: is not supported',
  ],
];

for (const [name, tensors, keys, modules, ...parts] of BAD)
  test(`refused: ${name}`, () =>
    refused(
      reading(tensors, { ...CONFIG, ...keys }, modules),
      RangeError,
      '[readPeft] ',
      ...parts,
    ));

test('a key that is ignored', async () => {
  const config = { ...CONFIG, some_new_key: 5 };
  await refused(reading(factors(Q), config), RangeError, 'some_new_key: is not known here');
  const adapters = await read(factors(Q), config, undefined, { ignore: ['some_new_key'] });
  assert.is(adapters.size, 1);
  const folder = fresh('adapter');
  await refused(
    [() => writePeftSync(folder, adapters, config), () => writePeft(folder, adapters, config)],
    RangeError,
    '[writePeft] config: some_new_key',
  );
  writePeftSync(folder, adapters, config, { ignore: ['some_new_key'] });
  assert.equal(readPeftConfigSync(folder), config);
});

test('files that are missing or malformed', async () => {
  const folder = writeAdapter(factors(Q), CONFIG);
  const forms: [() => unknown, () => Promise<unknown>] = [
    () => readPeftSync(folder),
    () => readPeft(folder),
  ];
  const tensors = path.join(folder, 'adapter_model.safetensors');
  const bytes = fs.readFileSync(tensors);
  fs.writeFileSync(tensors, bytes.subarray(0, -1));
  await refused(forms, RangeError, `[readPeft] ${tensors}: "${B}": `, 'the file is cut off');
  fs.rmSync(tensors);
  await refused(forms, Error, 'ENOENT', tensors);
  fs.writeFileSync(path.join(folder, 'adapter_model.bin'), 'x');
  await refused(forms, RangeError, 'adapter_model.bin: is a pickle, which is not read');
  const json = path.join(folder, 'adapter_config.json');
  const bad: [string | Buffer, RegExp][] = [
    ['', /expected a JSON value at character 0, got its end/],
    ['{"r": NaN}', /expected a JSON value/],
    ['{"r": 1, "r": 2}', /has the key "r" twice/],
    ['{"rank_pattern": {"x": 1, "x": 2}}', /has the key "x" twice/],
    [`{"x": ${'['.repeat(1000)}`, /nested deeper than 64/],
    [Buffer.from('7b22ff223a317d', 'hex'), /expected text in UTF-8/],
    [' '.repeat(2 ** 24 + 1), /expected at most 16777216 bytes/],
  ];
  for (const [text, message] of bad) {
    fs.writeFileSync(json, text);
    await refused(forms, RangeError, `[readPeft] ${json}: `, message);
    await refused(
      [() => readPeftConfigSync(folder), () => readPeftConfig(folder)],
      RangeError,
      `[readPeftConfig] ${json}: `,
      message,
    );
  }
  fs.writeFileSync(json, '[]');
  await refused(forms, TypeError, `${json}: expected an object, got an array`);
  fs.rmSync(json);
  await refused(forms, Error, 'ENOENT', json);
});

test('arguments that are none', async () => {
  const folder = writeAdapter(factors(Q), CONFIG);
  const forms = (...args: any[]): [() => unknown, () => Promise<unknown>] => [
    () => (readPeftSync as any)(...args),
    () => (readPeft as any)(...args),
  ];
  await refused(forms(5), TypeError, '[readPeft] folder: expected a path');
  await refused(forms(folder, 5), TypeError, 'modules: expected sizes by path, got 5');
  await refused(forms(folder, { x: 5 }), TypeError, 'modules: "x": expected {inFeatures');
  await refused(forms(folder, new Map([[1, {}]])), TypeError, 'paths that are strings');
  const size = { inFeatures: 1, outFeatures: 1 };
  const bad: [object, string][] = [
    [{ ...size, inFeatures: 0 }, 'inFeatures: expected a positive integer, got 0'],
    [{ inFeatures: 1 }, 'outFeatures: expected a positive integer, got undefined'],
    [{ ...size, experts: 1.5 }, 'experts: expected a positive integer, got 1.5'],
    [{ ...size, kind: 'conv' }, "kind: expected 'linear' or 'embedding', got 'conv'"],
  ];
  for (const [module, message] of bad)
    await refused(forms(folder, { x: module }), RangeError, `modules: "x": ${message}`);
  await refused(forms(folder, undefined, 5), TypeError, 'options: expected an object');
  await refused(forms(folder, undefined, { ingore: [] }), TypeError, '"ingore": expected ignore');
  await refused(forms(folder, undefined, { ignore: 'r' }), TypeError, 'ignore: expected names');
});

test('adapters that cannot be written', async () => {
  const folder = fresh('adapter');
  const good = (await read(factors(Q), CONFIG)).get(Q);
  const forms = (adapters: any, config: any = CONFIG): [() => unknown, () => Promise<unknown>] => [
    () => writePeftSync(folder, adapters, config),
    () => writePeft(folder, adapters, config),
  ];
  const one = (change: object, module = Q) => new Map([[module, { ...good, ...change }]]);
  const x = { data: new Float32Array(5), shape: [5] };
  const bad: [unknown, new (...args: any[]) => Error, string][] = [
    [{ [Q]: good }, TypeError, 'adapters: expected a Map of adapters'],
    [new Map([[Q, null]]), TypeError, `adapters: "${Q}": expected an adapter, got null`],
    [new Map([['', good]]), TypeError, 'expected paths of modules'],
    [one({ kind: 'conv' }), TypeError, 'kind: expected that of an adapter'],
    [one({ mid: x }), TypeError, `adapters: "${Q}": "mid": files have no place for it`],
    [one({ scale: '2' }), TypeError, 'scale: expected a number'],
    [
      one({ scale: 1.5 }),
      RangeError,
      "scale: expected 2 by the config's lora_alpha, r and patterns, got 1.5",
    ],
    [one({ scale: Number.NaN }), RangeError, 'got NaN'],
    [one({ a: undefined }), TypeError, `"${A}": expected a tensor`],
    [
      one({ a: { ...good.a, shape: [3, 2] } }),
      RangeError,
      `"${A}": expected shape [r,in] = [2,in], got [3,2]`,
    ],
    [
      one({ b: { data: new Int32Array(10), shape: [5, 2] } }),
      RangeError,
      `"${B}": expected F32, BF16 or F16`,
    ],
    [one({}, 'model.k_proj'), RangeError, 'expected a module that the configuration targets'],
    [one({ magnitude: x }), RangeError, 'expected none: the configuration has no use_dora'],
    [one({ outBias: x }), RangeError, 'expected none: the configuration has no lora_bias'],
    [one({ saved: new Map([['bias', x]]) }), RangeError, 'expected a tensor of an adapter'],
    [one({ saved: { bias: x } }), TypeError, 'saved: expected a Map of tensors'],
    [
      new Map([['score', { kind: 'saved', saved: new Map([['weight', x]]) }]]),
      RangeError,
      `"${P}score.weight": expected a tensor`,
    ],
    [
      one({ kind: 'experts' }),
      RangeError,
      'expected a [E,r,in] and b [E,out,r], got [2,3] and [5,2]',
    ],
  ];
  const experts = (aShape: number[], bShape: number[]) => {
    const zeros = (shape: number[]) => {
      return { data: new Float32Array(shape.reduce((p, q) => p * q)), shape };
    };
    return one({ kind: 'experts', a: zeros(aShape), b: zeros(bShape) }, `${M}.w`);
  };
  const wanted = 'expected a [E,r,in] and b [E,out,r], got ';
  bad.push(
    [experts([3, 2, 4], [2, 5, 2]), RangeError, `${wanted}[3,2,4] and [2,5,2]`],
    [experts([3, 2, 4], [3, 5, 3]), RangeError, `${wanted}[3,2,4] and [3,5,3]`],
    [experts([3, 2, 4, 1], [3, 5, 2]), RangeError, `${wanted}[3,2,4,1] and [3,5,2]`],
    [
      new Map([
        [Q, { ...good, saved: new Map([['bias', x]]) }],
        [`${Q}.base_layer`, { kind: 'saved', saved: new Map([['bias', x]]) }],
      ]),
      RangeError,
      `"${P}${Q}.base_layer.bias": expected one tensor, got two`,
    ],
  );
  for (const [adapters, kind, message] of bad)
    await refused(forms(adapters), kind, '[writePeft] ', message);
  const inner = new Map([['a.b', { kind: 'saved', saved: new Map([['weight', x]]) }]]);
  await refused(
    forms(inner, { ...CONFIG, modules_to_save: ['a', 'b'] }),
    RangeError,
    'adapters: "a.b": a file with this config holds it as none',
  );
  await refused(forms(one({}), null), TypeError, 'config: expected an object, got null');
  await refused(
    forms(one({}), { ...CONFIG, lora_dropout: Number.NaN }),
    TypeError,
    'config: "lora_dropout": expected JSON, got NaN',
  );
  await refused(
    forms(one({}), { ...CONFIG, auto_mapping: { f() {} } }),
    TypeError,
    'config: "f": expected JSON, got a function',
  );
  await refused(
    forms(one({}), { ...CONFIG, r: 1n }),
    TypeError,
    'config: "r": expected JSON, got 1n',
  );
  assert.not(fs.existsSync(folder));
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
