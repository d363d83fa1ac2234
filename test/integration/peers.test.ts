/** Peers of the benchmark: how they are found, the protocol of their programs, and what problems are to them. */
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { UsageError } from '../../ts/cli/errors';
import { operations } from '../../ts/cli/ops';
import { findPeers, peerNames } from '../../ts/cli/peers';
import { onnxModel } from '../../ts/cli/peers/onnxModel';
import { packageFolder, resolvePackage } from '../../ts/cli/peers/packages';
import { headsFirst, kindOf, onValueHeads, spread, transposed } from '../../ts/cli/peers/problem';
import { cacheFolder, compiled } from '../../ts/cli/peers/program';
import { Server } from '../../ts/cli/peers/server';

const home = fs.mkdtempSync(path.join(os.tmpdir(), 'rankone-peers-'));

function write(name: string, text: string): string {
  const file = path.join(home, name);
  fs.mkdirSync(path.dirname(file), { recursive: true });
  fs.writeFileSync(file, text);
  return file;
}

/** Runs `body` with variables of the environment changed; undefined takes one away. */
async function withEnvironment(
  changes: Record<string, string | undefined>,
  body: () => Promise<void>,
): Promise<void> {
  const before = { ...process.env };
  for (const [name, value] of Object.entries(changes)) {
    if (value === undefined) delete process.env[name];
    else process.env[name] = value;
  }
  try {
    await body();
  } finally {
    for (const name of Object.keys(changes)) {
      if (before[name] === undefined) delete process.env[name];
      else process.env[name] = before[name];
    }
  }
}

async function expectRejection(promise: Promise<unknown>, message: RegExp): Promise<void> {
  const outcome = await promise.then(
    () => 'nothing was thrown',
    (error: Error) => error.message,
  );
  assert.match(outcome, message);
}

/** A program that speaks the protocol: its one result is the sum of what it was given, and `request` makes it misbehave. */
const FAKE = `
  const say = (line) => process.stdout.write(line + '\\n');
  const raw = (numbers) => process.stdout.write(Buffer.from(numbers.buffer));
  const settings = {};
  let sum = 0, input = Buffer.alloc(0), awaited = 0;
  const answers = {
    hello() { say('set color dark green'); say('ok fake 1.0, slow'); },
    set(name, value) { settings[name] = value; },
    tensor(_name, ...extents) { awaited = 4 * extents.reduce((product, x) => product * x, 1); },
    open() {
      const request = settings.request;
      if (request === 'abort') { console.error('ASSERT(x > 0) failed'); process.abort(); }
      if (request === 'exit') process.exit(3);
      if (request === 'refuse') say('error no such operator: x y');
      else if (request === 'babble') say('Core not found: Zen');
      else if (request !== 'hang') say('ok');
    },
    results() {
      // In pieces that do not end where messages do.
      process.stdout.write('tensor su');
      setTimeout(() => process.stdout.write(Buffer.concat([Buffer.from('m 1 2\\n'), Buffer.from(Float32Array.of(sum).buffer).subarray(0, 3)])), 10);
      setTimeout(() => {
        process.stdout.write(Buffer.from(Float32Array.of(sum).buffer).subarray(3));
        raw(Float32Array.of(10));
        say('ok');
      }, 30);
    },
    time(runs) {
      say('times ' + runs);
      raw(Float64Array.from({ length: +runs }, (_, i) => i + 0.5));
      if (settings.request === 'die-later') process.kill(process.pid, 'SIGKILL');
      say('ok');
    },
  };
  process.stdin.on('data', (chunk) => {
    input = Buffer.concat([input, chunk]);
    for (;;) {
      if (awaited > 0) {
        if (input.length < awaited) return;
        for (let at = 0; at < awaited; at += 4) sum += input.readFloatLE(at);
        input = input.subarray(awaited);
        awaited = 0;
      }
      const end = input.indexOf('\\n');
      if (end < 0) return;
      const [verb, ...words] = input.subarray(0, end).toString().split(' ');
      input = input.subarray(end + 1);
      answers[verb](...words);
    }
  });
`;
const fake = write('fake.cjs', FAKE);
// It ends by itself, however long that takes on a busy machine.
const start = (limit?: number): Server =>
  new Server({ name: 'fake', file: process.execPath, args: [fake], limit, patience: 300_000 });

