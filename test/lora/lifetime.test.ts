// What the fused LoRA product leaves behind: nothing, however calls end, and whoever forgets to dispose of what.
import { spawnSync } from 'node:child_process';
import path from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { binding } from '../../ts/binding';
import * as rankone from '../../ts/index';
import { endOfAborted, ramp, sameBits } from '../ops/helpers';
import { collect, collected, eventually } from '../support/eventually';

const MIB = 2 ** 20;
const gc = (globalThis as any).gc as () => void;

interface Usage {
  rss: number;
  heapUsed: number;
  told: number;
}

async function usage(): Promise<Usage> {
  await collect();
  const { rss, heapUsed } = process.memoryUsage();
  return { rss, heapUsed, told: binding.externalMemory() };
}

const [IN, OUT, M] = [24, 16, 4];
const x = ramp(M, IN);
const dY = ramp(M, OUT);
const weight = ramp(OUT, IN);
const spec = { a: ramp(3, IN), b: ramp(OUT, 3) };
const longLived = rankone.createAdapterBank({ inFeatures: IN, outFeatures: OUT });
const first = longLived.load(spec);

/** Every way that a call can go; half of the objects are left to the collector. */
async function calls(round: number): Promise<void> {
  const sync = <T>(call: () => T): T | undefined => {
    try {
      return call();
    } catch {
      return undefined;
    }
  };
  const running: Promise<unknown>[] = [];
  const start = (call: () => Promise<unknown>): void => {
    running.push(call().catch(() => undefined));
  };
  const base = rankone.packWeightSync(weight, { format: round % 3 ? 'nf4' : 'f32' });
  const bank = rankone.createAdapterBank({ inFeatures: IN, outFeatures: OUT });
  const id = bank.load(spec);
  const routing = { kind: 'one' as const, id };
  const inputs = { x, base, bank, routing };
  sync(() => rankone.loraLinearSync(inputs, { saveRank: true }));
  sync(() => rankone.loraLinearSync({ ...inputs, bank: undefined } as any));
  sync(() => rankone.loraLinearBackwardSync({ ...inputs, dY }));
  sync(() => bank.load({ ...spec, a: ramp(2, IN) }));
  sync(() => bank.replace(id, { ...spec, mid: ramp(3) }));
  sync(() => bank.replace(99, spec));
  sync(() => rankone.mergeAdapterSync(base, bank, id).toTensor());
  start(() => rankone.loraLinear(inputs));
  start(() => rankone.loraLinear({ ...inputs, routing: { kind: 'one', id: 99 } }));
  start(() => rankone.loraLinearBackward({ ...inputs, dY }));
  start(() =>
    rankone.loraLinear({ ...inputs, bank: longLived, routing: { kind: 'one', id: first } }),
  );
  start(() => rankone.packWeight(weight, { format: 'q4' }));
  start(() => rankone.mergeAdapter(base, bank, id, { format: 'q8' }));
  const aborter = new AbortController();
  start(() => rankone.loraLinear(inputs, { signal: aborter.signal }));
  start(() => rankone.packWeight(weight, { format: 'bf16', signal: aborter.signal }));
  aborter.abort();
  longLived.evict(longLived.load(spec));
  longLived.replace(first, spec);
  if (round % 2 === 0) {
    bank.dispose();
    base.dispose();
  }
  await Promise.all(running);
}

test('memory is stable over tens of thousands of calls', async () => {
  const run = async (count: number) => {
    for (let round = 0; round < count; round++) {
      await calls(round);
      if (round % 100 === 0) await collect();
    }
  };
  await run(1500);
  let after = await usage();
  // The heap's own growth by steps is no leak: that would show every time.
  const stable = async () => {
    const before = after;
    await run(1000);
    after = await usage();
    const grown = (name: keyof Usage) => after[name] - before[name];
    // A slab of each bank would be 2 GB, a weight's words of each 1.5 MB, an adapter of each 4 MB.
    const same =
      grown('rss') < 4 * MIB && grown('heapUsed') < 2 * MIB && Math.abs(grown('told')) < MIB / 2;
    const text = JSON.stringify({ before, after });
    if (process.env.RANKONE_TEST_FIGURES) console.log(text);
    return same || text;
  };
  await eventually('memory of a thousand rounds', stable, 6);
});

test('what nobody holds any more the collector frees, weights and banks alike', async () => {
  const large = ramp(1024, 1024);
  const factors = { a: ramp(64, 1024), b: ramp(1024, 64) };
  await collect();
  const before = binding.externalMemory();
  const make = () => {
    for (let i = 0; i < 10; i++) {
      rankone.packWeightSync(large, { format: 'f32' });
      rankone.createAdapterBank({ inFeatures: 1024, outFeatures: 1024 }).load(factors);
    }
  };
  make();
  await collected(() => binding.externalMemory() - before, 8 * MIB, 'told to the collector');
});

