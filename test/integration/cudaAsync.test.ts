/** Work in flight on a device: the event loop, overlapping calls, what is let go of meanwhile, environments that end. */
import { monitorEventLoopDelay } from 'node:perf_hooks';
import * as assert from 'uvu/assert';
import { binding } from '../../ts/binding';
import * as rankone from '../../ts/index';
import { problem, ramp, rejectsWith, throwsWith } from '../ops/helpers.ts';
import { runProgram } from '../support/child.ts';
import { cuda, cudaEnvironment, test } from '../support/device.ts';
import { collect, collected, eventually } from '../support/eventually.ts';

const gc = (globalThis as any).gc as (() => void) | undefined;

type Placed = Record<'q' | 'k' | 'v' | 'g' | 'beta', rankone.DeviceTensor<'f32'>>;

function place(host: object): Placed {
  const entries = Object.entries(host).map(([name, x]) => [name, rankone.toDeviceSync(x, 'cuda')]);
  return Object.fromEntries(entries);
}

/** A call that keeps the emulator busy for a while. */
const LONG = [1, 300, 2, 64, 64] as const;
const long = cuda ? place(problem(...LONG)) : ({} as Placed);
const small = cuda ? place(problem()) : ({} as Placed);
const recurrent = { mode: 'recurrent' } as const;

test('a call that is under way does not hold up the event loop', async () => {
  let [alone, least] = [Infinity, Infinity];
  await eventually('the loop goes on', async () => {
    const started = performance.now();
    rankone.gatedDeltaNetSync(long, recurrent).o.toHostSync();
    alone = Math.min(alone, performance.now() - started);
    const delay = monitorEventLoopDelay({ resolution: 1 });
    delay.enable();
    await new Promise((resolve) => setTimeout(resolve, 10));
    const { o } = await rankone.gatedDeltaNet(long, recurrent);
    await o.toHost();
    await rankone.synchronize('cuda');
    await new Promise((resolve) => setTimeout(resolve, 5));
    delay.disable();
    least = Math.min(least, delay.max / 1e6);
    return alone < 20 || least < alone / 2 || `${least} ms, the call itself takes ${alone} ms`;
  });
});

test('overlapping calls are done in the order in which they were made', async () => {
  const expected = rankone.gatedDeltaNetSync(small).o.toHostSync();
  const order: number[] = [];
  const calls = Array.from({ length: 6 }, async (_, i) => {
    const { o } = await rankone.gatedDeltaNet(i === 0 ? long : small, i === 0 ? recurrent : {});
    order.push(i);
    return o;
  });
  const results = await Promise.all(calls);
  assert.equal(order, [0, 1, 2, 3, 4, 5]);
  for (const o of results.slice(1)) assert.equal(await o.toHost(), expected);
});

test('a synchronous call returns before the device is done, and the next one sees its results', () => {
  const state = rankone.createState({
    batch: 1,
    valueHeads: 2,
    keyDim: 8,
    valueDim: 4,
    device: 'cuda',
  });
  const cpu = rankone.createState({ batch: 1, valueHeads: 2, keyDim: 8, valueDim: 4 });
  const host = problem();
  const queued = rankone.gatedDeltaNetSync(long, recurrent);
  for (let i = 0; i < 3; i++) {
    rankone.gatedDeltaNetSync({ ...small, state });
    rankone.gatedDeltaNetSync({ ...host, state: cpu });
  }
  const [a, b] = [state.toTensor().data, cpu.toTensor().data];
  assert.ok(a.every((x, i) => Math.abs(x - b[i]) < 1e-5));
  queued.o.dispose();
});

