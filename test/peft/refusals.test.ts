// Adapters and files that are refused, and what is said of them.
import fs from 'node:fs';
import path from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import {
  type PeftConfig,
  type PeftModules,
  readPeft,
  readPeftConfig,
  readPeftConfigSync,
  readPeftSync,
  writePeft,
  writePeftSync,
} from '../../ts/index';
import { A, B, CONFIG, factors, M, P, Q, read, reading, SIZES } from './adapters';
import { counted, fresh, type Raw, refused, writeAdapter } from './files';

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
    'factors of a parameter that no module has',
    { ...factors(Q), ...factors('x.experts') },
    { target_parameters: ['experts.w'] },
    SIZES,
    `"${P}x.experts.lora_A.weight": expected the base model's modules to have x.experts.w`,
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
  await refused(
    forms(folder, undefined, { ingore: [] }),
    TypeError,
    'ingore: expected one of ignore, got an unknown key for an option; nearest: ignore',
  );
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

test.run();