const peers = suite('peers');
peers.after(() => fs.rmSync(home, { recursive: true, force: true }));

peers('a program that speaks the protocol', async () => {
  const server = start();
  assert.equal(await server.hello(), {
    version: 'fake 1.0, slow',
    properties: { color: 'dark green' },
  });
  // Numbers whose bytes look like the end of a line, and more of them than a pipe holds.
  const newline = new Float32Array(Uint32Array.of(0x0a0a0a0a).buffer)[0];
  const many = new Float32Array(100_000).fill(0.25);
  await server.open(
    { threads: 2 },
    {
      a: { data: Float32Array.of(1, 2, newline), shape: [3] },
      b: { data: many, shape: [100, 1000] },
    },
  );
  const { sum } = await server.results();
  assert.equal(sum!.shape, [1, 2]);
  assert.equal([...(sum!.data as Float32Array)], [25_003, 10]);
  assert.equal(await server.time(3), [0.5, 1.5, 2.5]);
  await server.close();
  await expectRejection(server.results(), /^fake: its process ended with exit code 0$/);
});

peers('what its process does wrong is an error, at once', async () => {
  const expectations: [request: string, message: RegExp][] = [
    ['refuse', /^fake: no such operator: x y$/],
    ['abort', /^fake: its process ended with SIGABRT:\nASSERT\(x > 0\) failed/],
    ['exit', /^fake: its process ended with exit code 3$/],
    ['babble', /^fake: its process said 'Core not found: Zen'$/],
  ];
  for (const [request, message] of expectations) {
    const server = start();
    await expectRejection(server.open({ request }, {}), message);
    // It is gone, whatever the failure was.
    await expectRejection(server.results(), /its process ended with /);
    await server.close();
  }
});

peers('its end in the middle of an answer', async () => {
  const server = start();
  await server.open({ request: 'die-later' }, {});
  await expectRejection(server.time(2), /^fake: its process ended with SIGKILL$/);
  await server.close();
});

peers('an answer that does not come', async () => {
  const server = start(300);
  await expectRejection(
    server.open({ request: 'hang' }, {}),
    /^fake: its process did not answer 'open' within 0.3 s$/,
  );
  await server.close();
});

peers('a file that is no program', async () => {
  const server = new Server({ name: 'gone', file: path.join(home, 'gone'), args: [] });
  await expectRejection(server.hello(), /^gone: its process cannot be started \(.*ENOENT/);
  await server.close();
});

peers('an idle program does not keep the command alive, and ends with it', () => {
  const source = `
    const { Server } = require(${JSON.stringify(path.join(__dirname, '../../dist/cli/peers/server.js'))});
    const server = new Server({ name: 'fake', file: process.execPath, args: [${JSON.stringify(fake)}] });
    server.hello().then(({ version }) => console.log(version, server.child.pid));
  `;
  const { status, stdout, stderr } = spawnSync(process.execPath, ['-e', source], {
    encoding: 'utf8',
    timeout: 300_000,
  });
  assert.is(status, 0, stderr);
  const [, pid] = /^fake 1\.0, slow (\d+)\n$/.exec(stdout)!;
  for (let waited = 0; alive(Number(pid)); waited += 20) {
    assert.ok(waited < 120_000, 'the program is still there');
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 20);
  }
});

function alive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return !fs.readFileSync(`/proc/${pid}/stat`, 'utf8').includes(') Z ');
  } catch {
    return false;
  }
}

