/** Tensors on devices, and what calls must refuse about them. */
import * as assert from 'uvu/assert';
import * as rankone from '../../ts/index';
import { problem, ramp, throwsWith } from '../ops/helpers.ts';
import { cuda, test } from '../support/device.ts';
import { encode } from '../support/half.ts';
import { native } from '../support/native.ts';

const { toDeviceSync: up } = rankone;

function placedProblem(...dims: Parameters<typeof problem>) {
  const host = problem(...dims);
  const there = Object.entries(host).map(([name, x]) => [name, up(x, 'cuda')]);
  return { host, there: Object.fromEntries(there) as Record<string, rankone.DeviceTensor> };
}

test('there and back in every dtype, bit for bit', async () => {
  const shape = [3, 5];
  const host = ramp(...shape);
  for (const given of [host, encode('bf16', host), encode('f16', host)] as any[]) {
    const tensor = await rankone.toDevice(given, 'cuda');
    assert.is(tensor.device, 'cuda:0');
    assert.equal(tensor.shape, shape);
    assert.is(tensor.dtype, given.dtype ?? 'f32');
    assert.is(tensor.bytes, given.data.byteLength);
    assert.equal((await tensor.toHost()).data, given.data);
    const copy = tensor.clone();
    tensor.dispose();
    assert.equal(copy.toHostSync(), { data: given.data, shape, dtype: given.dtype ?? 'f32' });
    assert.equal(up(given, 'cuda:0').toHostSync().data, given.data);
    copy.dispose();
  }
  const none = await rankone.toDevice(ramp(0, 4), 'cuda');
  assert.equal((await none.toHost()).shape, [0, 4]);
  assert.is(none.bytes, 0);
});

test('the tensor may change as soon as the call has returned', async () => {
  const host = ramp(1000);
  const expected = host.data.slice();
  const pending = rankone.toDevice(host, 'cuda');
  host.data.fill(0);
  const tensor = await pending;
  assert.equal((await tensor.toHost()).data, expected);
  const own = up({ data: expected, shape: [1000] }, 'cuda');
  host.data.set(expected);
  expected.fill(1);
  assert.equal(own.toHostSync().data, host.data);
});

test('Float16Array comes back as one', () => {
  const { Float16Array } = globalThis as any;
  if (!Float16Array) return;
  const q = { data: new Float16Array(2 * 4).fill(0.5), shape: [1, 2, 1, 4] };
  const there = up(q as any, 'cuda') as any;
  assert.instance(there.toHostSync().data, Float16Array);
  const { o } = rankone.linearAttentionSync({ q: there, k: there, v: there });
  assert.instance((o as any).toHostSync().data, Float16Array);
});

test('what is no tensor or no device', async () => {
  const t = ramp(2);
  const cases: [unknown, unknown, any, RegExp][] = [
    [t, 'gpu', RangeError, /\[toDevice\] device: expected 'cpu', 'cuda' or 'cuda:N', got 'gpu'/],
    [t, 'cpu', RangeError, /\[toDevice\] device: expected 'cuda' or 'cuda:N', got 'cpu'/],
    [t, undefined, RangeError, /device: expected 'cuda' or 'cuda:N', got undefined/],
    [t, 0, TypeError, /\[toDevice\] device: expected .*, got 0/],
    [t, 'cuda:99', RangeError, /device: expected one of cuda:0 to cuda:\d+, got 'cuda:99'/],
    [t, 'cuda:-1', RangeError, /got 'cuda:-1'/],
    [
      { data: Int32Array.of(1), shape: [1] },
      'cuda',
      TypeError,
      /expected dtype f32, bf16 or f16, got i32/,
    ],
    [{ data: t.data, shape: [3] }, 'cuda', RangeError, /expected data of length 3 .*, got 2/],
    [undefined, 'cuda', TypeError, /tensor: expected a tensor/],
    [up(t, 'cuda'), 'cuda', TypeError, /expected a tensor on the CPU, got a DeviceTensor/],
  ];
  for (const [tensor, device, kind, pattern] of cases) {
    throwsWith(() => rankone.toDeviceSync(tensor as any, device as any), kind, pattern);
    const rejected = await rankone.toDevice(tensor as any, device as any).catch((e) => e);
    assert.instance(rejected, kind);
    assert.match(rejected.message, pattern);
  }
  throwsWith(() => new (rankone.DeviceTensor as any)(), TypeError, /expected toDevice\(\)/);
  throwsWith(() => rankone.synchronizeSync('cpu'), RangeError, /\[synchronize\] device/);
});

