/** `rankone bench` as a process of its own, from dist; and what it does with other libraries, played by objects here. */
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { binding } from '../../ts/binding';
import { measureCeilings } from '../../ts/cli/bench/ceilings';
import { measure } from '../../ts/cli/bench/measure';
import { expectRight, inputsForPeer, PEER_LIMITS } from '../../ts/cli/bench/peerCheck';
import type { BenchReport, CaseResult } from '../../ts/cli/bench/schema';
import type { Case } from '../../ts/cli/benchCase';
import { prepare } from '../../ts/cli/benchCase';
import type { Pass, References } from '../../ts/cli/operation';
import { passes } from '../../ts/cli/operation';
import { findOperations } from '../../ts/cli/ops';
import type { Peer } from '../../ts/cli/peers/peer';
import { getNumThreads, info } from '../../ts/index';
import { eventually } from '../support/eventually.ts';

const root = path.join(__dirname, '../..');
const main = path.join(root, 'dist/cli/main.js');
const home = fs.mkdtempSync(path.join(os.tmpdir(), 'rankone-bench-cli-'));

function run(command: string[], cwd: string) {
  const result = spawnSync(process.execPath, command, { cwd, encoding: 'utf8' });
  return { code: result.status, out: result.stdout, error: result.stderr };
}

function bench(args: string) {
  return run([main, 'bench', ...args.split(' ')], home);
}

function read(name: string): BenchReport {
  return JSON.parse(fs.readFileSync(path.join(home, name), 'utf8'));
}

function write(name: string, report: object): void {
  fs.writeFileSync(path.join(home, name), JSON.stringify(report));
}

const cli = suite('bench: command line');
cli.after(() => fs.rmSync(home, { recursive: true, force: true }));

/** Per nanosecond: in seconds or bytes it would be outside of this, on any machine however busy. */
const speed = (x: number): boolean => x > 1e-6 && x < 1e6;
const near = (x: number | undefined, y: number): boolean => Math.abs(x! / y - 1) < 1e-9;

cli('every pass of some operations', () => {
  const { code, out, error } = bench(
    '--op gla,matmul,token/delta/2 --seconds 0.03 --threads 1 --isa baseline --json bench.json',
  );
  assert.is(code, 0, error);
  assert.match(out, /^gla +forward +auto +B1 T512 H8 HV8 K64 V64 /m);
  const { schema, version, machine, ceilings, cases, failures } = read('bench.json');
  assert.is(schema, 'rankone-bench');
  assert.is(version, 1);
  assert.is(machine.version, require('../../package.json').version);
  assert.equal(failures, []);
  assert.is(ceilings.length, 1);
  const [{ isa, threads, peaks, bandwidths }] = ceilings;
  assert.is(isa, 'baseline');
  assert.is(threads, 1);
  assert.ok(speed(peaks.f32) && peaks.bf16 === undefined);
  assert.is(bandwidths.at(-1)!.level, 'memory');
  for (const { read: reading, update } of bandwidths) assert.ok(speed(reading) && speed(update));
  assert.equal(
    cases.map((one) => `${one.op} ${one.pass}`),
    [
      ...passes.map((pass) => `gla ${pass}`),
      ...['forward', 'backward'].map((pass) => `matmul ${pass}`),
      ...passes.map((pass) => `token/delta/2 ${pass}`),
    ],
  );
  const perTokenHead = {
    gla: [4, 4, 10, 10, 4],
    matmul: [],
    'token/delta/2': [10, 10, 28, 28, 10],
  };
  for (const one of cases) {
    assert.is(one.threads, 1);
    assert.is(one.isa, 'baseline');
    assert.ok(one.samples >= 3);
    assert.ok(one.minNs <= one.p25Ns && one.p25Ns <= one.medianNs && one.medianNs <= one.p75Ns);
    assert.ok(one.madNs >= 0 && one.noise >= one.madNs / one.medianNs && one.peakGflops > 0);
    assert.ok(one.worstError > 0 && one.worstError <= 1);
    assert.ok(near(one.gflops, one.flops! / one.medianNs));
    assert.ok(near(one.shareOfPeak, one.gflops! / one.peakGflops));
    assert.ok(near(one.gbPerSecond, one.bytes / one.medianNs));
    assert.ok(near(one.shareOfBandwidth, one.gbPerSecond / one.levelGbPerSecond));
    assert.ok(bandwidths.some(({ level }) => level === one.level));
    assert.equal(one.peers, []);
    if (one.op === 'matmul') {
      assert.is(one.flops, (one.pass === 'forward' ? 2 : 4) * 512 * 1024 * 1024);
      assert.is(one.mode, undefined);
      continue;
    }
    const at = (passes as readonly string[]).indexOf(one.pass);
    const heads = 8 * (one.pass === 'decode' ? 1 : 512);
    assert.is(one.flops, perTokenHead[one.op as 'gla'][at] * 64 * 64 * heads);
    assert.ok(near(one.nsPerTokenHead, one.medianNs / heads));
    assert.is(one.shape.T, one.pass === 'decode' ? 1 : 512);
  }
});