peers('unknown names are errors of the command line', async () => {
  const failure = await findPeers(['onnxruntime', 'openblass']).catch((error) => error);
  assert.instance(failure, UsageError);
  assert.match(
    failure.message,
    /^--peers openblass: expected one of onnxruntime, ggml, openblas, torch; nearest: openblas$/,
  );
});

peers('what is missing says what was looked for and how to get it', async () => {
  const empty = path.join(home, 'empty');
  fs.mkdirSync(empty);
  const nothing = {
    RANKONE_PEERS_PATH: empty,
    RANKONE_OPENBLAS: path.join(empty, 'libopenblas.so'),
    RANKONE_PYTHON: path.join(empty, 'python3'),
  };
  await withEnvironment(nothing, async () => {
    const present = ['onnxruntime-node', `@node-llama-cpp/linux-${process.arch}`].map(
      resolvePackage,
    );
    const { found, missing } = await findPeers(peerNames);
    const reasons = Object.fromEntries(missing.map(({ name, reason }) => [name, reason]));
    if (!present[0]) {
      assert.match(
        reasons.onnxruntime,
        /^no package onnxruntime-node in the node_modules of .*empty/,
      );
      assert.match(reasons.onnxruntime, /npm i .*onnxruntime-node, then RANKONE_PEERS_PATH=/);
    }
    if (!present[1] && process.platform === 'linux') {
      assert.match(reasons.ggml, /^no package @node-llama-cpp\/linux-/);
    }
    assert.match(
      reasons.openblas,
      /no library of .*libopenblas\.so; install it, .*RANKONE_OPENBLAS|no C\+\+ compiler/,
    );
    assert.match(reasons.torch, /^no Python with torch \(.*python3: .*ENOENT.*RANKONE_PYTHON$/);
    assert.is(found.length + missing.length, peerNames.length);
  });
  // A Python without torch, and no compiler.
  const python = write('python', '#!/bin/sh\necho "error ModuleNotFoundError: torch"\n');
  fs.chmodSync(python, 0o755);
  await withEnvironment({ RANKONE_PYTHON: python, CXX: path.join(empty, 'c++') }, async () => {
    const { found, missing } = await findPeers(['torch', 'openblas', 'torch']);
    assert.equal(found, []);
    assert.match(missing[0].reason, /python: ModuleNotFoundError: torch\); install one/);
    assert.match(missing[1].reason, /^no C\+\+ compiler \(looked for .*c\+\+\); install one/);
    assert.is(missing.length, 2);
  });
});

peers('packages are found in a folder of the user', async () => {
  const main = write('own/node_modules/@scope/peer/dist/index.js', '');
  write(
    'own/node_modules/@scope/peer/package.json',
    '{"name": "@scope/peer", "exports": "./dist/index.js"}',
  );
  assert.is(resolvePackage('@scope/peer'), undefined);
  const folders = [path.join(home, 'none'), path.join(home, 'own')].join(path.delimiter);
  await withEnvironment({ RANKONE_PEERS_PATH: folders }, async () => {
    const file = resolvePackage('@scope/peer')!;
    assert.is(fs.realpathSync(file), fs.realpathSync(main));
    assert.is(packageFolder('@scope/peer', file), path.dirname(path.dirname(file)));
  });
});

const hasCompiler = spawnSync(process.env.CXX || 'c++', ['--version']).status === 0;

