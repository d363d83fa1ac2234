// What adapter_config.json says of modules.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { LoraConfig } from '../../ts/peft/config';
import type { PeftConfig } from '../../ts/peft/configKeys';

function config(keys: PeftConfig, ignore: string[] = []): LoraConfig {
  return new LoraConfig('readPeft', 'file.json', { peft_type: 'LORA', ...keys }, ignore);
}

function targeted(keys: PeftConfig, modules: string[]): string[] {
  const c = config(keys);
  return modules.filter((module) => c.targets(module));
}

const LAYER = 'model.layers.3.self_attn.q_proj';

test('scale and rank', () => {
  assert.is(config({}).scale(LAYER), 1);
  assert.is(config({}).rank(LAYER), 8);
  assert.is(config({ r: 16, lora_alpha: 8 }).scale(LAYER), 0.5);
  assert.is(config({ r: 16, lora_alpha: 8, use_rslora: true }).scale(LAYER), 2);
  assert.is(config({ r: 3, lora_alpha: 0.5 }).scale(LAYER), 0.5 / 3);
  assert.is(config({ lora_alpha: null as never, r: null as never }).scale(LAYER), 1);
});

test('patterns of ranks and alphas', () => {
  const keys = { r: 4, lora_alpha: 8, rank_pattern: { q_proj: 2 }, alpha_pattern: { q_proj: 6 } };
  assert.is(config(keys).rank(LAYER), 2);
  assert.is(config(keys).scale(LAYER), 3);
  assert.is(config({ ...keys, use_rslora: true }).scale(LAYER), 6 / Math.sqrt(2));
  assert.is(config(keys).scale('model.layers.3.self_attn.k_proj'), 2);
});

// As re.match(rf"(.*\.)?({key})$", module) decides, first key first.
const LOOK_UPS: [module: string, pattern: string, found: boolean][] = [
  ['a.b.q_proj', 'q_proj', true],
  ['q_proj', 'q_proj', true],
  ['a.bq_proj', 'q_proj', false],
  ['a.b.q_proj', 'b.q_proj', true],
  ['a.b.q_proj', 'a', false],
  ['a.b.q_proj', 'bxq_proj', false],
  ['a.bxq_proj', 'b.q_proj', true],
  ['a.b.q_proj', 'b', false],
  ['a.b.q_proj', '^a.b.q_proj', true],
  ['x.a.b.q_proj', '^a.b.q_proj', false],
  ['a.b.q_proj', '.*', true],
  ['a.b.q_proj', 'a\\..*', true],
  ['x.a.b.q_proj', '(q|v)_proj', true],
  ['x.a.b.v_proj', 'q_proj|v_proj', true],
  ['model.layers.12.mlp', 'layers\\.\\d+\\.mlp', true],
  ['model.layers.12.mlp', 'layers\\.\\d\\.mlp', false],
  ['a.b.q_proj', 'q_proj$', true],
  ['a.b.q_proj', '', false],
  ['a\nb.q_proj', 'q_proj', false],
  ['a.q_proj\n', 'q_proj', true],
];

for (const [module, pattern, found] of LOOK_UPS)
  test(`rank_pattern ${pattern} on ${module}`, () => {
    assert.is(config({ rank_pattern: { [pattern]: 3 } }).rank(module), found ? 3 : 8);
    // The same where no short way is possible.
    assert.is(config({ rank_pattern: { [`(?:${pattern})`]: 3 } }).rank(module), found ? 3 : 8);
  });

test('the first of several patterns counts', () => {
  const c = config({ rank_pattern: { 'layers.3.*': 5, q_proj: 6, '.*': 7 } });
  assert.is(c.rank(LAYER), 5);
  assert.is(c.rank('model.layers.4.self_attn.q_proj'), 6);
  assert.is(c.rank('model.layers.4.mlp'), 7);
});

test('target_modules as a list', () => {
  const modules = [LAYER, 'q_proj', 'model.xq_proj', 'model.q_proj.x', 'model.k_proj'];
  assert.equal(targeted({ target_modules: ['q_proj'] }, modules), [LAYER, 'q_proj']);
  assert.equal(targeted({ target_modules: ['self_attn.q_proj'] }, modules), [LAYER]);
  assert.equal(targeted({ target_modules: ['.*_proj'] }, modules), []);
  assert.equal(targeted({ target_modules: [] }, modules), []);
});

test('target_modules as a regular expression', () => {
  const modules = [LAYER, 'model.layers.3.mlp.up_proj', 'lm_head'];
  assert.equal(targeted({ target_modules: '.*_proj' }, modules), modules.slice(0, 2));
  assert.equal(targeted({ target_modules: 'q_proj' }, modules), []);
  assert.equal(targeted({ target_modules: '(?!lm_head).*' }, modules), modules.slice(0, 2));
  const one = String.raw`.*layers\.(3|4)\.self_attn\.(q|k)_proj`;
  assert.equal(targeted({ target_modules: one }, modules), [LAYER]);
});

