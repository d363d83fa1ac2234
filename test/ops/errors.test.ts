import { spawnSync } from 'node:child_process';
import path from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import * as rankone from '../../ts/index';
import { problem, ramp, rejectsWith, throwsWith } from './helpers';

const { gatedDeltaNetSync, glaSync, recurrenceSync, tensor } = rankone;
type Any = any;

/** Calls that must fail: what is changed about a good gatedDeltaNet call, the class of the error, its message. */
const inputs = problem(); // B=1 T=5 H=2 K=8 V=4
const bad: [string, Any, Any, Any, RegExp][] = [
  [
    'a missing input',
    { beta: undefined },
    {},
    TypeError,
    /^\[gatedDeltaNet\] beta: expected a tensor/,
  ],
  ['null', { beta: null }, {}, TypeError, /^\[gatedDeltaNet\] beta: expected a tensor .* got null/],
  ['an array for a tensor', { q: [1, 2] }, {}, TypeError, /q: expected a tensor .* got an array/],
  [
    'a bare typed array for a tensor',
    { q: inputs.q.data },
    {},
    TypeError,
    /q: expected a tensor \{data, shape\}, got a Float32Array/,
  ],
  [
    'an unknown input',
    { bta: inputs.beta },
    {},
    TypeError,
    /^\[gatedDeltaNet\] bta: .*nearest: beta/,
  ],
  ['an unknown option', {}, { scael: 1 }, TypeError, /^\[gatedDeltaNet\] scael: .*nearest: scale/],
  ['an option of other presets', {}, { numHouseholder: 2 }, TypeError, /numHouseholder: /],
  ['update of a preset', {}, { update: 'delta' }, TypeError, /update: /],
  ['no shape', { q: { data: inputs.q.data } }, {}, TypeError, /q: expected shape to be an array/],
  [
    'a fraction in a shape',
    { q: { ...inputs.q, shape: [1, 5, 2, 7.5] } },
    {},
    RangeError,
    /q: .*7\.5/,
  ],
  ['a negative size', { q: { ...inputs.q, shape: [1, 5, 2, -8] } }, {}, RangeError, /q: .*-8/],
  ['a string in a shape', { q: { ...inputs.q, shape: [1, 5, 2, '8'] } }, {}, TypeError, /q: .*'8'/],
  [
    'a bad rank',
    { q: { ...inputs.q, shape: [5, 2, 8] } },
    {},
    RangeError,
    /q: expected shape \[B,T,H,K\], got \[5,2,8\]/,
  ],
  [
    'a rank of seven',
    { q: { ...inputs.q, shape: [1, 1, 1, 1, 5, 2, 8] } },
    {},
    RangeError,
    /q: .*at most 6/,
  ],
  [
    'another size',
    { beta: ramp(1, 5, 3) },
    {},
    RangeError,
    /beta: expected shape \[B,T,HV\] = \[1,5,2\], got \[1,5,3\]/,
  ],
  [
    'too little data',
    { q: { ...inputs.q, data: new Float32Array(79) } },
    {},
    RangeError,
    /q: expected data of length 80 .*got 79/,
  ],
  [
    'an overflowing shape',
    { q: { ...inputs.q, shape: [2 ** 40, 2 ** 40, 2, 8] } },
    {},
    RangeError,
    /q: /,
  ],
  [
    'an overflowing shape of nothing',
    { q: { data: new Float32Array(0), shape: [2 ** 40, 0, 2 ** 40, 8] } },
    {},
    RangeError,
    /: expected /,
  ],
  [
    'doubles',
    { q: { ...inputs.q, data: new Float64Array(80) } },
    {},
    TypeError,
    /q: expected data in a Float32Array, got a Float64Array/,
  ],
  [
    'integers',
    { q: { ...inputs.q, data: new Int32Array(80) } },
    {},
    TypeError,
    /q: expected dtype f32, bf16 or f16, got i32/,
  ],
  [
    'half floats beside float32',
    { q: { ...inputs.q, data: new Uint16Array(80), dtype: 'bf16' } },
    {},
    TypeError,
    /k: expected dtype bf16 \(that of q\), got f32/,
  ],
  [
    'a dtype that lies',
    { q: { ...inputs.q, dtype: 'bf16' } },
    {},
    TypeError,
    /q: expected dtype f32 beside a Float32Array, got 'bf16'/,
  ],
  [
    'an unknown dtype',
    { q: { ...inputs.q, dtype: 'f64' } },
    {},
    TypeError,
    /q: expected dtype f32, .*got 'f64'/,
  ],
  [
    'a look-alike array',
    { q: { ...inputs.q, data: { length: 80, [Symbol.toStringTag]: 'Float32Array' } } },
    {},
    TypeError,
    /q: /,
  ],
  [
    'HV no multiple of H',
    { v: ramp(1, 5, 3, 4) },
    {},
    RangeError,
    /v: expected HV to be a multiple of H = 2/,
  ],
  [
    'a gate of another rank',
    { g: ramp(1, 5, 2, 8) },
    {},
    RangeError,
    /g: expected shape \[B,T,HV\]/,
  ],
  [
    'a scale of NaN',
    {},
    { scale: Number.NaN },
    RangeError,
    /scale: expected a number that float32 can hold/,
  ],
  [
    'a scale of Infinity',
    {},
    { scale: Infinity },
    RangeError,
    /scale: expected a number that float32 can hold/,
  ],
  ['a scale beyond float32', {}, { scale: 1e39 }, RangeError, /scale: expected .*got 1e\+39/],
  ['a scale of text', {}, { scale: '1' }, TypeError, /scale: expected a number, got '1'/],
  [
    'an unknown mode',
    {},
    { mode: 'fast' },
    RangeError,
    /mode: expected one of 'auto', .*got 'fast'/,
  ],
  ['a mode of number', {}, { mode: 1 }, TypeError, /mode: expected one of/],
  ['a chunk size', {}, { chunkSize: 48 }, RangeError, /chunkSize: /],
  ['a fractional chunk size', {}, { chunkSize: 16.5 }, RangeError, /chunkSize: /],
  [
    'a flag of number',
    {},
    { outputFinalState: 1 },
    TypeError,
    /outputFinalState: expected true or false, got 1/,
  ],
  [
    'an absent device',
    {},
    { device: 'cuda' },
    RangeError,
    /cuda unavailable: |device: expected 'cpu' as q is there, got 'cuda:0'/,
  ],
  ['options of text', {}, 'fast', TypeError, /options: expected an object, got 'fast'/],
  ['options of null', {}, null, TypeError, /options: expected an object, got null/],
  ['an unknown output', {}, { out: { y: inputs.q } }, TypeError, /y: .*o, finalState/],
  [
    'out of another shape',
    {},
    { out: { o: ramp(1, 5, 2, 3) } },
    RangeError,
    /out\.o: expected shape \[1,5,2,4\], got \[1,5,2,3\]/,
  ],
  [
    'out that is not produced',
    {},
    { out: { finalState: ramp(1, 2, 8, 4) } },
    RangeError,
    /out\.finalState: /,
  ],
  ['out over an input', {}, { out: { o: inputs.v } }, RangeError, /out\.o: .*shared with v/],
  ['a state that is none', { state: {} }, {}, TypeError, /state: expected what createState/],
];

