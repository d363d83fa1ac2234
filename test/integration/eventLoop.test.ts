// The event loop while kernels run: timers, file operations and immediates go on. Bounds are fractions of what the same
// work costs the loop when it is done synchronously, and the best of a few rounds counts: on a busy machine the system may
// take the processor away from any thread for a while, but work that blocks the loop blocks it in every round.
import { pbkdf2 } from 'node:crypto';
import fs from 'node:fs/promises';
import { monitorEventLoopDelay } from 'node:perf_hooks';
import { promisify } from 'node:util';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import * as rankone from '../../ts/index';
import { problem, ramp } from '../ops/helpers';

const ROUNDS = 4;
const MILLION = 1e6;
const turn = () => new Promise((resolve) => setTimeout(resolve, 20));

interface Work {
  inputs: { a: rankone.Tensor; b: rankone.Tensor };
  ms: number;
  blocked: number;
}

/** A synchronous call of at least a quarter of a second, and by how much it delayed the loop. */
async function blockingCall(): Promise<Work> {
  for (let size = 2048; ; size *= 1.5) {
    // Much work on little memory: what a call copies, it copies on this thread.
    const inputs = { a: ramp(size, 512), b: ramp(512, size) };
    const delay = monitorEventLoopDelay({ resolution: 5 });
    delay.enable();
    await turn(); // the meter starts with its first tick
    const started = performance.now();
    rankone.matmulSync(inputs);
    const ms = performance.now() - started;
    await turn();
    delay.disable();
    if (ms > 250) return { inputs, ms, blocked: delay.max / MILLION };
  }
}

/** What the loop does until the promises have settled. */
async function watchLoop(pending: Promise<unknown>[]) {
  const delay = monitorEventLoopDelay({ resolution: 5 });
  delay.enable();
  const started = performance.now();
  let open = true;
  let timers = 0;
  let files = 0;
  let slowestFile = 0;
  let turns = 0;
  const timer = setInterval(() => timers++, 5);
  const spin = () => {
    turns++;
    if (open) setTimeout(() => setImmediate(spin), 1);
  };
  spin();
  const reading = (async () => {
    while (open) {
      const from = performance.now();
      await fs.readFile(__filename);
      slowestFile = Math.max(slowestFile, performance.now() - from);
      if (open) files++;
      await new Promise((resolve) => setTimeout(resolve, 3));
    }
  })();
  await Promise.all(pending);
  open = false;
  clearInterval(timer);
  await reading;
  delay.disable();
  const ms = performance.now() - started;
  const longest = delay.max / MILLION;
  return {
    ms,
    timers,
    turns,
    files,
    slowestFile,
    longest,
    typical: delay.percentile(90) / MILLION,
  };
}

let work: Work;

test('a synchronous call blocks the loop for as long as it takes', async () => {
  work = await blockingCall();
  assert.ok(work.blocked > 0.8 * work.ms, `${work.blocked} ms of ${work.ms}`);
});

test('asynchronous calls do not', async () => {
  // More of them than libuv has threads, and together more than a second of work.
  const count = Math.max(6, Math.ceil(1500 / work.ms));
  const sequence = problem(1, 1024, 2, 256, 256);
  let seen: Awaited<ReturnType<typeof watchLoop>>;
  for (let round = 0; ; round++) {
    const calls: Promise<unknown>[] = [
      rankone.gatedDeltaNet(sequence),
      rankone.gatedDeltaNetBackward({ ...sequence, dO: sequence.v }),
    ];
    for (let i = 0; i < count; i++) calls.push(rankone.matmul(work.inputs));
    await turn(); // the copies of the inputs are made by now
    seen = await watchLoop(calls);
    const calm =
      seen.longest < Math.min(150, work.ms / 3) &&
      seen.typical < 30 &&
      seen.slowestFile < Math.min(150, work.ms / 3);
    if (calm || round === ROUNDS - 1) break;
  }
  const text = JSON.stringify(seen);
  assert.ok(seen.longest < Math.min(150, work.ms / 3), `longest delay: ${text}`);
  assert.ok(seen.typical < 30, `delay of nine in ten ticks: ${text}`);
  assert.ok(seen.slowestFile < Math.min(150, work.ms / 3), `slowest file operation: ${text}`);
  assert.ok(seen.timers > seen.ms / 40, `timers: ${text}`);
  assert.ok(seen.turns > seen.ms / 40, `immediates: ${text}`);
  assert.ok(seen.files > seen.ms / 60, `file operations: ${text}`);
  if (process.env.RANKONE_TEST_FIGURES) console.log(work.ms, work.blocked, text);
});

test('a call waits for none of the threads of libuv', async () => {
  // All of them are taken, and more work than they can hold waits.
  const derive = promisify(pbkdf2);
  const others = Array.from({ length: 8 }, () => derive('a', 'b', 300_000, 64, 'sha512'));
  const other = Promise.race(others).then(() => 'another');
  const call = rankone.gatedDeltaNet(problem(1, 8, 2, 16, 16)).then(() => 'the call');
  assert.is(await Promise.race([other, call]), 'the call');
  await Promise.all(others);
});

test('calls that are aborted while they wait for a thread', async () => {
  for (let round = 0; ; round++) {
    const aborter = new AbortController();
    const calls = Array.from({ length: 6 }, () =>
      rankone.matmul(work.inputs, { signal: aborter.signal }).then(
        () => 'done',
        (error) => error.name,
      ),
    );
    const started = performance.now();
    aborter.abort();
    const ends = await Promise.all(calls);
    const ending = performance.now() - started;
    const aborted = ends.filter((end) => end === 'AbortError').length;
    // Some may have ended by the time that the last was made.
    if (round < ROUNDS && (aborted < 3 || ending > work.ms)) continue;
    assert.ok(aborted >= 3, ends.join());
    assert.ok(ending < work.ms, `aborted calls ended after ${ending} ms`);
    return;
  }
});

test.run();