test('what cannot be told from the configuration counts as targeted', () => {
  assert.equal(targeted({ target_modules: 'all-linear' }, [LAYER, 'x']), [LAYER, 'x']);
  assert.equal(targeted({ target_modules: 'All-Linear' }, ['x']), ['x']);
  assert.equal(targeted({}, ['x']), ['x']);
  assert.not(config({ target_modules: 'all-linear' }).namesTargets);
  assert.equal(targeted({ target_parameters: ['experts.w'] }, ['x']), []);
});

test('exclude_modules and modules_to_save', () => {
  const modules = [LAYER, 'lm_head', 'vision.q_proj', 'score.q_proj', 'x.score', 'myscore.q_proj'];
  const all = { target_modules: '.*' };
  const but = (...names: string[]) => modules.filter((module) => !names.includes(module));
  assert.equal(targeted({ ...all, exclude_modules: ['lm_head'] }, modules), but('lm_head'));
  assert.equal(targeted({ ...all, exclude_modules: 'vision.*' }, modules), but('vision.q_proj'));
  assert.equal(targeted({ ...all, exclude_modules: 'vision' }, modules), modules);
  assert.equal(targeted({ ...all, exclude_modules: '' }, modules), modules);
  assert.equal(
    targeted({ ...all, modules_to_save: ['score'] }, modules),
    but('score.q_proj', 'x.score'),
  );
});

test('layers_to_transform', () => {
  const modules = [
    'model.layers.1.q_proj',
    'model.layers.2.q_proj',
    'model.h.2.layers.1.q_proj',
    'layers.2.q_proj',
    'model.layers.1.experts.2.q_proj',
    'q_proj',
  ];
  const list = { target_modules: ['q_proj'] };
  const of = (keys: PeftConfig) => targeted({ ...list, ...keys }, modules);
  assert.equal(of({ layers_to_transform: 2 }), [modules[1], modules[2], 'q_proj']);
  assert.equal(of({ layers_to_transform: [1, 2] }), [...modules.slice(0, 3), modules[4], 'q_proj']);
  assert.equal(of({ layers_to_transform: [] }), modules);
  assert.equal(of({ layers_to_transform: 1, layers_pattern: 'layers' }), [
    modules[0],
    modules[2],
    modules[4],
    'q_proj',
  ]);
  assert.equal(of({ layers_to_transform: 2, layers_pattern: ['h', 'experts'] }), [
    modules[2],
    modules[4],
    'q_proj',
  ]);
  assert.equal(of({ layers_to_transform: [2], layers_pattern: '[hx]' }), [modules[2], 'q_proj']);
  assert.equal(
    of({ layers_to_transform: [2], layers_pattern: [] }),
    of({ layers_to_transform: 2 }),
  );
});

test('layers_pattern stands between full stops, and finds one layer', () => {
  const keys = { target_modules: ['q'], layers_to_transform: [2], layers_pattern: 'l.*' };
  assert.not(config({ ...keys, layers_pattern: 'layers' }).targets('model.xlayers.2.q'));
  assert.not(config(keys).targets('model.xlayers.2.q'));
  assert.ok(config(keys).targets('model.layers.2.q'));
  assert.throws(
    () => config(keys).targets('model.layers.2.l.3.q'),
    /layers_pattern: finds more than one layer in "model\.layers\.2\.l\.3\.q"/,
  );
});

test('parameters of a module', () => {
  const c = config({
    target_parameters: ['experts.gate_up_proj', 'mlp.experts.down_proj', 'bias'],
  });
  assert.equal(c.parametersOf('model.mlp.experts'), ['gate_up_proj', 'down_proj', 'bias']);
  assert.equal(c.parametersOf('experts'), ['gate_up_proj', 'bias']);
  assert.equal(c.parametersOf('myexperts'), ['bias']);
});

const HARMLESS: PeftConfig = {
  auto_mapping: { base_model_class: 'Model' },
  base_model_name_or_path: 'org/model',
  corda_config: null,
  ensure_weight_tying: true,
  eva_config: { rho: 2 },
  inference_mode: true,
  init_lora_weights: 'gaussian',
  loftq_config: {},
  lora_dropout: 0.05,
  megatron_config: null,
  megatron_core: 'megatron.core',
  peft_version: '0.18.0',
  qalora_group_size: 16,
  revision: null,
  task_type: 'CAUSAL_LM',
  use_bdlora: null,
  use_qalora: false,
  velora_config: { scale: 1 },
};

test('keys that matter for training alone, and keys that are off', () => {
  config(HARMLESS);
  for (const off of [null, false, [], {}, ''])
    for (const key of ['trainable_token_indices', 'use_qalora', 'some_new_key'])
      config({ [key]: off });
  for (const init_lora_weights of [true, false, 'eva', 'orthogonal', 'mica', 'gaussian'])
    config({ init_lora_weights });
});

