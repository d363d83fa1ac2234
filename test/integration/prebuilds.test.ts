// The scripts that make and check the binaries of the package: each fault that a binary can have is found, this build's
// own instructions stay where they belong, and the commands say what is missing.
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { bindingPath } from '../../ts/binding';

const root = path.join(__dirname, '../..');
const { disassemble, missingTool, readBinary } = require('../../scripts/binary.cjs');
const {
  faultsOf,
  levelOf,
  levelOfSymbol,
  packedFaults,
  straySymbols,
} = require('../../scripts/check-prebuilds.cjs');
const { hostTarget, selectTargets, targets } = require('../../scripts/targets.cjs');

const home = fs.mkdtempSync(path.join(os.tmpdir(), 'rankone-prebuilds-'));
test.after(() => fs.rmSync(home, { recursive: true, force: true }));

const missing: string | undefined = missingTool();
if (missing && process.env.RANKONE_REQUIRE_LLVM === '1') throw new Error(missing);
if (missing) console.log(`skipped: ${missing}`);
/** With LLVM's tools. */
const testLlvm = missing ? (name: string) => test.skip(name) : test;

const target = (name: string) => targets.find((t: any) => t.name === name);

const sound: Record<string, any> = {
  'linux-x64-glibc': {
    platform: 'linux',
    arch: 'x64',
    size: 1e6,
    needed: ['libc.so.6', 'libm.so.6', 'ld-linux-x86-64.so.2'],
    exports: ['napi_register_module_v1', 'node_api_module_get_api_version_v1'],
    imports: ['malloc'],
    versions: ['GLIBC_2.2.5', 'GLIBC_2.28'],
    stays: true,
    symbols: false,
  },
  'win32-x64': {
    platform: 'win32',
    arch: 'x64',
    size: 1e6,
    needed: ['KERNEL32.dll', 'api-ms-win-crt-heap-l1-1-0.dll'],
    delayed: ['node.exe'],
    exports: ['napi_register_module_v1'],
    imports: [],
    symbols: false,
  },
  'darwin-arm64': {
    platform: 'darwin',
    arch: 'arm64',
    size: 1e6,
    needed: ['/usr/lib/libSystem.B.dylib'],
    ownName: '@rpath/rankone.node',
    exports: ['napi_register_module_v1'],
    imports: ['napi_create_array', 'malloc'],
    lookedUp: ['napi_create_array'],
    minimum: '11.0',
    signed: true,
    symbols: false,
  },
};
sound['linux-x64-musl'] = { ...sound['linux-x64-glibc'], needed: ['libc.so'], versions: [] };

test('a sound binary has no fault', () => {
  for (const [name, found] of Object.entries(sound))
    assert.equal(faultsOf(target(name), found), [], name);
});

const faulty: [name: string, change: object, fault: RegExp][] = [
  ['linux-x64-glibc', { arch: 'arm64' }, /^it is for linux-arm64$/],
  ['linux-x64-glibc', { versions: ['GLIBC_2.29'] }, /^it needs GLIBC_2\.29, newer than 2\.28$/],
  ['linux-x64-glibc', { versions: ['GLIBC_3.2'] }, /GLIBC_3\.2, newer/],
  [
    'linux-x64-glibc',
    { versions: ['GLIBCXX_3.4'] },
    /^it needs GLIBCXX_3\.4, of the C\+\+ runtime$/,
  ],
  ['linux-x64-glibc', { needed: ['libstdc++.so.6'] }, /^it needs libstdc\+\+\.so\.6$/],
  ['linux-x64-glibc', { needed: ['libcuda.so.1'] }, /^it needs libcuda/],
  ['linux-x64-glibc', { exports: [] }, /^it does not export napi_register_module_v1$/],
  ['linux-x64-glibc', { symbols: true }, /^it is not stripped$/],
  ['linux-x64-glibc', { stays: false }, /^it can be unloaded/],
  ['linux-x64-glibc', { size: 2 ** 30 }, /^it has 1073741824 bytes, more than/],
  ['linux-x64-musl', { needed: ['libc.so.6'] }, /^it needs libc\.so\.6$/],
  ['linux-x64-musl', { versions: ['GLIBC_2.2.5'] }, /^it needs GLIBC_2\.2\.5$/],
  ['win32-x64', { needed: ['NODE.EXE'] }, /^it needs NODE\.EXE$/],
  ['win32-x64', { needed: ['libc++.dll'] }, /^it needs libc\+\+\.dll$/],
  ['win32-x64', { needed: ['libwinpthread-1.dll'] }, /^it needs libwinpthread/],
  ['win32-x64', { delayed: ['user32.dll'] }, /^it delays user32\.dll$/],
  ['darwin-arm64', { lookedUp: [] }, /^napi_create_array is bound to a library$/],
  ['darwin-arm64', { minimum: '12.0' }, /^it needs macOS 12\.0, newer than 11\.0$/],
  ['darwin-arm64', { minimum: undefined }, /^it needs macOS undefined/],
  ['darwin-arm64', { signed: false }, /^its signature does not hold$/],
  ['darwin-arm64', { needed: ['@rpath/libx.dylib'] }, /^it needs @rpath/],
  ['darwin-arm64', { ownName: '/home/x/rankone.node' }, /^it calls itself \/home\/x/],
];