test('all tensors of a call are on one device', () => {
  const { host, there } = placedProblem();
  const run = (inputs: object, options?: object) => () => native.gatedDeltaNetSync(inputs, options);
  const at = /expected a tensor on cuda:0 as q is, got one on cpu/;
  throwsWith(
    run({ ...there, v: host.v }),
    RangeError,
    /\[gatedDeltaNet\] v: expected a tensor on cuda:0 as q is, got one on cpu/,
  );
  throwsWith(
    run({ ...host, beta: there.beta }),
    RangeError,
    /beta: expected a tensor on cpu as q is, got one on cuda:0/,
  );
  throwsWith(run({ ...there, initialState: ramp(1, 2, 8, 4) }), RangeError, at);
  const gate = { aLog: ramp(2) };
  throwsWith(run(there, { gate }), RangeError, /gate.aLog: expected a tensor on cuda:0/);
  throwsWith(
    run(there, { device: 'cpu' }),
    RangeError,
    /device: expected 'cuda:0' as q is there, got 'cpu'/,
  );
  throwsWith(
    run(host, { device: 'cuda' }),
    RangeError,
    /device: expected 'cpu' as q is there, got 'cuda:0'/,
  );
  run(there, { device: 'cuda' })();
  run(host, { device: 'cpu' })();
  const shape = { batch: 1, valueHeads: 2, keyDim: 8, valueDim: 4 };
  const [cpu, device] = [
    rankone.createState(shape),
    rankone.createState({ ...shape, device: 'cuda' }),
  ];
  throwsWith(
    run({ ...there, state: cpu }),
    RangeError,
    /state: expected one on cuda:0 as q is, got one on cpu/,
  );
  throwsWith(
    run({ ...host, state: device }),
    RangeError,
    /state: expected one on cpu as q is, got one on cuda:0/,
  );
  const saved = native.gatedDeltaNetSync(there, { saveForBackward: true }).saved;
  const dO = ramp(1, 5, 2, 4);
  const backward = () => native.gatedDeltaNetBackwardSync({ ...host, dO, saved });
  throwsWith(backward, RangeError, /saved: expected one on cpu as q is, got one on cuda:0/);
  const other = { ...there, dO: up(dO, 'cuda'), saved };
  const recurrent = () => native.gatedDeltaNetBackwardSync(other, { mode: 'recurrent' });
  throwsWith(recurrent, RangeError, /saved: expected what a forward of the same problem left/);
  native.gatedDeltaNetBackwardSync(other, { mode: 'chunk' });
});

test('weights and banks are where the tensors are', () => {
  const weight = ramp(6, 4);
  const [x, there] = [ramp(3, 4), up(ramp(3, 4), 'cuda')];
  const bases = [undefined, 'cuda' as const].map((device) =>
    rankone.packWeightSync(weight, { format: 'f32', ...(device && { device }) }),
  );
  const run = (inputs: object) => () => native.loraLinearSync(inputs);
  throwsWith(
    run({ x: there, base: bases[0] }),
    RangeError,
    /base: expected one on cuda:0 as x is, got one on cpu/,
  );
  throwsWith(
    run({ x, base: bases[1] }),
    RangeError,
    /base: expected one on cpu as x is, got one on cuda:0/,
  );
  const bank = rankone.createAdapterBank({ inFeatures: 4, outFeatures: 6, device: 'cuda' });
  const id = bank.load({ a: ramp(2, 4), b: ramp(6, 2) });
  const routing = { kind: 'one', id };
  throwsWith(
    run({ x, base: bases[0], bank, routing }),
    RangeError,
    /bank: expected one on cpu as x is, got one on cuda:0/,
  );
  throwsWith(
    () => bank.load({ a: up(ramp(2, 4), 'cuda') as any, b: ramp(6, 2) }),
    RangeError,
    /a: expected a tensor on the CPU, as this function has no CUDA form, got one on cuda:0/,
  );
  throwsWith(
    () => rankone.mergeAdapterSync(bases[0], bank, id),
    RangeError,
    /\[mergeAdapter\] bank: expected one on the CPU/,
  );
  throwsWith(
    () => native.loraLinearSync({ x: there, base: bases[1] }, { compute: 'int8' }),
    RangeError,
    /compute: expected 'f32' or 'bf16' on cuda:0, got 'int8'|unless base has format/,
  );
  throwsWith(
    () => native.packWeightSync(there, { format: 'f32' }),
    RangeError,
    /weight: expected a tensor on the CPU/,
  );
});

test('functions without a CUDA form say so', () => {
  const there = up(ramp(2, 4), 'cuda');
  throwsWith(
    () => native.rmsNormSync({ x: there, weight: ramp(4) }),
    RangeError,
    /\[rmsNorm\] x: expected a tensor on the CPU, as this function has no CUDA form, got one on cuda:0/,
  );
  throwsWith(
    () => native.matmulSync({ a: ramp(2, 4), b: up(ramp(4, 2), 'cuda') }),
    RangeError,
    /\[matmul\] b: expected a tensor on the CPU/,
  );
});

test('indices stay on the CPU', () => {
  const { there } = placedProblem();
  const index = up(ramp(2), 'cuda');
  const run = (options: object) => () => native.gatedDeltaNetSync(there, options);
  throwsWith(
    run({ cuSeqlens: index }),
    TypeError,
    /cuSeqlens: expected an Int32Array or a BigInt64Array, got a DeviceTensor/,
  );
  const { o } = native.gatedDeltaNetSync(there, { cuSeqlens: Int32Array.of(0, 2, 5) });
  assert.equal(o.shape, [1, 5, 2, 4]);
});