(hasCompiler ? peers : peers.skip)(
  'programs are compiled once, and again when anything changes',
  async () => {
    const folder = path.join(home, 'sources');
    const program = write('sources/greet.cpp', '#include "text.h"\nint main() { puts(TEXT); }\n');
    write('sources/text.h', '#pragma once\n#include <cstdio>\n#define TEXT "one"\n');
    const calls = path.join(home, 'calls');
    const compiler = write(
      'compiler',
      `#!/bin/sh\necho "$@" >> '${calls}'\nexec ${process.env.CXX || 'c++'} "$@"\n`,
    );
    fs.chmodSync(compiler, 0o755);
    const env = { ...process.env, CXX: compiler, XDG_CACHE_HOME: path.join(home, 'cache') };
    const compilations = (): number =>
      fs
        .readFileSync(calls, 'utf8')
        .split('\n')
        .filter((line) => line.includes('greet.cpp')).length;
    const says = (): string =>
      spawnSync(compiled('greet', folder, env), { encoding: 'utf8' }).stdout;
    assert.is(says(), 'one\n');
    assert.is(says(), 'one\n');
    assert.is(compilations(), 1);
    write('sources/text.h', '#pragma once\n#include <cstdio>\n#define TEXT "two"\n');
    assert.is(says(), 'two\n');
    assert.is(compilations(), 2);
    // One that others may have written is made again.
    if (process.getuid) {
      const { mode } = fs.statSync(cacheFolder(env));
      assert.is(mode & 0o777, 0o700);
      fs.chmodSync(compiled('greet', folder, env), 0o777);
      assert.is(says(), 'two\n');
      assert.is(compilations(), 3);
    }
    assert.is(fs.readdirSync(cacheFolder(env)).length, 2);
    fs.writeFileSync(program, 'int main() { return nothing; }\n');
    assert.throws(
      () => compiled('greet', folder, env),
      /compiler does not compile greet\.cpp:\n.*nothing.*(not declared|undeclared)/s,
    );
    assert.is(fs.readdirSync(cacheFolder(env)).length, 2, 'nothing unfinished is left');
  },
);

peers('the cache is where the system keeps such things', () => {
  assert.is(cacheFolder({ XDG_CACHE_HOME: '/c' }), path.join('/c', 'rankone', 'peers'));
  assert.ok(cacheFolder({}).startsWith(os.homedir()));
  assert.is(cacheFolder({ XDG_CACHE_HOME: 'relative' }), cacheFolder({}));
});

/** A protobuf message as [field, value] pairs; what has a length stays bytes. */
function fieldsOf(bytes: Buffer): [field: number, value: number | Buffer][] {
  const fields: [number, number | Buffer][] = [];
  let at = 0;
  const varint = (): number => {
    let value = 0;
    for (let scale = 1; ; scale *= 128) {
      const byte = bytes[at++];
      value += (byte % 128) * scale;
      if (byte < 128) return value;
    }
  };
  while (at < bytes.length) {
    const tag = varint();
    const value = varint();
    if (tag % 8 === 0) fields.push([tag >> 3, value]);
    else {
      assert.is(tag % 8, 2);
      fields.push([tag >> 3, bytes.subarray(at, at + value)]);
      at += value;
    }
  }
  assert.is(at, bytes.length);
  return fields;
}

function only(bytes: Buffer, wanted: number): any[] {
  return fieldsOf(bytes).flatMap(([field, value]) => (field === wanted ? [value] : []));
}

function texts(bytes: Buffer, wanted: number): string[] {
  return only(bytes, wanted).map(String);
}

