// The runner itself: uvu alone exits 0 when a `before` hook throws, when nothing matches and when nothing runs.
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';

const root = path.join(__dirname, '../..');
const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'rankone-runner-'));

/** Counts that a test file reports, or undefined where it ended otherwise. */
function runSuite(body: string): { counts: any; status: number | null } {
  const file = path.join(folder, `case${fs.readdirSync(folder).length}.ts`);
  fs.writeFileSync(
    file,
    `const { test } = require(${JSON.stringify(require.resolve('uvu'))});\n${body}`,
  );
  const driver = `
    const { fork } = require('node:child_process');
    const child = fork('test/runSuite.ts', [${JSON.stringify(file)}], { execArgv: ['--import', 'tsx'], silent: true });
    let counts;
    child.on('message', (m) => (counts = m));
    child.on('close', (status) => console.log(JSON.stringify({ counts, status })));`;
  const { stdout } = spawnSync(process.execPath, ['-e', driver], { cwd: root, encoding: 'utf8' });
  return JSON.parse(stdout);
}

test.after(() => fs.rmSync(folder, { recursive: true, force: true }));

test('passes and failures are counted', () => {
  const { counts, status } = runSuite(`
    test('a', () => {}); test('b', () => { throw new Error('no'); }); test.skip('c', () => {}); test.run();`);
  assert.equal(counts, { passed: 1, failed: 1, skipped: 1 });
  assert.is(status, 0);
});

test('a before hook that throws fails its tests', () => {
  const { counts } = runSuite(`
    test.before(() => { throw new Error('no'); }); test('a', () => {}); test('b', () => {}); test.run();`);
  assert.equal(counts, { passed: 0, failed: 2, skipped: 0 });
});

test('a file that runs nothing reports nothing', () => {
  assert.equal(runSuite("test('a', () => {});").counts, { passed: 0, failed: 0, skipped: 0 });
});

test('a file that does not load, or an after hook that throws, ends with an error', () => {
  for (const body of [
    "throw new Error('no');",
    "test.after(() => { throw new Error('no'); }); test('a', () => {}); test.run();",
  ])
    assert.is(runSuite(body).status, 1);
});

test('a pattern that matches nothing fails', () => {
  const { status, stdout } = spawnSync(
    process.execPath,
    ['--import', 'tsx', 'test/run.ts', 'no/such/file'],
    { cwd: root, encoding: 'utf8' },
  );
  assert.is(status, 1);
  assert.match(stdout, /\n0 passed, 1 failed\n$/);
});

test.run();