test('each fault is named, and alone', () => {
  for (const [name, change, fault] of faulty) {
    const faults = faultsOf(target(name), { ...sound[name], ...change });
    assert.is(faults.length, 1, `${name} ${JSON.stringify(change)}: ${faults}`);
    assert.match(faults[0], fault);
  }
  const exports = [...sound['linux-x64-glibc'].exports, '_Znwm'];
  const found = { ...sound['linux-x64-glibc'], exports };
  assert.equal(faultsOf(target('linux-x64-glibc'), found), ['it exports _Znwm']);
});

test('a package that is too large, or lacks a binary, is found', () => {
  const files = targets.map((t: any) => ({ path: t.file }));
  assert.equal(packedFaults({ size: 14_999_999, files }), []);
  assert.match(packedFaults({ size: 15_000_000, files })[0], /^it has 15000000 bytes/);
  const [missing] = packedFaults({ size: 1, files: files.slice(1) });
  assert.is(missing, `it lacks ${targets[0].file}`);
});

test('instructions and names tell their levels', () => {
  const levels: [instruction: string, level: number][] = [
    ['addps %xmm1, %xmm0', 0],
    ['verr %ax', 0],
    ['vaddps %ymm1, %ymm2, %ymm3', 1],
    ['vmovaps %xmm1, %xmm2', 1],
    ['vmovaps %xmm17, %xmm2', 2],
    ['vaddps %zmm1, %zmm2, %zmm3', 2],
    ['vmovups (%rax), %ymm1 {%k1} {z}', 2],
    ['kmovw %eax, %k1', 2],
    ['vdpbf16ps %zmm1, %zmm2, %zmm3', 3],
    ['vpdpbusd %zmm1, %zmm2, %zmm3', 3],
    ['mulxq %rax, %rbx, %rcx', -1],
  ];
  for (const [text, level] of levels) {
    const [mnemonic] = text.split(' ');
    assert.is(levelOf(mnemonic, text.slice(mnemonic.length + 1)), level, text);
  }
  assert.is(levelOfSymbol('_ZN7rankone4avx26matmulEv'), 1);
  assert.is(levelOfSymbol('_ZN7rankone6avx5126matmulEv'), 2);
  assert.is(levelOfSymbol('_ZN7rankone10avx512bf166matmulEv'), 3);
  assert.is(levelOfSymbol('_ZN7rankone8baseline6matmulEv'), 0);
  assert.is(levelOfSymbol('_ZNSt6vectorIfE4sizeEv'), 0);
});

function compile(name: string, code: string): string {
  const [source, output] = [path.join(home, `${name}.cpp`), path.join(home, `${name}.node`)];
  fs.writeFileSync(source, code);
  const args = ['-O2', '-fPIC', '-shared', source, '-o', output];
  const { status, stderr } = spawnSync(process.env.CXX ?? 'g++', args, { encoding: 'utf8' });
  assert.is(status, 0, stderr);
  return output;
}

const wide = (target: string) => `__attribute__((target("${target}")))`;

testLlvm('a wide instruction outside of its namespace is found', async () => {
  if (process.arch !== 'x64' || process.platform !== 'linux') return;
  const body = '{ for (int i = 0; i < 64; ++i) x[i] = x[i] * 3 + 1; }';
  const file = compile(
    'stray',
    `namespace rankone {
      namespace baseline { void fine(float* x) ${body} ${wide('avx2,fma')} void one(float* x) ${body} }
      namespace avx2 {
        ${wide('avx2,fma')} void fine(float* x) ${body}
        ${wide('avx512f,prefer-vector-width=512')} void two(float* x) ${body}
      }
      namespace avx512 { ${wide('avx512f,prefer-vector-width=512')} void fine(float* x) ${body} }
    }
    ${wide('avx2')} void three(float* x) ${body}
    extern "C" void napi_register_module_v1() {}`,
  );
  const stray: string[] = await straySymbols(target('linux-x64-glibc'), [file]);
  assert.equal(stray.map((line) => line.replace(/ has \S+, of/, '')).sort(), [
    '_Z5threePf avx2',
    '_ZN7rankone4avx23twoEPf avx512',
    '_ZN7rankone8baseline3oneEPf avx2',
  ]);
  const faults: string[] = faultsOf(target('linux-x64-glibc'), readBinary(file));
  for (const fault of [/not stripped/, /can be unloaded/, /it exports _Z5threePf/])
    assert.ok(
      faults.some((line) => fault.test(line)),
      `${fault}: ${faults}`,
    );
});

