import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { binding } from '../../ts/binding';
import * as rankone from '../../ts/index';
import { collect, collected } from '../support/eventually';
import { endOfAborted, problem, ramp, rejectsWith, sameBits, throwsWith } from './helpers';

const { createState, gatedDeltaNet, gatedDeltaNetSync } = rankone;
const shape = { batch: 2, valueHeads: 2, keyDim: 8, valueDim: 4 };

/** Token t of a problem. */
function token(inputs: ReturnType<typeof problem>, t: number) {
  const cut = ({ data, shape: [B, T, ...rest] }: rankone.Tensor) => {
    const size = rest.reduce((a, b) => a * b, 1);
    const part = new Float32Array(B * size);
    for (let b = 0; b < B; b++)
      part.set(data.subarray((b * T + t) * size, (b * T + t + 1) * size), b * size);
    return { data: part, shape: [B, 1, ...rest] };
  };
  const { q, k, v, g, beta } = inputs;
  return { q: cut(q), k: cut(k), v: cut(v), g: cut(g), beta: cut(beta) };
}

function close(a: Float32Array, b: Float32Array): void {
  assert.is(a.length, b.length);
  for (let i = 0; i < a.length; i++)
    assert.ok(Math.abs(a[i] - b[i]) < 1e-5, `${i}: ${a[i]} ${b[i]}`);
}

test('a decode token by token is the whole sequence', () => {
  const T = 9;
  const inputs = problem(2, T, 2, 8, 4);
  const whole = gatedDeltaNetSync(inputs, { outputFinalState: true });
  const state = createState(shape);
  for (let t = 0; t < T; t++) {
    const { o } = gatedDeltaNetSync({ ...token(inputs, t), state });
    for (let b = 0; b < 2; b++)
      close(
        o.data.subarray(b * 8, b * 8 + 8),
        whole.o.data.subarray((b * T + t) * 8, (b * T + t) * 8 + 8),
      );
  }
  close(state.toTensor().data, whole.finalState!.data);
});

test('a state takes several tokens, synchronously and not', async () => {
  const inputs = problem(2, 9, 2, 8, 4);
  const whole = gatedDeltaNetSync(inputs, { outputFinalState: true });
  const a = createState(shape);
  const b = createState(shape);
  const o = gatedDeltaNetSync({ ...inputs, state: a }).o;
  sameBits((await gatedDeltaNet({ ...inputs, state: b })).o, o);
  close(o.data, whole.o.data);
  close(a.toTensor().data, whole.finalState!.data);
  sameBits(a.toTensor(), b.toTensor());
});

test('starts with zeros; copyFrom, toTensor and clone are copies', () => {
  const state = createState(shape);
  assert.equal(state.shape, [2, 2, 8, 4]);
  assert.ok(state.toTensor().data.every((x) => x === 0));
  const values = ramp(2, 2, 8, 4);
  state.copyFrom(values);
  sameBits(state.toTensor(), values);
  const twin = state.clone();
  gatedDeltaNetSync({ ...problem(2, 3, 2, 8, 4), state });
  sameBits(twin.toTensor(), values);
  state.toTensor().data.fill(7);
  assert.not.equal(state.toTensor().data[0], 7);
});

test('an initial state and a state say the same', () => {
  const inputs = problem(2, 5, 2, 8, 4);
  const initialState = ramp(2, 2, 8, 4);
  const state = createState(shape);
  state.copyFrom(initialState);
  sameBits(
    gatedDeltaNetSync({ ...inputs, state }).o,
    gatedDeltaNetSync({ ...inputs, initialState }).o,
  );
});

test('a state of another shape', () => {
  const state = createState({ ...shape, keyDim: 7 });
  throwsWith(
    () => gatedDeltaNetSync({ ...problem(2, 3, 2, 8, 4), state }),
    RangeError,
    /^\[gatedDeltaNet\] state: expected shape .*\[2,2,8,4\], got \[2,2,7,4\]/,
  );
  throwsWith(
    () => state.copyFrom(ramp(2, 2, 8, 4)),
    RangeError,
    /^\[RecurrentState.copyFrom\] tensor: expected shape/,
  );
  throwsWith(() => state.copyFrom(null as any), TypeError, /tensor: expected a tensor/);
  const wrong = (data: any, pattern: RegExp) =>
    throwsWith(() => state.copyFrom({ data, shape: [2, 2, 7, 4] }), TypeError, pattern);
  wrong(new Float64Array(112), /tensor: expected data in a Float32Array, got a Float64Array/);
  wrong(new Int32Array(112), /tensor: expected data in a Float32Array, got an? Int32Array/);
  wrong([1, 2], /tensor: expected data in a Float32Array, got an array/);
  throwsWith(() => state.copyFrom({ data: ramp(112).data } as any), TypeError, /got undefined/);
  const short = { data: new Float32Array(3), shape: [2, 2, 7, 4] };
  throwsWith(() => state.copyFrom(short), RangeError, /expected 112 numbers, got 3/);
});