test('an upload does not wait for what is queued before it', async () => {
  const [ranks, features] = [1024, 1024];
  const spec = { a: ramp(ranks, features), b: ramp(features, ranks), scale: 0.5 };
  const x = ramp(2, features);
  const routing = { kind: 'one', id: 0 } as const;
  const make = (device?: 'cuda') =>
    rankone.createAdapterBank({ inFeatures: features, outFeatures: features, device });
  using cpu = make();
  cpu.load(spec);
  const expected = rankone.loraLinearSync({ x, bank: cpu, routing }).y.data;
  const largest = expected.reduce((most, y) => Math.max(most, Math.abs(y)), 0);
  using onDevice = rankone.toDeviceSync(x, 'cuda');
  const queue = () => {
    for (let i = 0; i < 6; i++) rankone.gatedDeltaNetSync(long, recurrent).o.dispose();
  };
  let least = Infinity;
  let alone = Infinity;
  await eventually('an upload of its own', async () => {
    const started = performance.now();
    queue();
    await rankone.synchronize('cuda');
    alone = Math.min(alone, performance.now() - started);
    // What the adapter gets is memory that a copy in the stream has yet to be made into.
    using source = rankone.toDeviceSync(ramp(2 ** 21), 'cuda');
    queue();
    source.clone().dispose();
    using bank = make('cuda');
    const before = performance.now();
    bank.load(spec); // 8 MB
    least = Math.min(least, performance.now() - before);
    const { y } = rankone.loraLinearSync({ x: onDevice, bank, routing });
    const { data } = await y.toHost();
    assert.ok(data.every((value, i) => Math.abs(value - expected[i]) < 1e-4 * largest));
    return alone < 100 || least < alone / 2 || `${least} ms, the queue takes ${alone} ms`;
  });
});

test('toHost() has what the tensor held when it was called', async () => {
  const o = rankone.toDeviceSync(ramp(1, 5, 2, 4), 'cuda');
  using large = rankone.toDeviceSync(ramp(2 ** 22), 'cuda');
  // Their copies are under way while the device is done with all that follows.
  const before = Array.from({ length: 4 }, () => large.toHost());
  const pending = o.toHost();
  rankone.gatedDeltaNetSync(small, { out: { o } });
  assert.equal((await pending).data, ramp(1, 5, 2, 4).data);
  await Promise.all(before);
  assert.equal(o.toHostSync(), rankone.gatedDeltaNetSync(small).o.toHostSync());
});

test('inputs, results and states may go while a call uses them', async () => {
  const expected = rankone.gatedDeltaNetSync(small).o.toHostSync();
  await collect();
  const before = rankone.deviceMemory('cuda').usedBytes;
  for (let i = 0; i < 20; i++) {
    const own = place(problem());
    rankone.gatedDeltaNetSync(long, recurrent).o.dispose();
    const pending = rankone.gatedDeltaNet(own);
    for (const tensor of Object.values(own)) tensor.dispose();
    const scribble = place(problem()); // takes memory at once, if it were free
    const { o } = await pending;
    const read = o.toHost();
    o.dispose();
    assert.equal(await read, expected);
    for (const tensor of Object.values(scribble)) tensor.dispose();
  }
  assert.ok(rankone.deviceMemory('cuda').usedBytes <= before);
});

test('a state serves one asynchronous call at a time', async () => {
  const state = rankone.createState({
    batch: 1,
    valueHeads: 2,
    keyDim: 64,
    valueDim: 64,
    device: 'cuda',
  });
  const pending = rankone.gatedDeltaNet({ ...long, state }, recurrent);
  throwsWith(() => rankone.gatedDeltaNetSync({ ...long, state }), Error, /state: it is busy/);
  throwsWith(() => state.dispose(), Error, /state: it is busy/);
  throwsWith(() => state.toTensor(), Error, /state: it is busy/);
  await pending;
  state.toTensor();
  state.dispose();
});

test('an aborted signal is heard before the call is made; a call that is under way goes on', async () => {
  const reason = new Error('no');
  const aborted = AbortSignal.abort(reason);
  const end = await rankone.gatedDeltaNet(small, { signal: aborted }).catch((e) => e);
  assert.is(end, reason);
  const aborter = new AbortController();
  const pending = rankone.gatedDeltaNet(long, { ...recurrent, signal: aborter.signal });
  aborter.abort();
  assert.equal((await pending).o.shape, [1, 300, 2, 64]);
});

test('errors of asynchronous calls are rejections', async () => {
  const host = problem();
  const mixed = { ...small, v: host.v } as any;
  await rejectsWith(
    () => rankone.gatedDeltaNet(mixed),
    RangeError,
    /\[gatedDeltaNet\] v: expected a tensor on cuda:0/,
  );
  const huge = { valueHeads: 1000, keyDim: 256, valueDim: 256, device: 'cuda' } as const;
  throwsWith(
    () => rankone.createState({ ...huge, batch: 2 ** 31 - 1 }),
    RangeError,
    /\[createState\] out of memory/,
  );
  throwsWith(
    () => rankone.createState({ ...huge, batch: 100_000 }),
    RangeError,
    /\[createState\] out of memory on cuda:0 \(.+\)/,
  );
  rankone.gatedDeltaNetSync(small).o.toHostSync(); // the device is as it was
});

