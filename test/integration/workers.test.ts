// Several threads of JavaScript, and environments that end in the middle of a call. Each case is a process of its own:
// what could go wrong is a crash.
import { spawnSync } from 'node:child_process';
import path from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';

const root = path.join(__dirname, '../..');

/** A program with `rankone`, `ramp(...shape)` and node:worker_threads; in a worker it is run as well. */
function run(main: string, worker = ''): string {
  const source = `
    const { Worker, isMainThread, parentPort } = require('node:worker_threads');
    const ramp = (...shape) => ({
      data: Float32Array.from({ length: shape.reduce((a, b) => a * b) }, (_, i) => ((i * 37) % 101) / 101 - 0.5),
      shape,
    });
    const own = () => new Worker(process.env.SOURCE, { eval: true });
    if (isMainThread) { ${main} } else { const rankone = require(process.env.RANKONE_DIST); ${worker} }`;
  const { status, signal, stdout, stderr } = spawnSync(process.execPath, ['-e', source], {
    cwd: root,
    encoding: 'utf8',
    timeout: 300_000,
    env: { ...process.env, SOURCE: source, RANKONE_DIST: path.join(root, 'dist/index.js') },
  });
  assert.is(signal, null, `ended with ${signal}: ${stderr}`);
  assert.is(status, 0, stderr);
  return stdout.trim();
}

const LOAD = 'const rankone = require(process.env.RANKONE_DIST);';

test('workers compute the same at the same time', () => {
  const out = run(
    `${LOAD}
    const expected = rankone.matmulSync({ a: ramp(200, 300), b: ramp(300, 100) }).y;
    const sum = (t) => t.data.reduce((a, b) => a + b, 0);
    let left = 4;
    for (let i = 0; i < 4; i++) {
      const w = own();
      w.on('message', (m) => { if (m !== sum(expected)) { console.log('differs'); process.exit(1); } });
      w.on('exit', (code) => { if (code) process.exit(code); if (--left === 0) console.log('done'); });
    }`,
    `(async () => {
      const sum = (t) => t.data.reduce((a, b) => a + b, 0);
      const calls = Array.from({ length: 20 }, () => rankone.matmul({ a: ramp(200, 300), b: ramp(300, 100) }));
      for (const r of await Promise.all(calls)) parentPort.postMessage(sum(r.y));
    })();`,
  );
  assert.is(out, 'done');
});

test('workers that are terminated in the middle of a call', () => {
  const out = run(
    `(async () => {
      for (let i = 0; i < 12; i++) {
        const w = own();
        await new Promise((resolve) => w.once('message', resolve));
        await new Promise((resolve) => setTimeout(resolve, i));
        await w.terminate();
      }
      console.log('done');
    })();`,
    `const state = rankone.createState({ batch: 1, valueHeads: 4, keyDim: 64, valueDim: 64 });
    const [q, v, g] = [ramp(1, 2000, 4, 64), ramp(1, 2000, 4, 64), ramp(1, 2000, 4)];
    g.data.fill(-0.1);
    rankone.simpleGla({ q, k: q, v, g, state });
    for (let i = 0; i < 3; i++) rankone.matmul({ a: ramp(700, 700), b: ramp(700, 700) });
    parentPort.postMessage('started');`,
  );
  assert.is(out, 'done');
});

test('workers that end by themselves, the addon unloaded and loaded again', () => {
  const out = run(
    `(async () => {
      for (let i = 0; i < 6; i++) {
        const w = own();
        await new Promise((resolve) => w.once('exit', resolve));
      }
      console.log('done');
    })();`,
    'rankone.matmul({ a: ramp(300, 300), b: ramp(300, 300) });',
  );
  assert.is(out, 'done');
});

test('a process that exits in the middle of calls', () => {
  const out = run(
    `${LOAD}
    for (let i = 0; i < 8; i++) rankone.matmul({ a: ramp(600, 600), b: ramp(600, 600) });
    setTimeout(() => { console.log('out'); process.exit(0); }, 5);`,
  );
  assert.is(out, 'out');
});

test('a process waits for a call that is under way, and ends after it', () => {
  const out = run(
    `${LOAD}
    rankone.matmul({ a: ramp(600, 600), b: ramp(600, 600) }).then(({ y }) => console.log(y.shape.join()));`,
  );
  assert.is(out, '600,600');
});

test('a loaded addon does not keep the process alive', () => {
  assert.is(run(`${LOAD} console.log(rankone.version.length > 0)`), 'true');
});

test.run();
