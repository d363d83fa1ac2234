// What loads the addon, and what it says where none fits or where the one that is there is broken: each with a real file.
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { addon, folderElsewhere, installed, prebuild } from '../support/installed.ts';
import { attempt, commandsIn, type Ended, output, plainEnvironment } from '../support/run.ts';

const home = folderElsewhere();
const own = path.join(home, 'node_modules/rankone');
const file = path.join(own, prebuild);
const bytes = fs.readFileSync(addon);
const linux = process.platform === 'linux';
const elf = linux ? test : test.skip;
const here = `${process.platform}-${process.arch}`;
const tags: string[] = path.basename(prebuild).split('.').slice(1, -1);

test.before(async () => {
  const from = path.join((await installed()).home, 'node_modules');
  for (const name of ['rankone/dist', 'rankone/scripts', 'rankone/package.json'])
    fs.cpSync(path.join(from, name), path.join(home, 'node_modules', name), { recursive: true });
});

test.after(() => fs.rmSync(home, { recursive: true, force: true }));

test.before.each(() => {
  for (const name of ['prebuilds', 'build'])
    fs.rmSync(path.join(own, name), { recursive: true, force: true });
  fs.mkdirSync(path.dirname(file), { recursive: true });
});

function start(env: NodeJS.ProcessEnv = {}, ...flags: string[]): Promise<Ended> {
  const program = "console.log(require('rankone').info().isa)";
  return attempt(process.execPath, [...flags, '-e', program], {
    cwd: home,
    env: { ...plainEnvironment(), ...env },
  });
}

async function loads(env?: NodeJS.ProcessEnv, ...flags: string[]): Promise<void> {
  const { status, stdout, stderr } = await start(env, ...flags);
  assert.is(status, 0, stderr);
  assert.match(stdout, /^\w+\n$/);
}

