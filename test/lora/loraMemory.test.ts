// The fused LoRA product and its arguments' memory: nothing written early, detached and shared arrays, none at all.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import * as rankone from '../../ts/index';
import { ramp, sameBits, throwsWith } from '../ops/helpers';
import { type Any, bank, base, good, IN, ids, M, OUT, routing } from './good';

test('nothing is written before all has been checked', () => {
  const y = { data: new Float32Array(M * OUT).fill(7), shape: [M, OUT] };
  const last = { kind: 'tokens' as const, ids: Int32Array.of(-1, -1, -1, -1, -1, 99) };
  throwsWith(
    () => rankone.loraLinearSync({ ...good, routing: last }, { out: { y } }),
    RangeError,
    /routing\.ids: .*got 99 at 5/,
  );
  assert.ok(y.data.every((v) => v === 7));
});

test('detached, shared and overlapping memory', async () => {
  const wanted = rankone.loraLinearSync(good as Any).y;
  const detached = ramp(M, IN);
  structuredClone(detached.data, { transfer: [detached.data.buffer as ArrayBuffer] });
  throwsWith(
    () => rankone.loraLinearSync({ ...good, x: detached } as Any),
    RangeError,
    /x: expected data of length 60 .*detached/,
  );
  const gone = Int32Array.from(routing.ids);
  structuredClone(gone, { transfer: [gone.buffer] });
  throwsWith(
    () => rankone.loraLinearSync({ ...good, routing: { kind: 'tokens', ids: gone } }),
    RangeError,
    /routing\.ids: expected \[M\] = 6 numbers, got 0/,
  );
  const shared = new Float32Array(new SharedArrayBuffer(M * IN * 4));
  shared.set(good.x.data);
  sameBits(
    rankone.loraLinearSync({ ...good, x: { data: shared, shape: [M, IN] } } as Any).y,
    wanted,
  );
  const memory = new Float32Array(M * IN + M * OUT);
  const x = { data: memory.subarray(0, M * IN), shape: [M, IN] };
  const y = { data: memory.subarray(M * IN - 1, M * IN - 1 + M * OUT), shape: [M, OUT] };
  throwsWith(
    () => rankone.loraLinearSync({ ...good, x } as Any, { out: { y } }),
    RangeError,
    /out\.y: expected memory of its own/,
  );
  // What an asynchronous call was given may change or go at once.
  const mine = { x: ramp(M, IN), ids: Int32Array.from(routing.ids), bias: ramp(OUT) };
  const pending = rankone.loraLinear({
    ...good,
    x: mine.x,
    bias: mine.bias,
    routing: { kind: 'tokens', ids: mine.ids },
  } as Any);
  mine.x.data.fill(NaN);
  mine.ids.fill(99);
  structuredClone(mine.bias.data, { transfer: [mine.bias.data.buffer as ArrayBuffer] });
  sameBits((await pending).y, wanted);
});

test('empty batches', async () => {
  for (const shape of [
    [0, IN],
    [2, 0, IN],
  ]) {
    const x = { data: new Float32Array(0), shape };
    const none = { kind: 'tokens' as const, ids: new Int32Array(0) };
    const { y, t } = await rankone.loraLinear({ x, base, bank, routing: none }, { saveRank: true });
    assert.equal(y.shape, [...shape.slice(0, -1), OUT]);
    assert.equal(t!.shape, [0, 1, 0]);
    const one = { kind: 'one' as const, id: ids[1] };
    const grad = rankone.loraLinearBackwardSync({
      x,
      dY: y,
      base,
      bank,
      routing: one,
      bias: ramp(OUT),
    });
    assert.equal(grad.dx.shape, shape);
    assert.ok(grad.dBias!.data.every((v) => v === 0));
    const { dA, dB, dScale } = grad.adapters.get(ids[1])!;
    assert.equal([dA!.shape, dB!.shape, dScale], [[5, IN], [OUT, 5], 0]);
    assert.ok([...dA!.data, ...dB!.data].every((v) => v === 0));
  }
});

test.run();