for (const [name, change, options, kind, pattern] of bad) {
  test(`${name} is refused by both forms`, async () => {
    const before = inputs.v.data.slice();
    const all = { ...inputs, ...change };
    throwsWith(() => gatedDeltaNetSync(all, options), kind, pattern);
    await rejectsWith(() => rankone.gatedDeltaNet(all, options), kind, pattern);
    assert.equal(inputs.v.data, before);
  });
}

test('an error says what this very function takes', async () => {
  const t = ramp(4, 4);
  const kept = { weight: t, a: ramp(2, 4), b: ramp(4, 2) };
  const qkv = { q: ramp(1, 5, 1, 4), k: ramp(1, 5, 1, 4), v: ramp(1, 5, 1, 4) };
  const { signal } = new AbortController();
  const cases: [() => unknown, ErrorConstructor, RegExp][] = [
    [
      () => glaSync({} as Any, { signal } as Any),
      TypeError,
      /^\[gla\] signal: expected none, a synchronous call is not aborted/,
    ],
    [
      () => rankone.attentionSync(qkv, { window: [4] as Any }),
      TypeError,
      /window: expected an array of two numbers, got another one/,
    ],
    [
      () => rankone.doraNormsSync({ ...kept, base: {} as Any }),
      TypeError,
      /base: expected what packWeight\(\) returned, got an object/,
    ],
    [
      () => rankone.doraNormsSync({ ...kept, base: new (class PackedWeight {})() as Any }),
      TypeError,
      /base: expected what packWeight\(\) returned, got a PackedWeight of another copy of rankone$/,
    ],
    [
      () => rankone.doraAdapterSync(kept as Any),
      TypeError,
      /^\[doraAdapter\] magnitude: expected a tensor/,
    ],
    [
      () => rankone.doraAdapterSync({ ...kept, a: ramp(2, 5), magnitude: ramp(4) }),
      RangeError,
      /^\[doraAdapter\] a: /,
    ],
    [
      () => rankone.packQuantisedSync({ format: 'f32', shape: [4, 4] } as Any),
      RangeError,
      /format: expected 'int8', 'q8', 'q4', 'nf4', got 'f32'/,
    ],
    [
      () => rankone.readSafetensorsSync(5 as Any),
      TypeError,
      /file: expected a path or a file: URL, or bytes, got 5/,
    ],
    [
      () => rankone.readSafetensorsSync('x', { filtre: undefined } as Any),
      TypeError,
      /filtre: .*nearest: filter/,
    ],
  ];
  for (const [call, kind, pattern] of cases) throwsWith(call, kind as Any, pattern);
  await rejectsWith(
    () => rankone.doraAdapter({ ...kept, a: ramp(2, 5), magnitude: ramp(4) }),
    RangeError,
    /^\[doraAdapter\] a: /,
  );
});