/** The error's text, up to its stack. */
async function refuses(env?: NodeJS.ProcessEnv, ...flags: string[]): Promise<string> {
  const { status, stdout, stderr } = await start(env, ...flags);
  assert.is(status, 1, `${status} ${stdout}${stderr}`);
  assert.match(stderr, /code: 'ERR_RANKONE_BINDING'/);
  const system = `${here}${linux ? ' \\((glibc [\\d.]+|musl)\\)' : ''}, Node [\\d.]+ \\(ABI \\d+, Node-API \\d+\\), processor: `;
  assert.match(stderr, new RegExp(system));
  assert.is(stderr.match(/rankone('s| has no) native binary/g)?.length, 1, stderr);
  return stderr.slice(stderr.indexOf('Error: '), stderr.indexOf('\n    at '));
}

/** What is said of a prebuild with these contents. */
async function said(contents: Buffer | string): Promise<string> {
  fs.writeFileSync(file, contents);
  const text = await refuses();
  assert.match(text, /does not load, and nothing was put in its place/);
  assert.ok(text.includes(file), text);
  assert.match(text, /scripts\/install\.cjs --from-source/);
  return text;
}

/** The addon with one string of its tables replaced by another of that length. */
function patched(from: string | RegExp, to: string): Buffer {
  const text = bytes.toString('latin1');
  const found = typeof from === 'string' ? `\0${from}\0` : from.exec(text)![0];
  const at = text.indexOf(found);
  assert.ok(at >= 0 && found.length === to.length + 2);
  const copy = Buffer.from(bytes);
  copy.write(`\0${to}\0`, at, 'latin1');
  return copy;
}

/** A shared library of this system. */
function library(source: string, ...flags: string[]): Buffer {
  const made = path.join(home, 'made.node');
  fs.writeFileSync(path.join(home, 'made.c'), source);
  const { status, stderr } = spawnSync(
    process.env.CC ?? 'cc',
    ['-shared', '-fPIC', '-o', made, path.join(home, 'made.c'), ...flags],
    { encoding: 'utf8' },
  );
  assert.is(status, 0, stderr);
  return fs.readFileSync(made);
}

test('a prebuild that fits is loaded, and a build comes first', async () => {
  fs.copyFileSync(addon, file);
  await loads();
  fs.writeFileSync(file, 'broken');
  fs.mkdirSync(path.join(own, 'build/Release'), { recursive: true });
  fs.copyFileSync(addon, path.join(own, 'build/Release/rankone.node'));
  await loads();
});

test('where nothing fits: the system, what was looked for, what is there, the command', async () => {
  fs.rmdirSync(path.dirname(file));
  let text = await refuses();
  assert.match(text, /^Error: rankone has no native binary for /);
  for (const part of [
    path.join(own, 'build/Release/rankone.node'),
    path.dirname(file),
    '(no prebuilds there)',
  ])
    assert.ok(text.includes(part), text);
  assert.match(
    text,
    /gcc 12 or later, or clang 14 or later\):\n +node .+install\.cjs --from-source\n/,
  );
  for (const name of ['aix-ppc64', 'sunos-x64']) fs.mkdirSync(path.join(own, 'prebuilds', name));
  fs.mkdirSync(path.dirname(file));
  const other = tags.includes('musl') ? 'rankone.glibc.node' : 'rankone.musl.node';
  if (linux) fs.writeFileSync(path.join(path.dirname(file), other), bytes);
  text = await refuses();
  const held = linux ? other : 'nothing';
  assert.ok(text.includes(`prebuilds holds aix-ppc64, ${here}: ${held}, sunos-x64`), text);
});

elf('a file that ends early is never handed to the system', async () => {
  const headers = Number(bytes.readBigUInt64LE(32));
  const ends = Array.from({ length: bytes.readUInt16LE(56) }, (_, i) => {
    const at = headers + i * bytes.readUInt16LE(54);
    return Number(bytes.readBigUInt64LE(at + 8) + bytes.readBigUInt64LE(at + 32));
  });
  assert.match(await said(''), /Reason: it is empty/);
  for (const size of [1, 63])
    assert.match(await said(bytes.subarray(0, size)), /Reason: it is no native binary/);
  const [half, last] = [bytes.length >> 1, Math.max(...ends) - 1];
  for (const size of [64, 100, 5000, half, last])
    assert.match(
      await said(bytes.subarray(0, size)),
      new RegExp(`Reason: it is cut off: ${size} of at least \\d+ bytes`),
    );
});

test('another architecture, another system, no binary at all', async () => {
  assert.match(await said('<!DOCTYPE html>'.repeat(20)), /Reason: it is no native binary/);
  const other = process.arch === 'x64' ? 'arm64' : 'x64';
  const made = (fields: [number, number][]) => {
    const head = Buffer.alloc(4096);
    for (const [at, value] of fields) head.writeUInt32LE(value, at);
    return head;
  };
  const windows = made([
    [0, 0x5a4d],
    [60, 128],
    [128, 0x4550],
    [132, other === 'x64' ? 0x8664 : 0xaa64],
  ]);
  const mac = made([
    [0, 0xfeedfacf],
    [4, other === 'x64' ? 0x1000007 : 0x100000c],
  ]);
  const copy = Buffer.from(bytes);
  copy.writeUInt16LE(other === 'x64' ? 62 : 183, 18);
  const cases: [Buffer, string][] = [
    [windows, 'Windows'],
    [mac, 'macOS'],
  ];
  if (linux) cases.push([copy, 'Linux']);
  for (const [contents, system] of cases)
    assert.ok(
      (await said(contents)).includes(
        `Reason: it is built for ${system} on ${other}, this is ${here}`,
      ),
    );
});

elf('the system reason is told, and what it means', async () => {
  const text = await said(patched('napi_create_double', 'napi_creatx_double'));
  assert.match(
    text,
    /Reason: .*undefined symbol: napi_creatx_double\n +That is: this version of Node has no/,
  );
  if (tags.includes('musl')) return;
  assert.match(
    await said(patched(/\0GLIBC_2\.\d\d\0/, 'GLIBC_9.99')),
    /Reason: .*GLIBC_9\.99' not found.*\n +That is: it needs glibc 9\.99, this is .*glibc/,
  );
});

elf('libraries of other kinds', async () => {
  assert.match(await said(library('int x;')), /Reason: Module did not self-register/);
  const source = 'void* napi_register_module_v1(void* env, void* exports) { return exports; }';
  assert.match(await said(library(source)), /Reason: it is the addon of another package/);
  if (tags.includes('musl')) return;
  // As Alpine's compilers name it, and as others do.
  for (const name of ['libc.musl-x86_64.so.1', 'libc.so']) {
    const stub = path.join(home, 'stub.so');
    fs.writeFileSync(stub, library('int y;', `-Wl,-soname,${name}`));
    const musl = library('extern int y; int* x(void) { return &y; }', '-nostdlib', stub);
    const reason =
      /Reason: .*\blibc\.(musl|so).*\n +That is: it is built for musl, this is .*glibc/;
    assert.match(await said(musl), reason);
  }
});

test('RANKONE_BINDING names a file, which is the only one tried', async () => {
  fs.writeFileSync(file, 'broken');
  await loads({ RANKONE_BINDING: addon });
  await loads({ RANKONE_BINDING: path.relative(home, addon) });
  fs.copyFileSync(addon, file);
  await loads({ RANKONE_BINDING: '' });
  fs.copyFileSync(addon, path.join(home, 'rankone.so'));
  await loads({ RANKONE_BINDING: 'rankone.so' });
  for (const [name, reason] of [
    ['absent.node', 'it does not exist'],
    ['.', 'it is a folder'],
    ['made.c', 'it is no native binary'],
  ]) {
    fs.writeFileSync(path.join(home, 'made.c'), 'int x;');
    const text = await refuses({ RANKONE_BINDING: name });
    assert.ok(text.includes(`${path.resolve(home, name)}\n  Reason: ${reason}\n`), text);
    assert.ok(text.includes(`RANKONE_BINDING=${name} names it`), text);
    assert.not.match(text, /from-source/);
  }
});

test('variables of an installation for another system decide nothing', async () => {
  fs.copyFileSync(addon, file);
  const other = process.arch === 'x64' ? 'arm64' : 'x64';
  for (const folder of [`linux-${other}`, 'darwin-x64', 'win32-x64', here])
    for (const name of ['rankone.node', 'rankone.glibc.node', 'rankone.musl.node']) {
      const held = path.join(own, 'prebuilds', folder, name);
      fs.mkdirSync(path.dirname(held), { recursive: true });
      if (held !== file) fs.writeFileSync(held, 'broken');
    }
  for (const env of [
    { npm_config_arch: other },
    { npm_config_platform: process.platform === 'win32' ? 'linux' : 'win32' },
    { LIBC: tags.includes('musl') ? 'glibc' : 'musl' },
    { PREBUILDS_ONLY: '1', RANKONE_PREBUILD: home, ARM_VERSION: '6' },
  ])
    await loads(env);
});

test('the file stays known when the folder or the variable changes', async () => {
  const program = `
    const { bindingPath } = require(${JSON.stringify(path.join(own, 'dist/binding.js'))});
    process.chdir('/');
    process.env.RANKONE_BINDING = 'absent.node';
    console.log(bindingPath());`;
  const env = { ...plainEnvironment(), RANKONE_BINDING: path.relative(home, addon) };
  assert.is(await output(process.execPath, ['-e', program], { cwd: home, env }), addon);
});

elf('a pipe is not waited for', async () => {
  const pipe = path.join(home, 'pipe.node');
  assert.is(spawnSync('mkfifo', [pipe]).status, 0);
  assert.match(await refuses({ RANKONE_BINDING: pipe }), /Reason: it is no file\n/);
});

test('a runtime that does not tell of its system', async () => {
  fs.copyFileSync(addon, file);
  const fake = path.join(home, 'deno.cjs');
  const refusal = "() => { throw new Error('denied'); }";
  fs.writeFileSync(
    fake,
    `process.report.getReport = ${refusal}; require('node:os').cpus = ${refusal};`,
  );
  if (!tags.includes('musl')) await loads({}, '-r', fake);
  fs.writeFileSync(file, 'broken');
  const { stderr } = await start({}, '-r', fake);
  assert.match(stderr, /does not load, and nothing was put in its place/);
  assert.ok(stderr.includes(`System: ${here}, Node `), stderr);
});

test("the command is one for a shell, whatever the package's folder is called", async () => {
  const odd = path.join(home, "a folder's $HOME `x`");
  fs.cpSync(path.join(home, 'node_modules'), path.join(odd, 'node_modules'), { recursive: true });
  const place = { cwd: odd, env: { ...plainEnvironment(), PATH: commandsIn(odd) } };
  const { stderr } = await attempt(process.execPath, ['-e', "require('rankone')"], place);
  const command = /^ {2}(node .+install\.cjs.* --from-source)$/m.exec(stderr);
  assert.ok(command, stderr);
  const ended = await attempt('/bin/sh', ['-c', command[1]], place);
  assert.match(ended.stderr, /It cannot be built from source here\. What is missing: python3/);
});

const permission = ['--permission', '--experimental-permission'].find((flag) =>
  process.allowedNodeEnvironmentFlags.has(flag),
);
(permission ? test : test.skip)('Node that may read the program alone', async () => {
  fs.copyFileSync(addon, file);
  const program = path.join(home, 'app.cjs');
  fs.writeFileSync(program, "console.log(require('rankone').info().isa)");
  const may = [permission!, `--allow-fs-read=${home}/`];
  const ended = (...flags: string[]) =>
    attempt(process.execPath, [...may, ...flags, program], { cwd: home });
  const refused = await ended();
  assert.match(refused.stderr, /--no-addons, or --permission without --allow-addons/);
  assert.match(refused.stderr, /code: 'ERR_RANKONE_BINDING'/);
  // The first of Node 20 have no flag for addons.
  const flags = process.allowedNodeEnvironmentFlags.has('--allow-addons') ? ['--allow-addons'] : [];
  const { status, stdout, stderr } = await ended(...flags);
  assert.is(status, 0, stderr);
  assert.match(stdout, /^\w+\n$/);
});

test('Node without native addons', async () => {
  fs.copyFileSync(addon, file);
  assert.match(
    await refuses({}, '--no-addons'),
    /--no-addons, or --permission without --allow-addons/,
  );
});

elf('musl is known without the release file of Alpine', async () => {
  const folder = path.dirname(file);
  const fake = path.join(home, 'musl.cjs');
  fs.writeFileSync(fake, 'process.report.getReport = () => ({ header: {} });');
  fs.writeFileSync(path.join(folder, 'rankone.glibc.node'), 'broken');
  fs.copyFileSync(addon, path.join(folder, 'rankone.musl.node'));
  await loads({}, '-r', fake);
});

test('Electron as Node, and a host of another name', async () => {
  fs.copyFileSync(addon, file);
  await loads({ ELECTRON_RUN_AS_NODE: '1' });
  const host = path.join(home, 'host/application');
  fs.mkdirSync(path.dirname(host));
  fs.copyFileSync(process.execPath, host, fs.constants.COPYFILE_FICLONE);
  const program = "console.log(require('rankone').info().isa)";
  await output(host, ['-e', program], { cwd: home });
  // An application that carries its own Node may have the binary beside it.
  fs.renameSync(path.join(own, 'prebuilds'), path.join(home, 'host/prebuilds'));
  await output(host, ['-e', program], { cwd: home });
});

test('a worker gets the error too', async () => {
  fs.writeFileSync(file, 'broken');
  const program = `
    new (require('node:worker_threads').Worker)("require('rankone')", { eval: true })
      .on('error', (error) => console.log(error.code, error.message.split('\\n')[0]));`;
  const text = await output(process.execPath, ['-e', program], { cwd: home });
  assert.match(text, /^ERR_RANKONE_BINDING rankone's native binary does not load/);
});

test('an instruction set that does not exist is one clear error', async () => {
  fs.copyFileSync(addon, file);
  const { status, stderr } = await start({ RANKONE_ISA: 'sse9' });
  assert.is(status, 1);
  assert.match(stderr, /RANKONE_ISA=sse9: expected/);
});

test.run();