const REFUSED: [PeftConfig, RegExp][] = [
  [{ peft_type: 'ADALORA' }, /peft_type: expected 'LORA', got "ADALORA"/],
  [{ peft_type: undefined }, /peft_type: expected 'LORA', got none/],
  [{ use_qalora: true }, /use_qalora: is not supported/],
  [{ alora_invocation_tokens: [1] }, /alora_invocation_tokens: is not supported/],
  [{ arrow_config: { top_k: 3 } }, /arrow_config: is not supported/],
  [{ kasa_config: { beta: 1 } }, /kasa_config: is not supported/],
  [{ monteclora_config: { num_samples: 8 } }, /monteclora_config: is not supported/],
  [{ use_bdlora: { nblocks: 2 } }, /use_bdlora: is not supported/],
  [{ layer_replication: [[0, 2]] }, /layer_replication: is not supported/],
  [{ megatron_config: { x: 1 } }, /megatron_config: is not supported/],
  [{ trainable_token_indices: [5] }, /trainable_token_indices: is not supported/],
  [{ some_new_key: 3 }, /some_new_key: is not known here and may change the result/],
  [JSON.parse('{"__proto__": {"r": 3}}'), /__proto__: is not known here/],
  [{ constructor: 3 }, /constructor: is not known here/],
  ...['pissa', 'pissa_niter_4', 'olora', 'corda', 'loftq', 'lora_ga'].map(
    (name): [PeftConfig, RegExp] => [
      { init_lora_weights: name },
      new RegExp(`init_lora_weights: "${name}" is not supported: it changes the weights`),
    ],
  ),
  [{ r: 0 }, /r: expected a positive integer, got 0/],
  [{ r: 1.5 }, /r: expected a positive integer, got 1\.5/],
  [{ r: '8' as never }, /r: expected a positive integer, got "8"/],
  [{ lora_alpha: '8' as never }, /lora_alpha: expected a number, got "8"/],
  [{ lora_alpha: Number.POSITIVE_INFINITY }, /lora_alpha: expected a number/],
  [{ use_rslora: 1 as never }, /use_rslora: expected true or false, got 1/],
  [{ use_dora: 'no' as never }, /use_dora: expected true or false/],
  [{ bias: 'some' as never }, /bias: expected 'none', 'all' or 'lora_only', got "some"/],
  [{ rank_pattern: { x: -1 } }, /rank_pattern\["x"\]: expected a positive integer, got -1/],
  [{ rank_pattern: [] as never }, /rank_pattern: expected numbers by name, got \[\]/],
  [{ rank_pattern: { '.*': 2, 1: 3 } }, /rank_pattern: expected names, got "1"/],
  [{ alpha_pattern: { x: null as never } }, /alpha_pattern\["x"\]: expected a number, got null/],
  [{ target_modules: 5 as never }, /target_modules: expected a list of names, got 5/],
  [{ target_modules: [5] as never }, /target_modules: expected a list of names/],
  [{ target_modules: '(' }, /target_modules: "\(": a '\(' without its '\)'/],
  [{ exclude_modules: '(?i)x' }, /exclude_modules: "\(\?i\)x": inline flags/],
  [{ rank_pattern: { '(?P=x)': 1 } }, /rank_pattern: .*a backreference/],
  [{ alpha_pattern: { 'x)': 1 } }, /alpha_pattern: .*without its/],
  [{ modules_to_save: ['('] }, /modules_to_save: .*without its/],
  [{ modules_to_save: 'score' as never }, /modules_to_save: expected a list of names/],
  [{ layers_to_transform: 'x' as never }, /layers_to_transform: expected integers, got "x"/],
  [{ layers_to_transform: [1], target_modules: '.*' }, /layers_to_transform: expected none beside/],
  [{ layers_pattern: 'h' }, /layers_pattern: expected layers_to_transform beside it/],
  [
    { layers_pattern: '(h|x)', layers_to_transform: 1 },
    /layers_pattern: expected a pattern without '\|' and groups of its own/,
  ],
  [{ layers_pattern: 'h|x', layers_to_transform: 1 }, /layers_pattern: expected a pattern without/],
  [{ target_parameters: 'x' as never }, /target_parameters: expected a list of names/],
  [{ target_parameters: [''] }, /target_parameters: expected names, got an empty one/],
];

for (const [keys, message] of REFUSED)
  test(`refused: ${JSON.stringify(keys)}`, () => {
    assert.throws(
      () => config(keys),
      (error: Error) => {
        assert.instance(error, RangeError);
        assert.match(error.message, /^\[readPeft\] file\.json: /);
        assert.match(error.message, message);
        return true;
      },
    );
  });

test('keys that the caller answers for', () => {
  config({ some_new_key: 3, use_qalora: true }, ['some_new_key', 'use_qalora']);
  config({ init_lora_weights: 'pissa' }, ['init_lora_weights']);
  assert.throws(() => config({ some_new_key: 3 }, ['another']), /some_new_key/);
  assert.throws(() => config({ r: -1 }, ['r']), /r: expected a positive integer/);
});

test('a pattern that was made to take long', () => {
  const c = config({ target_modules: `${'(?:a?){200}'.repeat(60)}x` });
  assert.throws(() => c.targets('a'.repeat(2000)), /target_modules: takes too long on "aaa/);
});

test.run();