test('inputs that are no object', async () => {
  for (const value of [undefined, null, 7, 'q'])
    throwsWith(() => gatedDeltaNetSync(value as Any), TypeError, /^\[gatedDeltaNet\] inputs: /);
  await rejectsWith(() => rankone.gatedDeltaNet(undefined as Any), TypeError, /inputs: /);
});

test('contradictions', () => {
  const { q, k, v, g, beta } = inputs;
  const run = (a: Any, o: Any) => () => recurrenceSync(a, o);
  throwsWith(run({ q, k, v }, { update: 'delta' }), TypeError, /^\[recurrence\] beta: /);
  throwsWith(run({ q, k, v, beta }, { update: 'additive' }), TypeError, /beta: /);
  throwsWith(run({ q, k, v }, { numHouseholder: 2 }), RangeError, /numHouseholder: /);
  throwsWith(run({ q, k, v, g: ramp(5, 2) }, {}), RangeError, /g: expected rank 1/);
  const state = rankone.createState({ batch: 1, valueHeads: 2, keyDim: 8, valueDim: 4 });
  const initialState = ramp(1, 2, 8, 4);
  throwsWith(run({ q, k, v, g, beta, state, initialState }, {}), TypeError, /initialState: /);
  throwsWith(
    run({ q, k, v, g, beta, state }, { outputFinalState: true }),
    TypeError,
    /outputFinalState: /,
  );
  throwsWith(
    () => glaSync({ q, k, v, g: ramp(1, 5, 2, 8), beta } as Any),
    TypeError,
    /^\[gla\] beta: /,
  );
  throwsWith(() => rankone.retentionSync({ q, k, v, g } as Any), TypeError, /^\[retention\] g: /);
  throwsWith(() => rankone.lightningAttentionSync({ q, k, v }, {} as Any), TypeError, /layer/);
});

