// Many asynchronous calls at once, from several threads, aborted at random, and environments that end under them. Each
// case is a process of its own: what could go wrong is a crash, a hang or a wrong exit code.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { runProgram } from '../support/child';

/** `busy(rounds, seed)`: overlapping calls of random kinds, some of them aborted; returns how many ended in which way. */
const BUSY = `
  const same = (a, b) => {
    for (const name of Object.keys(b)) {
      if (!b[name].data) continue;
      const bits = ({ data }) => Buffer.from(data.buffer, data.byteOffset, data.byteLength);
      if (!bits(a[name]).equals(bits(b[name]))) throw new Error(name + ' differs');
    }
  };
  async function busy(rounds, seed) {
    let x = seed;
    const random = (n) => (x = (Math.imul(x, 1664525) + 1013904223) >>> 0) % 65521 % n;
    const ends = { done: 0, aborted: 0 };
    const one = async (aborter) => {
      const { signal } = aborter;
      const reason = { of: random(1e6) };
      const kind = random(5);
      const inputs = problem(1 + random(2), 1 + random(60), 1 + random(3), 1 + random(24), 1 + random(20));
      const abort = random(3);
      if (abort === 0) aborter.abort(reason);
      let pending, expected;
      if (kind === 0) {
        const a = ramp(32 + random(200), 64), b = ramp(64, 32 + random(200));
        expected = rankone.matmulSync({ a, b });
        pending = rankone.matmul({ a, b }, { signal });
      } else if (kind === 1) {
        const dO = inputs.v;
        expected = rankone.gatedDeltaNetBackwardSync({ ...inputs, dO });
        pending = rankone.gatedDeltaNetBackward({ ...inputs, dO }, { signal });
      } else if (kind === 2) {
        const { q, k, v } = inputs;
        const [batch, , valueHeads, valueDim] = v.shape;
        const state = rankone.createState({ batch, valueHeads, keyDim: q.shape[3], valueDim });
        expected = rankone.linearAttentionSync({ q, k, v });
        pending = rankone.linearAttention({ q, k, v, state }, { signal });
      } else if (kind === 3) {
        const { saved: _, ...rest } = rankone.gatedDeltaNetSync(inputs, { saveForBackward: true });
        expected = rest;
        pending = rankone.gatedDeltaNet(inputs, { saveForBackward: true, signal });
      } else {
        const out = { o: ramp(...inputs.v.shape) };
        expected = rankone.gatedDeltaNetSync(inputs);
        pending = rankone.gatedDeltaNet(inputs, { out, signal });
      }
      // The call has its own copies.
      for (const { data } of Object.values(inputs)) {
        if (random(2)) data.fill(NaN);
        else structuredClone(data, { transfer: [data.buffer] });
      }
      if (abort === 1) (random(2) ? setImmediate : setTimeout)(() => aborter.abort(reason), random(4));
      try {
        const result = await pending;
        if (abort === 0) throw new Error('not aborted');
        result.saved?.dispose();
        same(result, expected);
        ends.done++;
      } catch (error) {
        if (error !== reason) throw error;
        ends.aborted++;
      }
    };
    for (let i = 0; i < rounds; i++) {
      await Promise.all(Array.from({ length: 1 + random(12) }, () => one(new AbortController())));
      if (random(4) === 0) rankone.setNumThreads(1 + random(4));
    }
    return ends;
  }`;

test('overlapping calls of several threads, some aborted: each result is that of its own inputs', () => {
  const out = runProgram({
    main: `${BUSY}
      (async () => {
        const workers = [1, 2, 3].map((seed) => new Promise((resolve, reject) => {
          const worker = own(seed);
          worker.on('message', resolve);
          worker.on('error', reject);
        }));
        const all = await Promise.all([busy(40, 99), ...workers]);
        for (const { done, aborted } of all) if (done < 50 || aborted < 50) throw new Error(done + ' ' + aborted);
        console.log('done');
      })();`,
    worker: `${BUSY} busy(40, workerData).then((ends) => parentPort.postMessage(ends));`,
  });
  assert.is(out, 'done');
});