test('sizes and dtypes are checked as on the CPU', () => {
  const { there } = placedProblem();
  const run = (inputs: object) => () => native.gatedDeltaNetSync({ ...there, ...inputs });
  throwsWith(
    run({ beta: up(ramp(1, 5, 3), 'cuda') }),
    RangeError,
    /beta: expected shape \[B,T,HV\] = \[1,5,2\], got \[1,5,3\]/,
  );
  throwsWith(
    run({ k: up(encode('bf16', ramp(1, 5, 2, 8)) as any, 'cuda') }),
    TypeError,
    /k: expected dtype f32 \(that of q\), got bf16/,
  );
  const wide = up(ramp(1, 1, 1, 257), 'cuda');
  throwsWith(
    () => native.linearAttentionSync({ q: wide, k: wide, v: wide }),
    RangeError,
    /q: expected a size from 1 to 256 on cuda:0, got shape \[1,1,1,257\]/,
  );
  const shape = { batch: 1, valueHeads: 1, keyDim: 300, valueDim: 4, device: 'cuda' } as const;
  throwsWith(
    () => rankone.createState(shape),
    RangeError,
    /keyDim: expected an integer from 1 to 256 on cuda:0, got 300/,
  );
});

test('outputs of the caller', () => {
  const { host, there } = placedProblem();
  const expected = rankone.gatedDeltaNetSync(host).o;
  const room = (...shape: number[]) => up(ramp(...shape), 'cuda');
  const run = (out: object) => () => native.gatedDeltaNetSync(there, { out });
  const o = room(1, 5, 2, 4);
  const result = run({ o })();
  assert.is(result.o, o);
  const { data } = o.toHostSync();
  assert.ok(data.every((x, i) => Math.abs(x - expected.data[i]) < 1e-6));
  throwsWith(
    run({ o: ramp(1, 5, 2, 4) }),
    RangeError,
    /out.o: expected a tensor on cuda:0 as the inputs are, got one on cpu/,
  );
  throwsWith(
    () => native.gatedDeltaNetSync(host, { out: { o } }),
    RangeError,
    /out.o: expected a tensor on cpu as the inputs are, got one on cuda:0/,
  );
  throwsWith(run({ o: room(1, 5, 2, 5) }), RangeError, /out.o: expected shape/);
  throwsWith(
    run({ o: up(encode('f16', ramp(1, 5, 2, 4)) as any, 'cuda') }),
    TypeError,
    /out.o: expected dtype f32, got f16/,
  );
  const square = placedProblem(1, 5, 2, 4, 4);
  throwsWith(
    () => native.gatedDeltaNetSync(square.there, { out: { o: square.there.v } }),
    RangeError,
    /out.o: expected memory of its own, got memory shared with v/,
  );
});

test('disposed tensors are errors by the name of the argument', async () => {
  const { there } = placedProblem();
  there.k.dispose();
  there.k.dispose();
  assert.is(there.k.disposed, true);
  assert.is(there.k.bytes, 0);
  throwsWith(
    () => native.gatedDeltaNetSync(there),
    Error,
    /\[gatedDeltaNet\] k: it has been disposed/,
  );
  throwsWith(
    () => there.k.toHostSync(),
    Error,
    /\[DeviceTensor.toHost\] tensor: it has been disposed/,
  );
  assert.match((await there.k.toHost().catch((e) => e)).message, /it has been disposed/);
  throwsWith(() => there.k.clone(), Error, /disposed/);
  const state = rankone.createState({
    batch: 1,
    valueHeads: 2,
    keyDim: 8,
    valueDim: 4,
    device: 'cuda',
  });
  state.dispose();
  const other = placedProblem().there;
  throwsWith(
    () => native.gatedDeltaNetSync({ ...other, state }),
    Error,
    /state: it has been disposed/,
  );
});

test('two devices', async () => {
  if (cuda!.devices < 2) return;
  const { host, there } = placedProblem();
  const second = Object.fromEntries(
    Object.entries(host).map(([name, x]) => [name, up(x, 'cuda:1')]),
  );
  const mixed = () => native.gatedDeltaNetSync({ ...there, g: second.g });
  throwsWith(mixed, RangeError, /g: expected a tensor on cuda:0 as q is, got one on cuda:1/);
  const [a, b] = [native.gatedDeltaNetSync(there).o, native.gatedDeltaNetSync(second).o];
  assert.is(b.device, 'cuda:1');
  assert.equal((await a.toHost()).data, (await b.toHost()).data);
  assert.ok(rankone.deviceMemory('cuda:1').usedBytes > 0);
});

test('info() knows the devices', () => {
  const { devices, library, reason } = rankone.info().cuda;
  assert.is(reason, undefined);
  assert.is(library, cuda!.library);
  assert.is(devices.length, cuda!.devices);
  assert.match(devices[0].computeCapability, /^\d+\.\d$/);
  assert.is(devices[0].emulated, cuda!.emulated);
});

test.run();