test('detached arrays', async () => {
  const q = ramp(1, 5, 2, 8);
  structuredClone(q.data, { transfer: [q.data.buffer as ArrayBuffer] });
  throwsWith(() => gatedDeltaNetSync({ ...inputs, q }), RangeError, /q: .*got 0.*detached/);
  await rejectsWith(() => rankone.gatedDeltaNet({ ...inputs, q }), RangeError, /q: .*detached/);
  const o = ramp(1, 5, 2, 4);
  structuredClone(o.data, { transfer: [o.data.buffer as ArrayBuffer] });
  throwsWith(() => gatedDeltaNetSync(inputs, { out: { o } }), RangeError, /out\.o: .*detached/);
});

test('nothing is written before validation has passed', () => {
  const o = ramp(1, 5, 2, 4);
  const before = o.data.slice();
  throwsWith(
    () => gatedDeltaNetSync({ ...inputs, beta: ramp(1, 4, 2) }, { out: { o } }),
    RangeError,
    /beta/,
  );
  throwsWith(
    () => gatedDeltaNetSync(inputs, { outputFinalState: true, out: { o, finalState: ramp(3) } }),
    RangeError,
    /out\.finalState/,
  );
  assert.equal(o.data, before);
});

test('two outputs in one memory', () => {
  const memory = new Float32Array(100);
  const o = { data: memory.subarray(0, 40), shape: [1, 5, 2, 4] };
  const finalState = { data: memory.subarray(36, 100), shape: [1, 2, 8, 4] };
  throwsWith(
    () => gatedDeltaNetSync(inputs, { outputFinalState: true, out: { o, finalState } }),
    RangeError,
    /out\.finalState: .*shared with out\.o/,
  );
});

test('arguments that are updated in place share no memory', () => {
  const param = ramp(8);
  const rest = { grad: ramp(8), m: ramp(8) };
  throwsWith(
    () => rankone.adamWSync({ param, ...rest, v: param }, { step: 1, lr: 1e-3 }),
    RangeError,
    /^\[adamW\] param: .*shared with v/,
  );
});

test('an error of a getter comes through as it is', async () => {
  const own = new Error('mine');
  const nosy = {
    ...inputs,
    get q(): Any {
      throw own;
    },
  };
  throwsWith(() => gatedDeltaNetSync(nosy), Error, /^mine$/);
  assert.is(await rankone.gatedDeltaNet(nosy).catch((e) => e), own);
});

test('a saved of another problem, and a disposed one', () => {
  const { saved } = gatedDeltaNetSync(inputs, { saveForBackward: true });
  const other = problem(1, 6);
  const run = (a: Any) => () =>
    rankone.gatedDeltaNetBackwardSync({ ...a, dO: ramp(1, a.q.shape[1], 2, 4), saved });
  throwsWith(run(other), RangeError, /^\[gatedDeltaNetBackward\] saved: /);
  saved!.dispose();
  throwsWith(run(inputs), Error, /saved: it has been disposed/);
  throwsWith(
    () => rankone.gatedDeltaNetBackwardSync({ ...inputs, dO: ramp(1, 5, 2, 4), saved: {} as Any }),
    TypeError,
    /saved: expected what a forward/,
  );
});

test('a saved of a forward with an initial state', () => {
  const initialState = ramp(1, 2, 8, 4);
  const dO = ramp(1, 5, 2, 4);
  const pattern = /^\[gatedDeltaNetBackward\] saved: /;
  const { saved } = gatedDeltaNetSync({ ...inputs, initialState }, { saveForBackward: true });
  const backward = rankone.gatedDeltaNetBackwardSync;
  throwsWith(() => backward({ ...inputs, dO, saved }), RangeError, pattern);
  backward({ ...inputs, initialState, dO, saved });
  const { saved: without } = gatedDeltaNetSync(inputs, { saveForBackward: true });
  throwsWith(() => backward({ ...inputs, initialState, dO, saved: without }), RangeError, pattern);
});