test('nothing is left of ten thousand decode calls', async () => {
  const shape = { batch: 1, valueHeads: 2, keyDim: 8, valueDim: 4, device: 'cuda' } as const;
  using state = rankone.createState(shape);
  const token = place(problem(1, 1, 2, 8, 4));
  const rounds = async (count: number) => {
    for (let i = 0; i < count; i++) {
      const { o } = rankone.gatedDeltaNetSync({ ...token, state });
      if (i % 2) o.dispose(); // the others are the collector's
      if (i % 500 === 0) await rankone.gatedDeltaNet({ ...token, state });
      if (i % 500 === 0) await rankone.synchronize('cuda');
    }
    await rankone.synchronize('cuda');
    await collect();
  };
  await rounds(1000);
  const used = () => rankone.deviceMemory('cuda').usedBytes;
  const [device, external] = [used(), binding.externalMemory()];
  const { rss } = process.memoryUsage();
  await rounds(10_000);
  if (gc) await collected(() => used() - device, 1e5, 'device memory');
  if (gc) await collected(() => binding.externalMemory() - external, 1e5, 'external memory');
  await collected(() => process.memoryUsage().rss - rss, 64 * 2 ** 20, 'resident');
});

const UP = `
  const up = (p) => Object.fromEntries(Object.entries(p).map(([k, x]) => [k, rankone.toDeviceSync(x, 'cuda')]));
  const long = up(problem(1, 200, 2, 64, 64));`;

function run(main: string, worker = ''): string {
  Object.assign(process.env, cudaEnvironment());
  return runProgram({ main, worker });
}

test('a process that ends while calls are under way', () => {
  const out = run(`${UP}
    for (let i = 0; i < 5; i++) rankone.gatedDeltaNet(long).then(({ o }) => o.toHost());
    rankone.gatedDeltaNetSync(long);
    setTimeout(() => { console.log('out'); process.exit(0); }, 5);`);
  assert.is(out, 'out');
});

test('a process waits for calls that are under way, and ends after them', () => {
  const out = run(`${UP}
    rankone.gatedDeltaNet(long).then(({ o }) => o.toHost()).then(({ shape }) => console.log(shape.join()));`);
  assert.is(out, '1,200,2,64');
});

test('a process ends with synchronous work in the stream, nothing waiting for it', () => {
  const out = run(`${UP} rankone.gatedDeltaNetSync(long); console.log('end of the program');`);
  assert.is(out, 'end of the program');
});

test('workers have streams of their own, and may be terminated at any time', () => {
  const out = run(
    `(async () => {
      for (let i = 0; i < 8; i++) {
        const w = own();
        await new Promise((resolve) => w.once('message', resolve));
        await sleep(3 * i);
        await w.terminate();
      }
      const t = rankone.toDeviceSync(ramp(3), 'cuda');
      console.log((await t.toHost()).data.length);
    })();`,
    `${UP}
    const state = rankone.createState({ batch: 1, valueHeads: 2, keyDim: 64, valueDim: 64, device: 'cuda' });
    rankone.gatedDeltaNet({ ...long, state });
    for (let i = 0; i < 3; i++) rankone.gatedDeltaNet(long).then(({ o }) => o.toHost());
    rankone.packWeight(ramp(300, 300), { format: 'int8', device: 'cuda' });
    parentPort.postMessage('started');`,
  );
  assert.is(out, '3');
});

test('workers compute the same at the same time', () => {
  const out = run(
    `const expected = rankone.gatedDeltaNetSync(problem(1, 20, 2, 16, 16)).o.data;
    let left = 3;
    for (let i = 0; i < 3; i++) {
      const w = own();
      w.on('message', (data) => {
        if (!data.every((x, j) => Math.abs(x - expected[j]) < 1e-5)) { console.log('differs'); process.exit(1); }
      });
      w.on('exit', (code) => { if (code) process.exit(code); if (--left === 0) console.log('done'); });
    }`,
    `const up = (p) => Object.fromEntries(Object.entries(p).map(([k, x]) => [k, rankone.toDeviceSync(x, 'cuda')]));
    const p = up(problem(1, 20, 2, 16, 16));
    (async () => {
      for (let i = 0; i < 5; i++) parentPort.postMessage((await (await rankone.gatedDeltaNet(p)).o.toHost()).data);
    })();`,
  );
  assert.is(out, 'done');
});

test.run();
