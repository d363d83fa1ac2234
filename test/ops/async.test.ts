import { getEventListeners } from 'node:events';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import * as rankone from '../../ts/index';
import { collect, collected, eventually } from '../support/eventually';
import { endOfAborted, problem, ramp, rejectsWith, sameBits } from './helpers';

const { gatedDeltaNet, gatedDeltaNetSync, matmul, matmulSync } = rankone;
const turn = (ms = 0) => new Promise((resolve) => setTimeout(resolve, ms));

test('inputs are copied at the call', async () => {
  const inputs = problem(2, 30, 2, 16, 8);
  const expected = gatedDeltaNetSync(inputs).o;
  const pending = gatedDeltaNet(inputs);
  for (const t of Object.values(inputs)) t.data.fill(Number.NaN);
  sameBits((await pending).o, expected);
});

test('inputs may be transferred away after the call', async () => {
  const inputs = problem(2, 30, 2, 16, 8);
  const expected = gatedDeltaNetSync(inputs).o;
  const pending = gatedDeltaNet(inputs);
  for (const t of Object.values(inputs))
    structuredClone(t.data, { transfer: [t.data.buffer as ArrayBuffer] });
  sameBits((await pending).o, expected);
});

test('many calls overlap', async () => {
  const sizes = Array.from({ length: 60 }, (_, i) => 1 + ((i * 7) % 40));
  const results = await Promise.all(sizes.map((T) => gatedDeltaNet(problem(1, T, 2, 8, 4))));
  for (const [i, T] of sizes.entries())
    sameBits(results[i].o, gatedDeltaNetSync(problem(1, T, 2, 8, 4)).o);
});

test('the event loop goes on while a kernel runs', async () => {
  // Until a call is long enough for many ticks, however fast the machine is.
  await eventually('ticks while a call ran', async (round) => {
    const { q, k, v, g } = problem(1, 4096 * 2 ** Math.min(round, 6), 4, 64, 64);
    let ticks = 0;
    const pending = rankone.simpleGla({ q, k, v, g }, { mode: 'recurrent' });
    const timer = setInterval(() => ticks++, 5);
    await pending;
    clearInterval(timer);
    return ticks >= 5 || `${ticks}`;
  });
});

test('out that is detached meanwhile', async () => {
  const inputs = problem(2, 400, 2, 16, 8);
  const o = ramp(2, 400, 2, 8);
  const pending = gatedDeltaNet(inputs, { out: { o } });
  structuredClone(o.data, { transfer: [o.data.buffer as ArrayBuffer] });
  await rejectsWith(() => pending, RangeError, /^\[gatedDeltaNet\] out\.o: .*detached/);
});

test('a state whose outputs were lost is not taken for whole', async () => {
  const inputs = problem(1, 400, 2, 16, 8);
  const state = rankone.createState({ batch: 1, valueHeads: 2, keyDim: 16, valueDim: 8 });
  const o = ramp(1, 400, 2, 8);
  const pending = gatedDeltaNet({ ...inputs, state }, { out: { o } });
  structuredClone(o.data, { transfer: [o.data.buffer as ArrayBuffer] });
  await rejectsWith(() => pending, RangeError, /out\.o: .*detached/);
  await rejectsWith(() => gatedDeltaNet({ ...inputs, state }), Error, /state: .*copyFrom/);
  state.copyFrom(ramp(1, 2, 16, 8));
  await gatedDeltaNet({ ...inputs, state });
});

test('out that grows meanwhile', async () => {
  const resizable = (ArrayBuffer.prototype as any).resize !== undefined;
  if (!resizable) return;
  const buffer = new (ArrayBuffer as any)(400 * 2 * 2 * 8 * 4, { maxByteLength: 2 ** 20 });
  const o = { data: new Float32Array(buffer), shape: [2, 400, 2, 8] };
  const pending = gatedDeltaNet(problem(2, 400, 2, 16, 8), { out: { o } });
  buffer.resize(2 ** 20);
  await rejectsWith(() => pending, RangeError, /^\[gatedDeltaNet\] out\.o: .*resized/);
});

test('arguments updated in place are written on completion, all or none', async () => {
  const make = () => ({
    param: ramp(9),
    grad: ramp(9),
    m: ramp(9),
    v: rankone.tensor(new Float32Array(9), [9]),
  });
  const inputs = make();
  const pending = rankone.adamW(inputs, { step: 1, lr: 0.1 });
  assert.equal(inputs.param.data, ramp(9).data);
  await pending;
  assert.not.equal(inputs.param.data, ramp(9).data);

  const lost = make();
  const failing = rankone.adamW(lost, { step: 1, lr: 0.1 });
  structuredClone(lost.v.data, { transfer: [lost.v.data.buffer as ArrayBuffer] });
  await rejectsWith(() => failing, RangeError, /^\[adamW\] v: .*detached/);
  assert.equal(lost.param.data, ramp(9).data);
});