/**
 * Runs an async function body in a process of its own, so that a crash, or a loop over sizes that only shapes have, is no
 * more than a failed test.
 */
function inChild(body: string): Any {
  const index = JSON.stringify(path.join(__dirname, '../../ts/index.ts'));
  const code = `const rankone = require(${index});
    const empty = (...shape) => ({ data: new Float32Array(0), shape });
    const zeros = (...shape) => ({ data: new Float32Array(shape.reduce((a, b) => a * b, 1)), shape });
    const outcome = (f) => {
      try { return f(); } catch (e) { return { error: e.name, message: e.message }; }
    };
    (async () => { ${body} })().then((r) => console.log(JSON.stringify(r)));`;
  const args = ['--import', 'tsx', '-e', code];
  const { status, signal, stdout, stderr } = spawnSync(process.execPath, args, {
    encoding: 'utf8',
    timeout: 300_000,
  });
  assert.is(status, 0, `ended with ${signal ?? status}: ${stderr}`);
  return JSON.parse(stdout);
}

test('nothing to compute', () => {
  const results = inChild(`const all = [];
    for (const mode of ['auto', 'recurrent', 'chunk'])
      for (const update of ['additive', 'delta'])
        for (const rank of [0, 1, 3, 4])
          for (const [B, T] of [[0, 0], [0, 3], [2, 0]]) {
            const inputs = { q: zeros(B, T, 2, 8), k: zeros(B, T, 2, 8), v: zeros(B, T, 2, 4) };
            if (rank) inputs.g = zeros(...{ 1: [2], 3: [B, T, 2], 4: [B, T, 2, 8] }[rank]);
            if (update === 'delta') inputs.beta = zeros(B, T, 2);
            const run = () => rankone.recurrenceSync(inputs, { mode, outputFinalState: true });
            all.push({ B, T, ...outcome(run) });
          }
    return all;`);
  for (const { B, T, o, finalState, message } of results) {
    assert.is(message, undefined);
    assert.equal(o, { data: {}, shape: [B, T, 2, 4], dtype: 'f32' });
    assert.equal(finalState.shape, [B, 2, 8, 4]);
    const values = Object.values(finalState.data);
    assert.is(values.length, B * 64);
    assert.ok(values.every((x) => x === 0));
  }
});

test('nothing to compute for presets that make their gate', () => {
  const results = inChild(`const all = [];
    for (const name of ['retention', 'lightningAttention'])
      for (const [B, T] of [[0, 0], [0, 3], [2, 0]]) {
        const inputs = { q: zeros(B, T, 2, 8), k: zeros(B, T, 2, 8), v: zeros(B, T, 4, 4) };
        const options = name === 'retention' ? {} : { layer: 1, layers: 2 };
        all.push(outcome(() => rankone[name + 'Sync'](inputs, options)));
        const given = { ...inputs, dO: inputs.v, initialState: zeros(B, 4, 8, 4) };
        all.push(outcome(() => rankone[name + 'BackwardSync'](given, options)));
      }
    return all;`);
  assert.is(results.length, 12);
  for (const { message } of results) assert.is(message, undefined);
});

test('sizes that an empty tensor leaves free', () => {
  const [huge, long, heads] = inChild(`
    const huge = outcome(() => rankone.recurrenceSync(
      { q: empty(68503, 0, 1, 511), k: empty(68503, 0, 1, 511), v: empty(68503, 0, 1843893551143, 511) },
      { outputFinalState: true }));
    const x = empty(2 ** 40, 0, 1, 1);
    const long = outcome(() => void rankone.recurrenceSync({ q: x, k: x, v: x }));
    const e = empty(0, 0, 1, 1);
    const heads = await rankone.retention({ q: e, k: e, v: empty(0, 0, 2 ** 40, 1) }).catch((x) => x.message);
    return [huge, long, heads];`);
  assert.is(huge.error, 'RangeError', JSON.stringify(huge));
  assert.match(huge.message, /^\[recurrence\] /);
  assert.ok([undefined, 'RangeError'].includes(long?.error));
  assert.equal(heads.o?.shape, [0, 0, 2 ** 40, 1], `${heads}`);
});