test('workers terminated at any moment of synchronous and asynchronous calls', () => {
  const out = runProgram({
    main: `(async () => {
      for (let i = 0; i < 30; i++) {
        const pair = [own(i), own(i + 1)];
        await Promise.all(pair.map((w) => new Promise((resolve) => w.once('message', resolve))));
        await sleep((i * 7) % 13);
        await Promise.all(pair.map((w) => w.terminate()));
      }
      const { y } = rankone.matmulSync({ a: ramp(3, 3), b: ramp(3, 3) });
      console.log(y.data.length);
    })();`,
    worker: `
      const inputs = problem(1, 300, 2, 32, 32);
      const state = rankone.createState({ batch: 1, valueHeads: 2, keyDim: 32, valueDim: 32 });
      const { signal } = new AbortController();
      const forever = async () => {
        for (;;) {
          await Promise.all([
            rankone.gatedDeltaNet(inputs, { signal, saveForBackward: true }),
            rankone.gatedDeltaNet({ ...inputs, state }),
            rankone.gatedDeltaNet({ ...inputs, beta: inputs.q }).catch(() => {}),
          ]);
          parentPort.postMessage('turn');
        }
      };
      if (workerData % 3) forever();
      if (workerData % 3 !== 1)
        setImmediate(() => {
          parentPort.postMessage('turn');
          for (;;) {
            rankone.gatedDeltaNetSync(inputs, { saveForBackward: true }).saved.dispose();
            try { rankone.gatedDeltaNetSync({ ...inputs, beta: inputs.q }); } catch {}
            rankone.createState({ batch: 1, valueHeads: 2, keyDim: 32, valueDim: 32 }).clone();
          }
        });`,
  });
  assert.is(out, '9');
});

test('a worker that exits by itself in the middle of its calls, with its own code', () => {
  const out = runProgram({
    main: `(async () => {
      const codes = [];
      for (let i = 0; i < 8; i++) codes.push(await new Promise((resolve) => own(i).once('exit', resolve)));
      console.log(codes.join());
    })();`,
    worker: `
      for (let i = 0; i < 6; i++) rankone.gatedDeltaNet(problem(1, 2000, 2, 64, 64)).catch(() => {});
      if (workerData % 2) process.exit(workerData);
      setTimeout(() => process.exit(workerData), workerData);`,
  });
  assert.is(out, '0,1,2,3,4,5,6,7');
});

const CALLS = `const calls = Array.from({ length: 6 }, () => rankone.gatedDeltaNet(problem(2, 1500, 2, 64, 64)));`;
const ENDINGS: [string, number, string][] = [
  ['process.exit at once', 7, 'process.exit(7);'],
  ['process.exit later', 8, 'setTimeout(() => process.exit(8), 3);'],
  ['process.exit while a call completes', 9, 'Promise.race(calls).then(() => process.exit(9));'],
  ['an exception that nobody catches', 1, "setTimeout(() => { throw new Error('mine'); }, 2);"],
  ['an exit code, every call waited for', 4, 'process.exitCode = 4;'],
  [
    'process.exit while workers compute',
    11,
    `const workers = [0, 1].map(own);
     Promise.all(workers.map((w) => new Promise((resolve) => w.once('message', resolve))))
       .then(() => process.exit(11));`,
  ],
];

for (const [name, code, body] of ENDINGS) {
  test(`the end of a process with calls under way: ${name}`, () => {
    runProgram({
      main: `${CALLS} ${body}`,
      worker: `${CALLS} parentPort.postMessage('started');`,
      code,
    });
  });
}

test('what a call took is released when it is aborted or its arrays are gone', () => {
  const out = runProgram({
    main: `(async () => {
      const state = rankone.createState({ batch: 1, valueHeads: 2, keyDim: 64, valueDim: 64 });
      const inputs = problem(1, 3000, 2, 64, 64);
      for (let i = 0; i < 10; i++) {
        const aborter = new AbortController();
        const pending = rankone.gatedDeltaNet({ ...inputs, state }, { signal: aborter.signal });
        if (i % 2) await sleep(i % 3);
        aborter.abort();
        const end = await pending.then(() => 'done', (error) => error.name);
        if (end === 'AbortError') state.copyFrom(ramp(1, 2, 64, 64));
      }
      state.dispose();
      const o = ramp(1, 3000, 2, 64);
      const pending = rankone.gatedDeltaNet(inputs, { out: { o } });
      const before = o.data.slice();
      const moved = structuredClone(o.data, { transfer: [o.data.buffer] });
      const end = await pending.catch((error) => error);
      console.log(end.name, state.disposed, moved.every((x, i) => x === before[i]));
    })();`,
  });
  assert.is(out, 'RangeError true true');
});

test.run();