test('an object lives while a call uses it, though nobody else does', async () => {
  const wanted = rankone.loraLinearSync({
    x,
    base: rankone.packWeightSync(weight, { format: 'f32' }),
    bank: longLived,
    routing: { kind: 'one', id: first },
  }).y;
  const start = () => {
    const bank = rankone.createAdapterBank({ inFeatures: IN, outFeatures: OUT });
    const base = rankone.packWeightSync(weight, { format: 'f32' });
    return rankone.loraLinear({ x, base, bank, routing: { kind: 'one', id: bank.load(spec) } });
  };
  const running = Array.from({ length: 50 }, start);
  gc();
  for (const { y } of await Promise.all(running)) sameBits(y, wanted);
});

test('an aborted call ends with its reason, and the bank and the weight serve the next', async () => {
  const [inFeatures, outFeatures] = [1024, 1024];
  const base = rankone.packWeightSync(ramp(outFeatures, inFeatures), { format: 'f32' });
  const bank = rankone.createAdapterBank({ inFeatures, outFeatures });
  const id = bank.load({ a: ramp(16, inFeatures), b: ramp(outFeatures, 16) });
  const inputs = { x: ramp(1024, inFeatures), base, bank, routing: { kind: 'one' as const, id } };
  const wanted = rankone.loraLinearSync(inputs).y;
  const reason = new Error('enough');
  const forward = (signal: AbortSignal) => rankone.loraLinear(inputs, { signal });
  assert.is(await endOfAborted(forward, reason), reason);
  const backward = (signal: AbortSignal) =>
    rankone.loraLinearBackward({ ...inputs, dY: ramp(1024, outFeatures) }, { signal });
  assert.is((await endOfAborted(backward)).name, 'AbortError');
  sameBits((await rankone.loraLinear(inputs)).y, wanted);
  const out = { y: ramp(1024, outFeatures) };
  const pending = rankone.loraLinear(inputs, { out });
  structuredClone(out.y.data, { transfer: [out.y.data.buffer as ArrayBuffer] });
  const error = await pending.then(
    () => undefined,
    (e) => e,
  );
  assert.match(error?.message ?? '', /^\[loraLinear\] out\.y: .*detached or resized/);
});

test('packing ends soon after it is aborted, and not only before it has begun', async () => {
  const large = ramp(2048, 4096);
  await eventually('calls go on to their end', async () => {
    const aborter = new AbortController();
    const pending = rankone.packWeight(large, { format: 'nf4', signal: aborter.signal });
    setTimeout(() => aborter.abort(), 2);
    const end = await pending.catch((error) => error);
    if (!(end instanceof rankone.PackedWeight)) {
      assert.is(end.name, 'AbortError');
      return true;
    }
    end.dispose();
    return false;
  });
});

test('workers with banks of their own, ended in the middle of calls', () => {
  const source = `
    const { Worker, isMainThread, parentPort } = require('node:worker_threads');
    if (isMainThread) {
      (async () => {
        for (let i = 0; i < 10; i++) {
          const w = new Worker(process.env.SOURCE, { eval: true });
          await new Promise((resolve) => w.once('message', resolve));
          await new Promise((resolve) => setTimeout(resolve, 3 * i));
          await w.terminate();
        }
        console.log('done');
      })();
    } else {
      const rankone = require(process.env.RANKONE_DIST);
      const ramp = (...shape) => ({
        data: Float32Array.from({ length: shape.reduce((a, b) => a * b) }, (_, i) => ((i * 37) % 101) / 101 - 0.5),
        shape,
      });
      const n = 512;
      const base = rankone.packWeightSync(ramp(n, n), { format: 'nf4' });
      const bank = rankone.createAdapterBank({ inFeatures: n, outFeatures: n });
      const spec = { a: ramp(16, n), b: ramp(n, 16) };
      const turn = () => {
        const id = bank.load(spec);
        const call = rankone.loraLinear({ x: ramp(256, n), base, bank, routing: { kind: 'one', id } });
        bank.evict(id);
        call.then(turn, turn);
      };
      for (let i = 0; i < 4; i++) turn();
      rankone.packWeight(ramp(n, n), { format: 'q4' }).then(() => parentPort.postMessage('under way'));
    }`;
  const { status, signal, stdout, stderr } = spawnSync(process.execPath, ['-e', source], {
    encoding: 'utf8',
    timeout: 300_000,
    env: {
      ...process.env,
      SOURCE: source,
      RANKONE_DIST: path.join(__dirname, '../../dist/index.js'),
    },
  });
  assert.is(signal, null, `ended with ${signal}: ${stderr}`);
  assert.is(status, 0, stderr);
  assert.is(stdout.trim(), 'done');
});

test.run();
