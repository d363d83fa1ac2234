/** The CUDA backend's library: where it is looked for, and what is said when it is not there or is something else. */
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { cuda, cudaEnvironment, test as cudaTest, emulatedLibrary } from '../support/device.ts';
import { addon } from '../support/installed.ts';

const root = path.join(__dirname, '../..');
const home = fs.mkdtempSync(path.join(os.tmpdir(), 'rankone-cuda-'));

test.after(() => fs.rmSync(home, { recursive: true, force: true }));

/** What a program prints; `message(body)` is that of the error that body throws or rejects with. */
function run(source: string, env: NodeJS.ProcessEnv): string {
  const prelude = `
    const rankone = require(${JSON.stringify(path.join(root, 'dist/index.js'))});
    const message = async (body) => { try { await body(); return 'nothing'; } catch (e) { return e.name + ': ' + e.message; } };
    const t = { data: new Float32Array(2), shape: [2] };
    (async () => { ${source} })();`;
  const { stdout, stderr, status } = spawnSync(process.execPath, ['-e', prelude], {
    encoding: 'utf8',
    timeout: 300_000,
    env: { ...process.env, ...env },
  });
  assert.is(status, 0, stderr);
  return stdout.trim();
}

const ask = `console.log(await message(() => rankone.toDevice(t, 'cuda')));`;

test('a file that is not there', () => {
  const file = path.join(home, 'none.so');
  const out = run(ask, { RANKONE_CUDA_PATH: file });
  assert.match(out, /^RangeError: \[toDevice\] cuda unavailable: .*none\.so/);
});

test('a file that is no library', () => {
  const file = path.join(home, 'text.so');
  fs.writeFileSync(file, 'this is no library');
  const out = run(ask, { RANKONE_CUDA_PATH: file });
  assert.match(out, /cuda unavailable: .*text\.so: (file too short|invalid ELF header)/);
});

/** A shared library from C; undefined where there is no compiler. */
function compile(name: string, source: string): string | undefined {
  const [c, file] = [path.join(home, `${name}.c`), path.join(home, `${name}.so`)];
  fs.writeFileSync(c, source);
  const { status } = spawnSync('cc', [
    '-shared',
    '-fPIC',
    '-I',
    path.join(root, 'cuda'),
    c,
    '-o',
    file,
  ]);
  return status === 0 ? file : undefined;
}

const hasCompiler = spawnSync('cc', ['--version']).status === 0;
const compiled = hasCompiler ? test : Object.assign((name: string) => test.skip(name), test);
if (!hasCompiler) console.log('skipped: no C compiler');

compiled('a library of something else', () => {
  const file = compile('other', 'int other(void) { return 1; }')!;
  const out = run(ask, { RANKONE_CUDA_PATH: file });
  assert.match(out, /cuda unavailable: .*other\.so is no CUDA backend of rankone$/);
});

compiled('a backend of another version, or with fewer functions', () => {
  const table = (version: string, bytes: string) => `
    #include "backend.h"
    static RankoneCuda table = {${version}, ${bytes}};
    const RankoneCuda* rankoneCuda(uint32_t version) { return &table; }`;
  const none = '#include "backend.h"\nconst RankoneCuda* rankoneCuda(uint32_t v) { return 0; }';
  const sources = [
    table('RANKONE_CUDA_VERSION + 1', 'sizeof(RankoneCuda)'),
    table('RANKONE_CUDA_VERSION', '8'),
    none,
  ];
  sources.forEach((source, i) => {
    const out = run(ask, { RANKONE_CUDA_PATH: compile(`version${i}`, source) });
    assert.match(out, /cuda unavailable: .*version\d\.so is of another version than this engine/);
  });
});

compiled('a backend without a driver, or without a device', () => {
  const source = (body: string) => `
    #include "backend.h"
    #include <string.h>
    static int count(int32_t* n, RankoneError* e) { ${body} }
    static RankoneCuda table = {RANKONE_CUDA_VERSION, sizeof(RankoneCuda), count};
    const RankoneCuda* rankoneCuda(uint32_t version) { return &table; }`;
  const driver = compile(
    'driver',
    source('strcpy(e->reason, "CUDA driver version is insufficient"); return 35;'),
  );
  const out = run(
    `${ask}
    console.log(await message(() => rankone.createState({ batch: 1, valueHeads: 1, keyDim: 4, valueDim: 4, device: 'cuda' })));
    const x = { data: new Float32Array(4), shape: [1, 1, 1, 4] };
    console.log(await message(() => rankone.linearAttentionSync({ q: x, k: x, v: x }, { device: 'cuda' })));
    console.log(rankone.info().cuda.reason);
    rankone.linearAttentionSync({ q: x, k: x, v: x }, { device: 'cpu' });`,
    { RANKONE_CUDA_PATH: driver },
  );
  const reason = 'cuda unavailable: CUDA driver version is insufficient';
  const expected = [
    `RangeError: [toDevice] ${reason}`,
    `RangeError: [createState] ${reason}`,
    `RangeError: [linearAttention] ${reason}`,
    reason,
  ];
  assert.equal(out.split('\n'), expected);
  const none = compile('none', source('*n = 0; return 0;'));
  assert.match(run(ask, { RANKONE_CUDA_PATH: none }), /cuda unavailable: no device$/);
});