test('a signal that is aborted already', async () => {
  const reason = new Error('no need');
  const out = { o: ramp(1, 5, 2, 4) };
  const before = out.o.data.slice();
  const error = await gatedDeltaNet(problem(), { signal: AbortSignal.abort(reason), out }).catch(
    (e) => e,
  );
  assert.is(error, reason);
  await turn(5);
  assert.equal(out.o.data, before);
});

test('an abort ends a long call with the reason of the signal', async () => {
  const a = ramp(1536, 1536);
  const reason = { any: 'value' };
  const start = (signal: AbortSignal) => matmul({ a, b: a }, { signal });
  assert.is(await endOfAborted(start, reason), reason);
  assert.is((await endOfAborted(start)).name, 'AbortError');
  const aborter = new AbortController();
  const pending = start(aborter.signal).then(
    () => 'finished',
    (e) => e,
  );
  await turn(3);
  aborter.abort(reason);
  const end = await pending;
  assert.ok(end === reason || end === 'finished');
  assert.is(getEventListeners(aborter.signal, 'abort').length, 0);
});

test('a signal that is never aborted keeps no listener', async () => {
  const { signal } = new AbortController();
  const inputs = problem();
  sameBits((await gatedDeltaNet(inputs, { signal })).o, gatedDeltaNetSync(inputs).o);
  assert.is(getEventListeners(signal, 'abort').length, 0);
  await rejectsWith(
    () => gatedDeltaNet({ ...inputs, beta: ramp(1) }, { signal }),
    RangeError,
    /beta/,
  );
  assert.is(getEventListeners(signal, 'abort').length, 0);
  await rejectsWith(
    () => gatedDeltaNet(inputs, { signal: {} as any }),
    TypeError,
    /signal: expected an AbortSignal/,
  );
});

test('many calls on one signal', async () => {
  const warnings: Error[] = [];
  const note = (warning: Error) => warnings.push(warning);
  process.on('warning', note);
  const a = ramp(512, 512);
  const reason = new Error('all of them');
  const run = async (abort: boolean): Promise<any[]> => {
    const aborter = new AbortController();
    const { signal } = aborter;
    const pending = Array.from({ length: 30 }, () =>
      matmul({ a, b: a }, { signal }).catch((error) => error),
    );
    assert.is(getEventListeners(signal, 'abort').length, 1);
    if (abort) aborter.abort(reason);
    const ends = await Promise.all(pending);
    assert.is(getEventListeners(signal, 'abort').length, 0);
    return ends;
  };
  assert.ok((await run(false)).every((end) => end.y));
  for (let attempt = 0; ; attempt++) {
    const ends = await run(true);
    // Those that had ended by then are results; on a busy machine that may be all of them.
    assert.ok(ends.every((end) => end.y || end === reason));
    if (ends.includes(reason)) break;
    assert.ok(attempt < 20, 'an abort comes before the end of thirty calls');
  }
  await turn(5);
  process.off('warning', note);
  assert.equal(warnings, []);
});

test('signals that are not of the platform', async () => {
  const signal = { aborted: true, addEventListener() {}, removeEventListener() {} };
  const error = await gatedDeltaNet(problem(), { signal }).catch((e) => e);
  assert.is(error.name, 'AbortError');
  assert.instance(error, Error);
  const half = { aborted: false, addEventListener() {} } as any;
  await rejectsWith(
    () => gatedDeltaNet(problem(), { signal: half }),
    TypeError,
    /^\[gatedDeltaNet\] signal: expected an AbortSignal, got an object/,
  );
});

test('an aborted call leaves the engine usable', async () => {
  const a = ramp(512, 512);
  const expected = matmulSync({ a, b: a }).y;
  for (let i = 0; i < 20; i++) {
    const aborter = new AbortController();
    const doomed = matmul({ a, b: a }, { signal: aborter.signal }).catch(() => {});
    const good = matmul({ a, b: a });
    aborter.abort();
    await doomed;
    sameBits((await good).y, expected);
  }
});

test('large results are collected', async () => {
  const a = ramp(1024, 1024);
  await collect();
  const used = () => process.memoryUsage().arrayBuffers;
  const before = used();
  for (let i = 0; i < 8; i++) await matmul({ a, b: a });
  for (let i = 0; i < 8; i++) matmulSync({ a, b: a });
  await collected(() => used() - before, 10 * 2 ** 20, 'left of 64 MiB');
});

test.run();