test('dimensions that no call takes', () => {
  const refuse = (change: object, kind: typeof RangeError, pattern: RegExp) =>
    throwsWith(() => createState({ ...shape, ...change }), kind, pattern);
  refuse({ keyDim: 513 }, RangeError, /^\[createState\] keyDim: expected .*1 to 512, got 513$/);
  refuse({ valueDim: 513 }, RangeError, /^\[createState\] valueDim: expected .*1 to 512, got 513$/);
  for (const field of Object.keys(shape)) {
    for (const value of [0, -1, 1.5, Number.NaN])
      refuse({ [field]: value }, RangeError, new RegExp(`${field}: .*got ${value}$`, 'i'));
    refuse({ [field]: '4' }, TypeError, new RegExp(`${field}: .*got '4'$`));
  }
  createState({ ...shape, keyDim: 512, valueDim: 512 }).dispose();
});

test('a busy state', async () => {
  const inputs = problem(2, 50, 2, 8, 4);
  const state = createState(shape);
  const first = gatedDeltaNet({ ...inputs, state });
  await rejectsWith(
    () => gatedDeltaNet({ ...inputs, state }),
    Error,
    /^\[gatedDeltaNet\] state: it is busy/,
  );
  // The rejection took a turn of the microtasks only; the first call's completion needs one of the event loop.
  throwsWith(() => gatedDeltaNetSync({ ...inputs, state }), Error, /state: it is busy/);
  throwsWith(() => state.toTensor(), Error, /busy/);
  throwsWith(() => state.copyFrom(ramp(2, 2, 8, 4)), Error, /busy/);
  throwsWith(() => state.clone(), Error, /busy/);
  throwsWith(() => state.dispose(), Error, /busy/);
  assert.is(state.disposed, false);
  await first;
  gatedDeltaNetSync({ ...inputs, state });
  state.dispose();
});

test('a disposed state', async () => {
  const inputs = problem(2, 3, 2, 8, 4);
  const state = createState(shape);
  state.dispose();
  state.dispose();
  assert.is(state.disposed, true);
  throwsWith(() => gatedDeltaNetSync({ ...inputs, state }), Error, /state: it has been disposed/);
  await rejectsWith(() => gatedDeltaNet({ ...inputs, state }), Error, /disposed/);
  throwsWith(() => state.toTensor(), Error, /disposed/);
  throwsWith(() => state.clone(), Error, /disposed/);
});

test('using', () => {
  let kept: rankone.RecurrentState;
  {
    using state = createState(shape);
    kept = state;
    assert.is(kept.disposed, false);
  }
  assert.is(kept.disposed, true);
});

test('a call that fails in validation leaves the state as it was', () => {
  const state = createState(shape);
  const values = ramp(2, 2, 8, 4);
  state.copyFrom(values);
  const inputs = problem(2, 3, 2, 8, 4);
  throwsWith(() => gatedDeltaNetSync({ ...inputs, beta: ramp(1), state }), RangeError, /beta/);
  sameBits(state.toTensor(), values);
  gatedDeltaNetSync({ ...inputs, state });
});

test('an aborted call poisons the state until copyFrom', async () => {
  const state = createState({ batch: 2, valueHeads: 2, keyDim: 128, valueDim: 128 });
  const inputs = problem(2, 4000, 2, 128, 128);
  const next = problem(2, 1, 2, 128, 128);
  const end = await endOfAborted((signal) => gatedDeltaNet({ ...inputs, state }, { signal }));
  assert.match(end.message, /aborted/);
  const pattern = /^\[gatedDeltaNet\] state: .*copyFrom/;
  throwsWith(() => gatedDeltaNetSync({ ...next, state }), Error, pattern);
  throwsWith(() => state.toTensor(), Error, /copyFrom/);
  state.copyFrom(ramp(2, 2, 128, 128));
  gatedDeltaNetSync({ ...next, state });
});

test('memory of states and of saved is told to the garbage collector and given back', async () => {
  const external = () => binding.externalMemory();
  const megabytes = 2 ** 20;
  await collect();
  const before = external();
  const state = createState({ batch: 16, valueHeads: 16, keyDim: 128, valueDim: 128 }); // 16 MiB
  assert.ok(external() - before >= 16 * megabytes);
  state.dispose();
  assert.ok(external() - before < 2 * megabytes);
  for (let i = 0; i < 8; i++)
    createState({ batch: 16, valueHeads: 16, keyDim: 128, valueDim: 128 });
  gatedDeltaNetSync(problem(1, 512, 8, 64, 64), { saveForBackward: true });
  await collected(() => external() - before, 2 * megabytes, 'left');
});

test.run();