test('no library at all', () => {
  // A copy of the package without a backend beside its addon.
  const copy = path.join(home, 'package');
  fs.mkdirSync(path.join(copy, 'build/Release'), { recursive: true });
  for (const name of ['package.json', 'dist'])
    fs.cpSync(path.join(root, name), path.join(copy, name), { recursive: true });
  fs.copyFileSync(addon, path.join(copy, 'build/Release/rankone.node'));
  fs.symlinkSync(path.join(root, 'node_modules'), path.join(copy, 'node_modules'));
  const ask = `
    delete process.env.RANKONE_BINDING; // names the one that was copied
    const { info } = require(${JSON.stringify(path.join(copy, 'dist/index.js'))});
    console.log(info().cuda.reason);`;
  const out = run(ask, { RANKONE_CUDA_PATH: '' });
  assert.is(
    out,
    'cuda unavailable: no backend library; install rankone-cuda-linux-x64, or name one in RANKONE_CUDA_PATH',
  );
  // The same copy with a package of the backend, and without it the file beside the addon.
  const fake = path.join(home, 'node_modules/rankone-cuda-linux-x64');
  fs.mkdirSync(fake, { recursive: true });
  fs.writeFileSync(
    path.join(fake, 'package.json'),
    '{"name":"rankone-cuda-linux-x64","version":"0.0.0"}',
  );
  fs.writeFileSync(path.join(fake, 'rankone_cuda.so'), 'short');
  const installed = run(ask, { RANKONE_CUDA_PATH: '' });
  assert.match(
    installed,
    /cuda unavailable: .*rankone-cuda-linux-x64\/rankone_cuda\.so: file too short/,
  );
  fs.rmSync(fake, { recursive: true });
  fs.writeFileSync(path.join(copy, 'build/Release/rankone_cuda.so'), 'short');
  const beside = run(ask, { RANKONE_CUDA_PATH: '' });
  assert.match(beside, /cuda unavailable: .*build\/Release\/rankone_cuda\.so: file too short/);
});

cudaTest('`rankone info` names the devices', () => {
  const env = { ...process.env, ...cudaEnvironment() };
  const cli = path.join(root, 'dist/cli/main.js');
  const { stdout } = spawnSync(process.execPath, [cli, 'info'], { encoding: 'utf8', env });
  assert.match(stdout, /CUDA\s+cuda:0 .*compute capability \d+\.\d/);
  assert.ok(stdout.includes(cuda!.library));
});

cudaTest('a device that cannot be used leaves the others usable', () => {
  const env = {
    RANKONE_CUDA_PATH: emulatedLibrary,
    RANKONE_EMULATED_DEVICES: '3',
    RANKONE_EMULATED_BROKEN: '1',
  };
  const out = run(
    `const { devices, reason } = rankone.info().cuda;
    console.log(reason, devices.map((d) => d.name + (d.reason ?? '')).join());
    for (const place of ['cuda:1', 'cuda:0', 'cuda:2', 'cuda:3'])
      console.log(await message(() => rankone.toDevice(t, place)));`,
    env,
  );
  const busy = 'CUDA-capable device\\(s\\) is/are busy or unavailable';
  const expected = [
    `undefined emulated device 0,cuda error 46 on cuda:1: .*${busy},emulated device 2`,
    `Error: \\[toDevice\\] cuda error 46 on cuda:1: .*${busy}`,
    'nothing',
    'nothing',
    'RangeError: \\[toDevice\\] .*cuda:0 to cuda:2.*',
  ];
  const lines = out.split('\n');
  for (const [i, line] of expected.entries()) assert.match(lines[i], new RegExp(`^${line}$`));
  const cli = path.join(root, 'dist/cli/main.js');
  const { stdout } = spawnSync(process.execPath, [cli, 'info'], {
    encoding: 'utf8',
    env: { ...process.env, ...env },
  });
  assert.match(
    stdout,
    new RegExp(`cuda:0 emulated.*; cuda error 46 on cuda:1: .*${busy}; cuda:2 emulated`),
  );
});

test.run();