peers('the bytes of an ONNX model', () => {
  const weights = Float32Array.from({ length: 300 }, (_, i) => i / 7);
  const model = onnxModel(
    {
      nodes: [
        {
          op: 'LinearAttention',
          domain: 'com.microsoft',
          inputs: ['q', '', 'w'],
          outputs: ['o'],
          attributes: { update_rule: 'gated', q_num_heads: 300 },
        },
      ],
      initializers: [{ name: 'w', shape: [3, 100], data: weights }],
      inputs: [{ name: 'q', shape: [1, 512, 4] }],
      outputs: [{ name: 'o', shape: [1, 512, 4] }],
    },
    ['com.microsoft'],
  );
  assert.equal(only(model, 1), [10]); // ir_version
  assert.equal(
    only(model, 8).map((set) => [texts(set, 1)[0], only(set, 2)[0]]),
    [
      ['', 21],
      ['com.microsoft', 1],
    ],
  );
  const [graph] = only(model, 7);
  const [node] = only(graph, 1);
  assert.equal(texts(node, 1), ['q', '', 'w']);
  assert.equal(texts(node, 2), ['o']);
  assert.equal([...texts(node, 4), ...texts(node, 7)], ['LinearAttention', 'com.microsoft']);
  const [rule, heads] = only(node, 5);
  assert.equal([texts(rule, 1), texts(rule, 4), only(rule, 20)], [['update_rule'], ['gated'], [3]]);
  assert.equal([texts(heads, 1), only(heads, 3), only(heads, 20)], [['q_num_heads'], [300], [2]]);
  const [constant] = only(graph, 5);
  assert.equal([only(constant, 1), only(constant, 2), texts(constant, 8)], [[3, 100], [1], ['w']]);
  const data: Buffer = only(constant, 9)[0];
  assert.is(data.length, 1200);
  assert.is(data.readFloatLE(4 * 299), weights[299]);
  for (const [field, name] of [
    [11, 'q'],
    [12, 'o'],
  ] as const) {
    const [value] = only(graph, field);
    assert.equal(texts(value, 1), [name]);
    const [tensor] = only(only(value, 2)[0], 1);
    assert.equal(only(tensor, 1), [1]);
    const extents = only(only(tensor, 2)[0], 1).map((extent) => only(extent, 1)[0]);
    assert.equal(extents, [1, 512, 4]);
  }
});

peers('layouts', () => {
  const x = { data: Float32Array.of(1, 2, 3, 4), shape: [1, 1, 2, 2] };
  assert.equal([...onValueHeads(x, 4).data], [1, 2, 1, 2, 3, 4, 3, 4]);
  assert.is(onValueHeads(x, 2), x);
  assert.equal(spread(x, 2).shape, [1, 1, 2, 2, 2]);
  assert.equal([...spread(x, 2).data], [1, 1, 2, 2, 3, 3, 4, 4]);
  const four = { data: Float32Array.from({ length: 12 }, (_, i) => i), shape: [1, 2, 3, 2] };
  assert.equal([...headsFirst(four).data], [0, 1, 6, 7, 2, 3, 8, 9, 4, 5, 10, 11]);
  assert.equal(headsFirst(headsFirst(four)), four);
  const two = { data: Float32Array.of(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12), shape: [2, 2, 3] };
  assert.equal(transposed(two).shape, [2, 3, 2]);
  assert.equal([...transposed(two).data], [1, 4, 2, 5, 3, 6, 7, 10, 8, 11, 9, 12]);
});

peers('what operations are to a peer', () => {
  const kinds = Object.fromEntries(operations.map((op) => [op.name, kindOf(op)]));
  assert.equal(kinds['head/delta'], { family: 'grid', gate: 'head', update: 'delta' });
  assert.equal(kinds.gla, { family: 'grid', gate: 'channel', update: 'additive' });
  assert.equal(kinds.gatedDeltaNet, { family: 'grid', gate: 'token', update: 'delta' });
  assert.equal(kinds.retention, { family: 'grid', gate: 'head', update: 'additive' });
  assert.equal(kinds.linearAttention, { family: 'grid', gate: 'none', update: 'additive' });
  assert.equal(kinds.mamba2, { family: 'mamba2' });
  assert.equal(kinds.matmul, { family: 'matmul' });
  assert.equal(kinds.attention, { family: 'attention' });
  assert.equal(kinds['attention/token'], { family: 'attention' });
  assert.equal(kinds['bf16/matmul'], { family: 'matmul' });
  const none = (name: string): string => {
    const kind = kinds[name];
    return kind.family === 'none' ? kind.why : `a ${kind.family}`;
  };
  assert.is(none('token/delta/2'), 'no Householder products');
  assert.is(none('deltaProduct'), 'no Householder products');
  assert.is(none('packed/none/additive'), 'no packed sequences');
  assert.is(none('fused/token/delta'), 'no qkL2norm');
  assert.is(none('normalize'), 'no normalize');
  assert.is(none('bf16/none/delta'), 'no compute');
  assert.is(none('swiglu'), 'no such operation');
});

peers.run();