cli('instruction sets in processes of their own, threads, dtypes and tokens', () => {
  const isas = info().availableIsas;
  const { code, out, error } = bench(
    '--op gla --shape 1,8,1,1,8,8 --pass forward --isa all --threads 1,2 --dtype f32,bf16 --tokens 8,16 --seconds 0.01 --json - --html page.html',
  );
  assert.is(code, 0, error);
  const { cases, ceilings }: BenchReport = JSON.parse(out);
  const told = cases.map(
    ({ isa, threads, dtype, shape }) => `${isa} ${threads} ${dtype} ${shape.T}`,
  );
  const expected = isas.flatMap((isa) =>
    [1, 2].flatMap((threads) =>
      ['f32', 'bf16'].flatMap((dtype) => [8, 16].map((T) => `${isa} ${threads} ${dtype} ${T}`)),
    ),
  );
  assert.equal(told, expected);
  assert.equal(
    ceilings.map(({ isa, threads }) => `${isa} ${threads}`),
    isas.flatMap((isa) => [`${isa} 1`, `${isa} 2`]),
  );
  for (const { isa, peaks } of ceilings) assert.is('bf16' in peaks, isa === 'avx512bf16');
  assert.match(fs.readFileSync(path.join(home, 'page.html'), 'utf8'), /^<!doctype html>/);
});

cli('layers of models', () => {
  const { code, out, error } = bench(
    '--model rwkv-like --pass decode --seconds 0.01 --json models.json',
  );
  assert.is(code, 0, error);
  assert.match(out, /^kda +decode +auto +B1 T1 H40 HV40 K64 V64 /m);
  const [one] = read('models.json').cases;
  assert.is(one.model, 'rwkv-like');
  assert.is(one.op, 'kda');
  assert.equal(one.shape, { B: 1, T: 1, H: 40, HV: 40, K: 64, V: 64 });
});

