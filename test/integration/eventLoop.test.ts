// The event loop while kernels run: timers, file operations and immediates go on. Bounds are fractions of what the same
// work costs the loop when it is done synchronously, and the best of many rounds counts: on a busy machine the system may
// take the processor away from any thread for a while, but work that blocks the loop blocks it in every round.
import { pbkdf2 } from 'node:crypto';
import fs from 'node:fs/promises';
import { monitorEventLoopDelay } from 'node:perf_hooks';
import { promisify } from 'node:util';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import * as rankone from '../../ts/index';
import { problem, ramp } from '../ops/helpers';
import { eventually } from '../support/eventually';

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
  const sequence = problem(1, 1024, 2, 256, 256);
  await eventually('the loop goes on', async (round) => {
    if (round > 0) work = await blockingCall(); // as fast as the machine is by now
    // More of them than libuv has threads, and together more than a second of work.
    const count = Math.max(6, Math.ceil(1500 / work.ms));
    const calls: Promise<unknown>[] = [
      rankone.gatedDeltaNet(sequence),
      rankone.gatedDeltaNetBackward({ ...sequence, dO: sequence.v }),
    ];
    for (let i = 0; i < count; i++) calls.push(rankone.matmul(work.inputs));
    await turn(); // the copies of the inputs are made by now
    const seen = await watchLoop(calls);
    const text = JSON.stringify({ work: work.ms, blocked: work.blocked, ...seen });
    if (process.env.RANKONE_TEST_FIGURES) console.log(text);
    const [most, often] = [work.ms / 3, work.ms / 8];
    const calm =
      seen.longest < most &&
      seen.slowestFile < most &&
      seen.typical < often &&
      Math.min(seen.timers, seen.turns, seen.files) > seen.ms / often;
    return calm || text;
  });
});

test('a call waits for none of the threads of libuv', async () => {
  // All of them are taken, and more work than they can hold waits.
  const derive = promisify(pbkdf2);
  await eventually('the call ends first', async () => {
    const others = Array.from({ length: 8 }, () => derive('a', 'b', 300_000, 64, 'sha512'));
    const other = Promise.race(others).then(() => 'another');
    const call = rankone.gatedDeltaNet(problem(1, 8, 2, 16, 16)).then(() => 'the call');
    const first = await Promise.race([other, call]);
    await Promise.all([...others, call]);
    return first === 'the call';
  });
});

test('calls that are aborted while they wait for a thread', async () => {
  await eventually('aborted calls end', async () => {
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
    return (aborted >= 3 && ending < work.ms) || `${ends.join()} after ${ending} ms`;
  });
});

test.run();