testLlvm('what cannot be read is an error', async () => {
  const file = path.join(home, 'text.node');
  fs.writeFileSync(file, 'no library');
  assert.throws(() => readBinary(file), /llvm-readobj/);
  let message = '';
  await disassemble([file], () => {}).catch((error: Error) => (message = error.message));
  assert.match(message, /cannot read/);
});

testLlvm("this build's wide instructions stay in their namespaces", async () => {
  const found = readBinary(bindingPath());
  // A stripped one has been checked before it was.
  if (found.symbols) assert.equal(await straySymbols(hostTarget(), [bindingPath()]), []);
  assert.is(`${found.platform}-${found.arch}`, `${process.platform}-${process.arch}`);
  assert.ok(found.exports.includes('napi_register_module_v1'));
});

function script(name: string, args: string[], env: NodeJS.ProcessEnv = {}) {
  return spawnSync(process.execPath, [path.join(root, 'scripts', name), ...args], {
    encoding: 'utf8',
    env: { ...process.env, npm_lifecycle_event: '', ...env },
  });
}

test('targets are chosen by platform, processor and C library', () => {
  const names = (wish: object) => selectTargets(wish).map((t: any) => t.name);
  assert.is(names({}).length, 7);
  assert.equal(names({ platform: 'linux', arch: 'x64' }), ['linux-x64-glibc', 'linux-x64-musl']);
  assert.equal(names({ platform: 'linux', arch: 'x64', libc: 'musl' }), ['linux-x64-musl']);
  assert.equal(names({ platform: 'darwin' }), ['darwin-x64', 'darwin-arm64']);
  const { status, stderr } = script('prebuild.cjs', ['--platform', 'sunos']);
  assert.is(status, 1);
  assert.match(stderr, /^no target is sunos-\*; there are linux-x64-glibc, /);
});

test('the commands say what is missing', () => {
  const nothing = path.join(home, 'nothing');
  fs.mkdirSync(nothing);
  const check = script('check-prebuilds.cjs', [], { PATH: nothing, LLVM_BIN: '' });
  assert.is(check.status, 1);
  assert.match(check.stderr, /^llvm-readobj is not here: apt-get install llvm, .*LLVM_BIN/);
  assert.match(script('check-prebuilds.cjs', ['vax']).stderr, /no target is vax|is not here/);
});

test('the hosted workflow builds every target, by scripts that there are, with actions that cannot change', () => {
  const text = fs.readFileSync(path.join(root, '.github/workflows/build.yml'), 'utf8');
  const { scripts } = JSON.parse(fs.readFileSync(path.join(root, 'package.json'), 'utf8'));
  const found = (pattern: RegExp) => [...text.matchAll(pattern)].map((m) => m[1]);
  for (const name of found(/npm run ([\w:]+)/g)) assert.ok(scripts[name], name);
  for (const file of found(/\b(scripts\/[\w-]+\.\w+|\.ci\/run)/g))
    assert.ok(fs.existsSync(path.join(root, file)), file);
  const named = new Set(found(/\b((?:linux|darwin|win32)-\w+(?:-\w+)?)\b/g));
  assert.equal([...named].sort(), targets.map((t: any) => t.name).sort());
  for (const action of found(/uses: (.+)/g))
    assert.match(action, /^[\w-]+\/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$/);
  // Names of artefacts: what is put up is what is taken down.
  assert.is(found(/name: (prebuild-\$\{\{ matrix\.target \}\}|prebuild-win32-x64)/g).length, 3);
  assert.equal(found(/pattern: (\S+)/g), ['prebuild-*']);
});

test('before `npm run build` the script of the same name does nothing', () => {
  const hook = script('prebuild.cjs', [], { npm_lifecycle_event: 'prebuild' });
  assert.equal([hook.status, hook.stdout, hook.stderr], [0, '', '']);
});

test.run();