cli('an earlier run: what got slower is flagged, and ends with exit code 1', () => {
  const same = '--op matmul --shape 32,32,32 --pass forward --seconds 0.02 --threads 1';
  assert.is(bench(`${same} --json old.json`).code, 0);
  const old = read('old.json');
  const edited = (name: string, edit: (one: CaseResult) => void): void => {
    const copy = structuredClone(old);
    copy.cases.forEach(edit);
    write(name, copy);
  };
  // By more than any machine slows down between two runs; and no noise makes a limit above 5.
  const FAR = 1e9;
  edited('fast.json', (one) =>
    Object.assign(one, { medianNs: one.medianNs / FAR, minNs: one.minNs / FAR, noise: 0.01 }),
  );
  edited('slow.json', (one) =>
    Object.assign(one, { medianNs: one.medianNs * FAR, minNs: one.minNs * FAR, noise: 0.01 }),
  );
  edited('other.json', (one) => Object.assign(one, { threads: 2 }));
  write('elsewhere.json', { ...old, machine: { ...old.machine, processor: 'elsewhere' } });

  const slower = bench(`${same} --compare fast.json --json new.json --html new.html`);
  assert.is(slower.code, 1, slower.error);
  assert.match(slower.out, /^matmul forward f32 M32 N32 K32 \S+ threads 1: 0\.000 of .*, SLOWER$/m);
  assert.match(slower.out, /^1 compared: 1 slower, 0 faster$/m);
  const { comparison, cases } = read('new.json');
  const [change] = comparison!.changes;
  assert.is(change.verdict, 'slower');
  const times = (one: CaseResult): number => one.medianNs * one.peakGflops;
  assert.ok(near(change.ratio, times(old.cases[0]) / FAR / times(cases[0])));
  assert.match(fs.readFileSync(path.join(home, 'new.html'), 'utf8'), /class="slower">slower</);

  const faster = bench(`${same} --compare slow.json`);
  assert.is(faster.code, 0, faster.error);
  assert.match(faster.out, /^matmul .*: \d{4,}\.\d+ of .*, FASTER$/m);

  for (const [file, pattern] of [
    [
      'other.json',
      /none of its 1 cases is in this run \(it has \S+ on 2 threads; this run \S+ on 1\)/,
    ],
    ['elsewhere.json', /it is of another processor \(elsewhere/],
    ['models.json', /none of its 1 cases/],
  ] as const) {
    const { code, out, error } = bench(`${same} --compare ${file}`);
    assert.is(code, 2, error);
    assert.match(error, pattern);
    assert.is(out, '');
  }
  assert.is(bench(`${same} --compare absent.json`).code, 1);
});

cli('a file that cannot be written is an error before anything is timed', () => {
  for (const option of ['--json', '--html']) {
    const { code, out, error } = bench(`--op matmul --seconds 600 ${option} absent/file`);
    assert.is(code, 1);
    assert.is(out, '');
    assert.match(error, /^error: ENOENT: .*absent', to write absent\/file$/m);
  }
});

cli('the fixed set of npm run bench', () => {
  const file = path.join(home, 'fixed.json');
  const script = ['--import', 'tsx', 'bench/run.ts', 'forward matmul M1 ', '--seconds', '0.01'];
  const { code, out, error } = run([...script, '--json', file], root);
  assert.is(code, 0, error);
  assert.match(out, /^matmul +forward +M1 N1024 K1024 /m);
  assert.is(read('fixed.json').cases.length, 1);
});

cli('measurements of the machine refuse what they cannot do', () => {
  const wrong: [() => number, RegExp][] = [
    [() => binding.measurePeak('f64' as 'f32', 0.01), /kind: expected 'f32', 'bf16' or 'int8'/],
    [() => binding.measurePeak('f32', 0), /seconds: expected a number above 0/],
    [
      () => binding.measureBandwidth('write' as 'read', 1e4, 0.01),
      /traffic: expected 'read' or 'update'/,
    ],
    [() => binding.measureBandwidth('read', 0, 0.01), /bytes: expected a number from 1/],
    [() => binding.measureBandwidth('read', Number.NaN, 0.01), /bytes: expected a number from 1/],
    [
      () => binding.measureBandwidth('read', 1e4, 61),
      /seconds: expected a number above 0, at most 60/,
    ],
  ];
  for (const [call, pattern] of wrong) assert.throws(call, pattern);
  const { peaks } = measureCeilings();
  assert.is(info().isa === 'avx512bf16', peaks.bf16 !== undefined);
  for (const kind of ['bf16', 'int8'] as const)
    if (!peaks[kind])
      assert.throws(() => binding.measurePeak(kind, 0.01), new RegExp(`got '${kind}'`));
  assert.ok(speed(binding.measureBandwidth('read', 1, 0.001)), 'a set smaller than a block');
});

cli('a level that is nearer to the processor is not slower than memory', async () => {
  // Whatever else runs here runs during one of the measurements only.
  await eventually('the first level is slower', () => {
    const { bandwidths } = measureCeilings();
    return bandwidths[0].read > bandwidths.at(-1)!.read / 2;
  });
});

cli.run();

const peers = suite('bench: peers');

const shape = { B: 1, T: 16, H: 1, HV: 1, K: 16, V: 16 };

function caseOf(pass: Pass = 'forward'): Case {
  const [op] = findOperations(['gatedDeltaNet']);
  return { op, pass, shape, dtype: 'f32', mode: 'auto' };
}

/** A quarter of an hour: nothing of the engine's takes as long. */
const SLOW_NS = 1e12;

/** The reference as a library, every run of which takes as long as that. */
function player(
  name: string,
  edit: Partial<Peer> = {},
  spoil?: (results: References) => void,
): Peer & { closed: number } {
  const peer = {
    name,
    version: '1',
    closed: 0,
    objection: () => undefined,
    open: async (one: Case, inputs: any) => ({
      results: async () => {
        const backward = one.pass.startsWith('backward');
        const results = { ...(backward ? one.op.backward!(inputs) : one.op.forward(inputs)) };
        spoil?.(results);
        return results;
      },
      time: async (runs: number) => Array.from({ length: runs }, () => SLOW_NS),
      close: async () => {
        peer.closed++;
      },
    }),
    ...edit,
  };
  return peer as Peer & { closed: number };
}

async function measured(players: Peer[], pass?: Pass) {
  const { isa } = info();
  const setting = { seconds: 0.02, isa, threads: getNumThreads(), peers: players };
  return measure(caseOf(pass), setting);
}

peers('a right answer is timed in turns and has a ratio', async () => {
  const one = player('right');
  const { timed, skipped } = await measured([one]);
  assert.equal(skipped, []);
  const [peer] = timed.peers;
  assert.is(peer.name, 'right');
  assert.is(peer.medianNs, SLOW_NS);
  assert.is(peer.error, 0);
  assert.ok(peer.ratio > 1 && peer.ratio <= (SLOW_NS / timed.minNs) * (1 + 1e-9));
  assert.ok(peer.ratioP25 <= peer.ratio && peer.ratio <= peer.ratioP75 && peer.ratioP25 > 0);
  assert.is(one.closed, 2); // the small problem, and the one that was timed
});

peers('a wrong, unable or failing one is skipped with its reason, the others not', async () => {
  const wrong = player('wrong', {}, ({ o }) => {
    (o!.data as Float64Array)[3] += 1e-3 * Math.hypot(...Array.from(o!.data));
  });
  const nan = player('nan', {}, ({ o }) => (o!.data as Float64Array).fill(Number.NaN, 5, 6));
  const without = player('without', {}, (results) => delete results.o);
  const unable = player('unable', { objection: ({ pass }) => `has no ${pass}` });
  const broken = player('broken', { open: () => Promise.reject(new Error('no such symbol')) });
  const late = player('late');
  const open = late.open;
  late.open = async (...given) => {
    const opened = await open(...given);
    return { ...opened, time: () => Promise.reject(new Error('ran out of memory')) };
  };
  const right = player('right');
  const all = [wrong, nan, without, unable, broken, late, right];
  const { timed, skipped } = await measured(all);
  assert.equal(
    timed.peers.map(({ name }) => name),
    ['right'],
  );
  const reasons = Object.fromEntries(skipped.map(({ peer, reason }) => [peer, reason]));
  assert.match(
    reasons.wrong,
    /^wrong answer for gatedDeltaNet forward f32: o is off by 1\.0e-3, allowed 0\.0001$/,
  );
  assert.match(reasons.nan, /^wrong answer .*: o is off by Infinity/);
  assert.match(reasons.without, /^gave no o for gatedDeltaNet forward/);
  assert.is(reasons.unable, 'has no forward');
  assert.is(reasons.broken, 'no such symbol');
  assert.is(reasons.late, 'ran out of memory');
  assert.ok(skipped.every(({ cases }) => cases === 1));
  assert.is(wrong.closed, 1);
  assert.is(late.closed, 2);
});

peers('backward and decode are held against the reference too', async () => {
  for (const [pass, result] of [
    ['backward', 'dk'],
    ['decode', 'o'],
  ] as const) {
    const right = await measured([player('right')], pass);
    assert.is(right.timed.peers.length, 1, JSON.stringify(right.skipped));
    const spoil = (results: References): void => {
      const { data } = results[result]!;
      (data as Float64Array)[0] += 2e-4 * Math.hypot(...Array.from(data));
    };
    const { timed, skipped } = await measured([player('wrong', {}, spoil)], pass);
    assert.equal(timed.peers, []);
    assert.match(skipped[0].reason, new RegExp(`${pass} f32: ${result} is off by 2\\.0e-4`));
  }
});

peers('what only we have is not asked for', async () => {
  for (const pass of ['forward-saving', 'backward-recomputing'] as const) {
    const asked = player('asked', { objection: () => assert.unreachable() as never });
    const { timed, skipped } = await measured([asked], pass);
    assert.equal(timed.peers, []);
    assert.equal(skipped, [{ peer: 'asked', reason: `${pass} has no counterpart`, cases: 1 }]);
  }
});

peers('the limit goes by the arithmetic', () => {
  const one = caseOf();
  const expected = one.op.forward(inputsForPeer(one));
  const off = (by: number): References => {
    const data = Float32Array.from(expected.o!.data, (x) => x * (1 + by));
    return { o: { data, shape: expected.o!.shape } };
  };
  assert.ok(Math.abs(expectRight(one, off(5e-5), expected) - 5e-5) < 1e-6);
  assert.throws(() => expectRight(one, off(2e-4), expected), /allowed 0\.0001/);
  assert.throws(() => expectRight({ ...one, dtype: 'f16' }, off(3e-3), expected), /allowed 0\.002/);
  expectRight({ ...one, dtype: 'bf16' }, off(3e-3), expected);
  const [bf16] = findOperations(['bf16/token/delta']);
  expectRight({ ...one, op: bf16 }, off(0.9 * PEER_LIMITS.bf16), expected);
  const turned = { o: { data: expected.o!.data, shape: [1, 16, 16, 1] } };
  assert.throws(() => expectRight(one, turned, expected), /off by Infinity/);
});

peers('what is timed is the pass that was asked for', () => {
  const [op] = findOperations(['gla']);
  for (const pass of op.passes) {
    const result: any = prepare({ ...caseOf(), op, pass }).run();
    assert.is('dq' in (result ?? {}), pass.startsWith('backward'));
    if (pass === 'forward' || pass === 'decode')
      assert.equal(result.o.shape, [1, pass === 'decode' ? 1 : 16, 1, 16]);
  }
});

peers.run();