test('no tokens in very many rows', () => {
  const result = inChild(`
    const x = empty(2 ** 40, 0, 1, 8);
    const { dq, dg } = rankone.recurrenceBackwardSync({ q: x, k: x, v: x, g: zeros(1), dO: x });
    return [dq.shape, [...dg.data]];`);
  assert.equal(result, [[2 ** 40, 0, 1, 8], [0]]);
});

test('indices out of range', () => {
  const weight = ramp(4, 3);
  for (const id of [-1, 4, 2 ** 30])
    throwsWith(
      () => rankone.embeddingSync({ ids: tensor([0, id], [2], 'i32'), weight }),
      RangeError,
      /^\[embedding\] ids: /,
    );
});

test('out of memory is an error', async () => {
  const dims = { batch: 2 ** 20, valueHeads: 2 ** 10, keyDim: 2 ** 9, valueDim: 2 ** 9 };
  throwsWith(() => rankone.createState(dims), RangeError, /^\[createState\] out of memory/);
  // Shorter inputs than this result can be had.
  const [M, N] = [2 ** 22, 2 ** 22];
  const product = {
    a: { data: new Float32Array(M), shape: [M, 1] },
    b: { data: new Float32Array(N), shape: [1, N] },
  };
  const pattern = /^\[matmul\] y: out of memory for shape \[4194304,4194304\]/;
  throwsWith(() => rankone.matmulSync(product), RangeError, pattern);
  await rejectsWith(() => rankone.matmul(product), RangeError, pattern);
});

test('tensor() and setNumThreads()', () => {
  throwsWith(() => tensor([1, 2], [3]), RangeError, /^\[tensor\] data: expected length 3/);
  throwsWith(() => tensor([1, 'x'] as Any, [2]), TypeError, /'x' at 1/);
  throwsWith(() => tensor([1.5], [1], 'i32'), RangeError, /1\.5/);
  throwsWith(() => tensor(new Float64Array(1) as Any, [1]), TypeError, /a Float64Array/);
  throwsWith(
    () => tensor(new Uint16Array(1) as Any, [1], 'f32' as Any),
    TypeError,
    /a Uint16Array/,
  );
  for (const n of [0, -1, 1.5, 1025, Number.NaN])
    throwsWith(() => rankone.setNumThreads(n), RangeError, /^\[setNumThreads\] n: /);
  throwsWith(() => rankone.setNumThreads('2' as Any), TypeError, /n: .*got '2'$/);
  throwsWith(() => rankone.setNumThreads(2n as Any), TypeError, /n: .*got 2n$/);
});

test('the addon refuses a call that the package did not make', () => {
  const { binding, description } = require('../../ts/binding');
  const header = new Float64Array(description.headerSize);
  for (const args of [
    [],
    [0],
    [1e9, header, []],
    [0, new Float64Array(3), []],
    [0, header, 7],
    [-1, header, []],
  ])
    throwsWith(() => binding.call(...args), Error, /^\[/);
  header.fill(Number.NaN);
  throwsWith(() => binding.call(0, header, []), Error, /^\[/);
  header.fill(2 ** 53);
  throwsWith(() => binding.call(0, header, []), Error, /^\[/);
  header.fill(0);
  throwsWith(() => binding.call(0, header, []), Error, /^\[/);
  for (const value of [undefined, {}, 7, new Float32Array(4)]) {
    throwsWith(() => binding.stateRead(value, new Float32Array(1)), TypeError, /state: /);
    throwsWith(() => binding.savedDispose(value), TypeError, /saved: /);
  }
});

test.run();
