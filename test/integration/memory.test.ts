// Nothing is left behind by a hundred thousand calls: results, states, saved activations, copies of inputs, errors, aborts.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { binding } from '../../ts/binding';
import * as rankone from '../../ts/index';
import { problem, ramp } from '../ops/helpers';
import { collect, eventually } from '../support/eventually';

const CALLS = 100_000;
const WARM_UP = 80_000;
const MIB = 2 ** 20;
/** Reached when each call leaves behind as little as its smallest result, of 96 bytes. */
const RSS_BOUND = 96 * CALLS;

interface Usage {
  rss: number;
  heapUsed: number;
  external: number;
  arrayBuffers: number;
  told: number;
}

async function usage(): Promise<Usage> {
  await collect();
  const { rss, heapUsed, external, arrayBuffers } = process.memoryUsage();
  return { rss, heapUsed, external, arrayBuffers, told: binding.externalMemory() };
}

/** Whether `work` leaves less behind than the bounds. The heap's own growth by steps is no leak: that shows every time. */
async function stable(work: () => Promise<void>, bounds: Partial<Usage>): Promise<void> {
  let after = await usage();
  const attempt = async () => {
    const before = after;
    await work();
    after = await usage();
    const text = JSON.stringify({ before, after });
    if (process.env.RANKONE_TEST_FIGURES) console.log(text);
    const over = (Object.keys(bounds) as (keyof Usage)[]).filter((name) => {
      const grown = after[name] - before[name];
      return (name === 'told' ? Math.abs(grown) : grown) >= bounds[name]!;
    });
    return over.length === 0 || `${over.join()}: ${text}`;
  };
  await eventually('memory that calls leave behind', attempt, 6);
}

const inputs = problem(1, 3, 2, 8, 4);
const dO = ramp(1, 3, 2, 4);
const wrong = { ...inputs, beta: ramp(1) };
const shape = { batch: 1, valueHeads: 2, keyDim: 8, valueDim: 4 };
const longLived = rankone.createState(shape);
const shared = new AbortController();

/** Every way that a call can go, each once; returns how many calls that was. */
async function calls(round: number): Promise<number> {
  let made = 0;
  const sync = <T>(call: () => T): T | undefined => {
    made++;
    try {
      return call();
    } catch {
      return undefined;
    }
  };
  const running: Promise<unknown>[] = [];
  const start = (call: () => Promise<unknown>): void => {
    made++;
    running.push(call().catch(() => undefined));
  };
  const { gatedDeltaNet, gatedDeltaNetSync, gatedDeltaNetBackward } = rankone;
  const keep = round % 2 === 0; // what is not disposed is the collector's
  sync(() => gatedDeltaNetSync(inputs));
  sync(() => gatedDeltaNetSync({ ...inputs, state: longLived }));
  sync(() => gatedDeltaNetSync(wrong));
  sync(() => rankone.matmulSync({ a: dO, b: dO } as any));
  const state = sync(() => rankone.createState(shape))!;
  sync(() => gatedDeltaNetSync({ ...inputs, state }));
  const twin = sync(() => state.clone())!;
  sync(() => twin.copyFrom(state.toTensor()));
  const saved = sync(() => gatedDeltaNetSync(inputs, { saveForBackward: true }))!.saved!;
  sync(() => rankone.gatedDeltaNetBackwardSync({ ...inputs, dO, saved }));
  start(() => gatedDeltaNet(inputs));
  start(() => gatedDeltaNet(inputs, { out: { o: ramp(1, 3, 2, 4) } }));
  start(() => gatedDeltaNet(wrong));
  start(() => gatedDeltaNet({ ...inputs, state }));
  start(() => gatedDeltaNet({ ...inputs, state })); // busy
  start(() => gatedDeltaNet({ ...inputs, state: twin }, { signal: shared.signal }));
  start(() => gatedDeltaNetBackward({ ...inputs, dO, saved }));
  start(() => gatedDeltaNet(inputs, { signal: AbortSignal.abort() }));
  const aborter = new AbortController();
  start(() => gatedDeltaNet(inputs, { signal: aborter.signal, saveForBackward: true }));
  aborter.abort();
  start(() => rankone.adamW({ param: dO, grad: dO, m: dO, v: dO }, { step: 1, lr: 1 }));
  const lost = ramp(1, 3, 2, 4);
  start(() => gatedDeltaNet(inputs, { out: { o: lost } }));
  if (round % 16 === 0) structuredClone(lost.data, { transfer: [lost.data.buffer as ArrayBuffer] });
  await Promise.all(running);
  if (keep) {
    state.dispose();
    twin.dispose();
    saved.dispose();
  }
  return made;
}

test('memory is stable over a hundred thousand small calls', async () => {
  const run = async (count: number) => {
    for (let made = 0, round = 0; made < count; round++) made += await calls(round);
  };
  await run(WARM_UP);
  await stable(() => run(CALLS), {
    rss: RSS_BOUND,
    heapUsed: 2 * MIB,
    arrayBuffers: MIB / 2,
    external: MIB / 2,
    told: MIB / 2,
  });
});

test('large states, saved activations and inputs of calls are returned to the system', async () => {
  const big = problem(1, 2048, 4, 64, 64); // about 6 MiB
  const round = async () => {
    const state = rankone.createState({ batch: 8, valueHeads: 16, keyDim: 128, valueDim: 128 });
    state.clone().dispose();
    state.dispose();
    const { saved } = rankone.gatedDeltaNetSync(big, { saveForBackward: true });
    if (saved) saved.dispose();
    await Promise.all(Array.from({ length: 4 }, () => rankone.gatedDeltaNet(big)));
    const aborter = new AbortController();
    const doomed = rankone.gatedDeltaNet(big, { signal: aborter.signal }).catch(() => {});
    aborter.abort();
    await doomed;
  };
  const rounds = async (count: number) => {
    for (let i = 0; i < count; i++) await round();
  };
  await rounds(5);
  // The allocator keeps some of what is freed; a hundred calls that left their copies behind would take 600 MiB.
  await stable(() => rounds(25), { rss: 64 * MIB, told: 2 * MIB });
});

test('the collector learns of what states and saved activations hold, and of nothing twice', async () => {
  await collect();
  const before = binding.externalMemory();
  const told = () => binding.externalMemory() - before;
  const bytes = 4 * 8 * 128 * 128 * 4;
  const state = rankone.createState({ batch: 4, valueHeads: 8, keyDim: 128, valueDim: 128 });
  const slack = MIB / 16;
  assert.ok(Math.abs(told() - bytes) < slack, `${told()}`);
  const twin = state.clone();
  assert.ok(Math.abs(told() - 2 * bytes) < slack, `${told()}`);
  const call = rankone.linearAttention({
    q: ramp(4, 1, 8, 128),
    k: ramp(4, 1, 8, 128),
    v: ramp(4, 1, 8, 128),
    state,
  });
  await call;
  assert.throws(() => rankone.linearAttentionSync({ q: twin, state } as any));
  state.dispose();
  state.dispose();
  twin.dispose();
  assert.ok(Math.abs(told()) < MIB, `${told()}`);

  const { saved } = rankone.gatedDeltaNetSync(problem(1, 2048, 4, 64, 64), {
    saveForBackward: true,
  });
  const held = told();
  assert.ok(held > 2 * MIB, `${held}`);
  saved!.dispose();
  const rest = told();
  saved!.dispose();
  assert.is(told(), rest);
  assert.ok(held - rest > 2 * MIB, `${held} ${rest}`);
});

test.run();
