/** The arithmetic of `rankone bench`: quantiles, turns, bytes and flops, the rule of what counts as slower, the file. */
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { casesOf } from '../../ts/cli/bench/cases';
import { caches, capacityOf, ceilingOf, levelOf } from '../../ts/cli/bench/ceilings';
import { changeOf, compare, expectComparable } from '../../ts/cli/bench/compare';
import { movement, rates } from '../../ts/cli/bench/measure';
import { models } from '../../ts/cli/bench/models';
import type { Contender } from '../../ts/cli/bench/rounds';
import { noiseOf, ratioOf, timeInTurns } from '../../ts/cli/bench/rounds';
import { keyText, readReport } from '../../ts/cli/bench/schema';
import { addSkip, skipText } from '../../ts/cli/bench/skipped';
import { deviation, quantiles, summarize } from '../../ts/cli/bench/statistics';
import { reportText } from '../../ts/cli/bench/text';
import { prepare, smallShape } from '../../ts/cli/benchCase';
import type { Pass, Shape } from '../../ts/cli/operation';
import { findOperations, operations } from '../../ts/cli/ops';
import { madeCase, madeReport } from '../support/benchReport.ts';

const home = fs.mkdtempSync(path.join(os.tmpdir(), 'rankone-bench-'));
const near = (x: number, y: number): boolean => Math.abs(x / y - 1) < 1e-12;

const statistics = suite('bench: statistics');

statistics('quantiles lie between the sorted values', () => {
  assert.equal(quantiles([4, 1, 2, 3], [0, 0.25, 0.5, 0.75, 1]), [1, 1.75, 2.5, 3.25, 4]);
  assert.equal(quantiles([7], [0.25, 0.5]), [7, 7]);
  assert.is(deviation([1, 2, 3, 4, 100]), 1);
  const expected = { samples: 4, minNs: 10, medianNs: 25, p25Ns: 17.5, p75Ns: 32.5, madNs: 10 };
  assert.equal(summarize([40, 10, 20, 30]), expected);
});

statistics('a ratio and its spread are those of the rounds', () => {
  const ours = [
    [10, 10],
    [20, 20],
    [10, 10],
  ];
  const theirs = [[30], [80], [40]];
  // rounds 3, 4, 4
  assert.equal(ratioOf(ours, theirs), { ratio: 4, ratioP25: 3.5, ratioP75: 4 });
  // A machine at half its speed in two rounds of three, which have fewer of our samples.
  assert.equal(ratioOf([[10, 10, 10, 10], [20], [20]], [[30], [60], [60]]), {
    ratio: 3,
    ratioP25: 3,
    ratioP75: 3,
  });
});

statistics('a slower clock is no noise where the peak shows it', () => {
  const steady = [
    [10, 10],
    [10, 10],
    [10, 10],
  ];
  assert.is(noiseOf(steady, [5, 5, 5, 5]), 0);
  // Half the clock in the last of three rounds: the other two are what the median deviation sees.
  assert.is(
    noiseOf(
      [
        [10, 10],
        [10, 10],
        [20, 20],
      ],
      [8, 8, 8, 4],
    ),
    0,
  );
  // The rounds' medians 10, 11, 12 on one peak; all samples deviate by 1 of 11.
  assert.ok(near(noiseOf([[10], [11], [12]], [5, 5, 5, 5]), 1 / 11));
});

statistics.run();

const turns = suite('bench: turns');

/** A contender whose runs take so long each; `log` is who ran, and how often. */
function contender(name: string, ns: number, log: string[]): Contender {
  return {
    name,
    time: async (runs) => {
      log.push(`${name} ${runs}`);
      return Array.from({ length: runs }, () => ns);
    },
  };
}

turns('every contender has one slice per round, in orders that differ', async () => {
  const log: string[] = [];
  const [a, b, c] = [contender('a', 1e5, log), contender('b', 2e5, log), contender('c', 4e5, log)];
  let peaks = 0;
  const rounds = await timeInTurns([a, b, c], 0.0084, () => ++peaks);
  // Two runs and one more of each to get warm; then 7 rounds, 1.2 ms of each.
  assert.equal(log.slice(0, 6), ['a 2', 'a 1', 'b 2', 'b 1', 'c 2', 'c 1']);
  const slices = log.slice(6);
  assert.is(slices.length, 21);
  const orders = new Set<string>();
  for (let round = 0; round < 7; round++) {
    const slice = slices.slice(3 * round, 3 * round + 3);
    assert.equal([...slice].sort(), ['a 12', 'b 6', 'c 3']);
    orders.add(slice.join());
  }
  assert.ok(orders.size > 2, [...orders].join('; '));
  assert.is(peaks, 8);
  assert.equal(rounds.peaks, [1, 2, 3, 4, 5, 6, 7, 8]);
  assert.equal(
    rounds.samples[2],
    Array.from({ length: 7 }, () => [4e5, 4e5, 4e5]),
  );
  assert.equal(rounds.failures, [undefined, undefined, undefined]);
});

turns('what takes longer than its time still has three rounds', async () => {
  const log: string[] = [];
  const { samples } = await timeInTurns([contender('slow', 1e9, log)], 0.1, () => 1);
  assert.equal(samples[0], [[1e9], [1e9], [1e9]]);
});

turns('one that fails drops out, and the first may not', async () => {
  const log: string[] = [];
  let calls = 0;
  const failing: Contender = {
    name: 'failing',
    time: async () => {
      if (++calls > 3) throw new Error('out of order');
      return [1e5];
    },
  };
  const { failures, samples } = await timeInTurns(
    [contender('a', 1e5, log), failing],
    0.01,
    () => 1,
  );
  assert.equal(failures, [undefined, 'out of order']);
  assert.is(calls, 4);
  assert.is(samples[0].length, 7);
  const wrong: Contender = { name: 'a', time: () => Promise.reject(new Error('broken')) };
  try {
    await timeInTurns([wrong], 0.01, () => 1);
    assert.unreachable();
  } catch (error) {
    assert.is((error as Error).message, 'broken');
  }
});

turns.run();

const work = suite('bench: flops and bytes');

const [B, T, H, HV, K, V] = [1, 5, 2, 4, 8, 16];
const grid: Shape = { B, T, H, HV, K, V };

function trafficOf(name: string, pass: Pass, shape: Shape, dtype: 'f32' | 'bf16' = 'f32') {
  const [op] = findOperations([name]);
  return prepare({ op, pass, shape, dtype, mode: 'auto' }).traffic;
}

work('bytes of a recurrence: inputs once, results once', () => {
  const [q, k, v, o] = [T * H * K, T * H * K, T * HV * V, T * HV * V];
  const [token, channel] = [T * HV, T * HV * K];
  const gla = { read: 4 * (q + k + v + channel), written: 4 * o };
  assert.equal(trafficOf('gla', 'forward', grid), { ...gla, footprint: gla.read + gla.written });
  assert.equal(trafficOf('gla', 'forward-saving', grid), trafficOf('gla', 'forward', grid));

  // What is float32 in every dtype is not here: gates and beta are rounded with the rest.
  const half = trafficOf('gatedDeltaNet', 'forward', grid, 'bf16');
  assert.is(half.read, 2 * (q + k + v + 2 * token));
  assert.is(half.written, 2 * o);

  const backward = trafficOf('gatedDeltaNet', 'backward', grid);
  assert.is(backward.read, 4 * (q + k + v + 2 * token + o));
  assert.is(backward.written, 4 * (q + k + v + 2 * token));
  assert.equal(trafficOf('gatedDeltaNet', 'backward-recomputing', grid), backward);
});

work('bytes of a decode step: the state is read and written, and there once', () => {
  const state = 4 * HV * K * V;
  const read = 4 * (2 * H * K + HV * V + 2 * HV);
  const written = 4 * HV * V;
  assert.equal(trafficOf('gatedDeltaNet', 'decode', { ...grid, T: 1 }), {
    read: read + state,
    written: written + state,
    footprint: read + written + state,
  });
});

work('bytes of the parts of a layer', () => {
  const [M, N, width] = [3, 5, 7];
  // No bias, and no gradient of one.
  const product = trafficOf('matmul', 'forward', { M, N, K: width });
  assert.equal(product, { read: 4 * 8 * width, written: 4 * 15, footprint: 4 * (56 + 15) });
  const gradients = trafficOf('matmul', 'backward', { M, N, K: width });
  assert.is(gradients.read, 4 * (8 * width + 15));
  assert.is(gradients.written, 4 * 8 * width);
  // Ten rows of the fifty, and the ids.
  const rows = trafficOf('embedding', 'forward', { rows: 50, D: 6, N: 10 });
  assert.is(rows.read, 4 * (10 + 10 * 6));
  assert.is(rows.written, 4 * 10 * 6);
  assert.is(trafficOf('embedding', 'backward', { rows: 50, D: 6, N: 10 }).written, 4 * 50 * 6);
  // param, m, v updated; the gradient read.
  const step = trafficOf('adamW', 'forward', { rows: 2, D: 10 });
  assert.equal(step, { read: 320, written: 240, footprint: 320 });
});

work('flops', () => {
  const flops = (name: string, pass: Pass, shape: Shape): number =>
    findOperations([name])[0].flops(pass, shape);
  const state = K * V;
  for (const [name, forward, backward] of [
    ['gla', 4, 10],
    ['gatedDeltaNet', 6, 16],
    ['token/delta/2', 10, 28],
    ['bf16/token/additive', 4, 10],
  ] as const) {
    for (const pass of ['forward', 'forward-saving'] as const)
      assert.is(flops(name, pass, grid), forward * state * T * HV);
    for (const pass of ['backward', 'backward-recomputing'] as const)
      assert.is(flops(name, pass, grid), backward * state * T * HV);
    assert.is(flops(name, 'decode', { ...grid, T: 1 }), forward * state * HV);
  }
  assert.is(flops('matmul', 'forward', { M: 2, N: 3, K: 4 }), 48);
  assert.is(flops('bf16/matmul', 'backward', { M: 2, N: 3, K: 4 }), 96);
  assert.is(flops('rmsNorm', 'forward', { rows: 2, D: 3 }), 24);
  assert.is(flops('sigmoid/rmsNormGated', 'forward', { rows: 2, D: 3 }), 42);
  assert.is(flops('l2norm', 'backward', { rows: 2, D: 3 }), 48);
  assert.is(flops('rope', 'forward', { B: 1, T: 2, H: 3, D: 4 }), 72);
  assert.is(flops('partial/rope', 'backward', { B: 1, T: 2, H: 3, D: 40 }), 144);
  assert.is(flops('swiglu', 'backward', { rows: 2, D: 3 }), 66);
  assert.is(flops('shortConv', 'forward', { B: 1, T: 2, D: 3, W: 4 }), 72);
  assert.is(flops('shortConv', 'backward', { B: 1, T: 2, D: 3, W: 4 }), 204);
  assert.is(flops('crossEntropy', 'backward', { N: 2, V: 3 }), 42);
  assert.is(flops('embedding', 'forward', { rows: 9, N: 2, D: 3 }), 0);
  assert.is(flops('adamW', 'forward', { rows: 2, D: 3 }), 84);
  for (const op of operations) {
    const usual = { ...op.usual };
    for (const pass of op.passes) assert.ok(op.flops(pass, usual) >= 0, op.name);
  }
});

work('rates', () => {
  const [op] = findOperations(['gla']);
  const found = rates({ op, pass: 'forward', shape: grid, dtype: 'f32', mode: 'auto' }, 1000, 100);
  const flops = 4 * K * V * T * HV;
  assert.equal(found, {
    nsPerTokenHead: 1000 / (T * HV),
    flops,
    gflops: flops / 1000,
    shareOfPeak: flops / 1e5,
    peak: 'f32',
    peakGflops: 100,
  });
  const [ids] = findOperations(['embedding']);
  const moved = rates(
    { op: ids, pass: 'forward', shape: ids.usual, dtype: 'f32', mode: 'auto' },
    1,
    1,
  );
  assert.equal(moved, { peak: 'f32', peakGflops: 1 });
});

work('the level that holds the data, and what it gives to a mixture', () => {
  const level = (name: string, capacity: number | null) => {
    return { level: name, capacity, workingSet: 1, read: 100, update: 160 };
  };
  const bandwidths = [level('L1', 1000), level('L2', 5000), level('memory', null)];
  assert.is(levelOf(bandwidths, 1000).level, 'L1');
  assert.is(levelOf(bandwidths, 1001).level, 'L2');
  assert.is(levelOf(bandwidths, 1e9).level, 'memory');
  const at = (read: number, written: number): number =>
    ceilingOf(bandwidths[0], { read, written, footprint: 1 });
  assert.is(at(100, 0), 100);
  assert.is(at(80, 80), 160);
  // 50 read alone at 100, 50 read and 50 written at 160
  assert.ok(near(at(100, 50), 150 / (0.5 + 100 / 160)));
  // What is written was fetched before.
  assert.ok(near(at(0, 80), 80));
  assert.equal(movement({ read: 60, written: 60, footprint: 2000 }, 3, { bandwidths }), {
    bytes: 120,
    gbPerSecond: 40,
    level: 'L2',
    levelGbPerSecond: 160,
    shareOfBandwidth: 0.25,
  });
});

work('caches of the system', () => {
  const folder = path.join(home, 'cache');
  const index = (n: number, files: Record<string, string>): void => {
    fs.mkdirSync(path.join(folder, `index${n}`), { recursive: true });
    for (const [name, text] of Object.entries(files))
      fs.writeFileSync(path.join(folder, `index${n}`, name), `${text}\n`);
  };
  index(0, { level: '1', type: 'Data', size: '48K', shared_cpu_list: '0' });
  index(1, { level: '1', type: 'Instruction', size: '32K', shared_cpu_list: '0' });
  index(2, { level: '2', type: 'Unified', size: '1024K', shared_cpu_list: '0,64' });
  index(3, { level: '3', type: 'Unified', size: '32M', shared_cpu_list: '0-7,64-71' });
  index(4, { level: '4', type: 'Unified', size: 'unheard of', shared_cpu_list: '0-7' });
  assert.equal(caches(folder), [
    { level: 'L1', bytes: 48 << 10, sharers: 1 },
    { level: 'L2', bytes: 1 << 20, sharers: 2 },
    { level: 'L3', bytes: 32 << 20, sharers: 16 },
  ]);
  const typical = caches(path.join(home, 'absent'));
  assert.equal(
    typical.map(({ level }) => level),
    ['L1', 'L2', 'L3'],
  );
});

work('what threads have of a cache', () => {
  const [mebibyte, all] = [1 << 20, Number.POSITIVE_INFINITY];
  const capacity = (sharers: number, threads: number): number =>
    capacityOf({ bytes: mebibyte, sharers }, threads, 16) / mebibyte;
  assert.equal(
    [1, 4, 16].map((threads) => capacity(1, threads)),
    [1, 4, 16],
  );
  // Eight cores of two threads each, two groups of cores, one for all; more threads than processors.
  assert.equal(
    [1, 8, 16, 32].map((threads) => capacity(2, threads)),
    [1, 8, 8, 8],
  );
  assert.equal(
    [1, 2, 16].map((threads) => capacity(8, threads)),
    [1, 2, 2],
  );
  assert.equal(
    [1, 16].map((threads) => capacity(all, threads)),
    [1, 1],
  );
});

work.run();

const cases = suite('bench: cases');

cases('of models', () => {
  const all = casesOf({ model: ['all'], pass: ['forward', 'decode'], tokens: [64, 128] });
  assert.is(all.length, 3 * models.length);
  const sizes = new Map(all.map(({ model, shape }) => [model, shape]));
  const expected: Record<string, number[]> = {
    'qwen3-next': [16, 32, 128, 128],
    'olmo-hybrid': [30, 30, 96, 192],
    'kimi-linear': [32, 32, 128, 128],
    'mamba2-2.7b': [1, 80, 128, 64],
    'rwkv-like': [40, 40, 64, 64],
    'gla-1.3b': [4, 4, 256, 512],
  };
  for (const [name, numbers] of Object.entries(expected)) {
    const { H: keys, HV: values, K: key, V: value } = sizes.get(name)!;
    assert.equal([keys, values, key, value], numbers, name);
  }
  for (const { op, shape } of all) assert.is(op.objection?.(shape), undefined);
});

cases('tokens take the place of T, of rows or of ids; decode has one', () => {
  const found = casesOf({ op: ['gla', 'matmul', 'rmsNorm'], tokens: [7, 9] });
  const counts = (name: string, pass: Pass): number[] =>
    found
      .filter((one) => one.op.name === name && one.pass === pass)
      .map(({ op, shape }) => shape[op.tokens]);
  assert.equal(counts('gla', 'forward'), [7, 9]);
  assert.equal(counts('gla', 'decode'), [1]);
  assert.equal(counts('matmul', 'backward'), [7, 9]);
  assert.equal(counts('rmsNorm', 'forward'), [7, 9]);
});

cases('dtypes that an operation lacks are left out', () => {
  const found = casesOf({ op: ['adamW', 'swiglu'], dtype: ['f32', 'bf16'], pass: ['forward'] });
  assert.equal(
    found.map(({ op, dtype }) => `${op.name} ${dtype}`),
    ['adamW f32', 'swiglu f32', 'swiglu bf16'],
  );
});

cases('what the options name twice is timed once', () => {
  const found = casesOf({
    op: ['gla', 'gla'],
    tokens: [8, 16, 8],
    dtype: ['bf16', 'bf16'],
    pass: ['forward'],
  });
  assert.equal(
    found.map(({ shape }) => shape.T),
    [8, 16],
  );
});

cases('a check has the same widths, and as many tokens or rows as the reference can afford', () => {
  const checked = (name: string, shape: Shape): number[] =>
    Object.values(smallShape({ op: findOperations([name])[0], shape }));
  const layer = { B: 2, T: 512, H: 4, HV: 16, K: 128, V: 128 };
  assert.equal(checked('gla', layer), [1, 70, 1, 2, 128, 128]);
  assert.equal(checked('gla', { ...layer, T: 1 }), [1, 5, 1, 2, 128, 128]);
  assert.equal(checked('gla', { ...layer, H: 16 }), [1, 70, 1, 1, 128, 128]);
  assert.equal(checked('matmul', { M: 512, N: 100, K: 100 }), [70, 100, 100]);
  assert.equal(checked('matmul', { M: 512, N: 4096, K: 4096 }), [5, 4096, 4096]);
  assert.equal(checked('matmul', { M: 1, N: 4096, K: 4096 }), [1, 4096, 4096]);
  assert.equal(checked('embedding', { rows: 9, D: 4, N: 100 }), [9, 4, 70]);
});

cases('every operation runs in every pass', () => {
  for (const op of operations) {
    if (op.isa) continue;
    const small = Object.fromEntries(
      Object.entries(op.usual).map(([axis, n]) => [axis, Math.min(n, 8)]),
    );
    for (const pass of op.passes) {
      const { run, traffic } = prepare({ op, pass, shape: small, dtype: 'f32', mode: 'auto' });
      run();
      run();
      assert.ok(traffic.read > 0 && traffic.written > 0 && traffic.footprint > 0, op.name);
    }
  }
});

cases.run();

const comparing = suite('bench: compare');

comparing('slower is beyond three combined deviations and 3 %, of the fastest call too', () => {
  const one = (medianNs: number, noise = 0.001, peakGflops = 100, minNs = medianNs) => {
    return { medianNs, minNs, noise, peakGflops };
  };
  const verdict = (...pair: Parameters<typeof changeOf>): string => changeOf(...pair).verdict;
  assert.is(verdict(one(100), one(100)), 'same');
  assert.is(verdict(one(100), one(102.9)), 'same');
  assert.is(verdict(one(100), one(103.1)), 'slower');
  assert.is(verdict(one(100), one(97.2)), 'same');
  assert.is(verdict(one(100), one(97)), 'faster');
  // 3 hypot(0.03, 0.04) = 0.15
  assert.is(verdict(one(100, 0.03), one(114, 0.04)), 'same');
  assert.is(verdict(one(100, 0.03), one(116, 0.04)), 'slower');
  assert.ok(near(changeOf(one(100, 0.03), one(114, 0.04)).limit, 0.15));
  // The same share of a peak that is a fifth lower.
  assert.is(verdict(one(100, 0.001, 100), one(125, 0.001, 80)), 'same');
  assert.ok(near(changeOf(one(100, 0, 100), one(125, 0, 80)).ratio, 1));
  assert.is(verdict(one(100, 0.001, 100), one(100, 0.001, 125)), 'slower');
  // Something else ran: half of the calls took twice as long, the fastest did not.
  assert.is(verdict(one(100, 0.01, 100, 90), one(200, 0.01, 100, 92)), 'same');
  assert.is(verdict(one(100, 0.01, 100, 90), one(200, 0.01, 100, 93)), 'slower');
  assert.is(verdict(one(200, 0.01, 100, 92), one(100, 0.01, 100, 90)), 'same');
  assert.ok(near(changeOf(one(100, 0, 100, 90), one(200, 0, 50, 90)).fastest, 2));
});

comparing('cases are matched by everything that they are of', () => {
  const [a, b, c] = [madeCase(), madeCase({ T: 1024 }), madeCase({ threads: 2 })];
  const slower = madeCase({ nsPerTokenHead: 260 });
  const found = compare(madeReport([a, b]), madeReport([slower, c]));
  assert.equal(
    found.changes.map(({ name, verdict }) => [name, verdict]),
    [[keyText(a), 'slower']],
  );
  assert.ok(near(found.changes[0].ratio, 200 / 260));
  assert.equal(found.onlyOld, [keyText(b)]);
  assert.equal(found.onlyNew, [keyText(c)]);
  assert.equal(found.warnings, []);
  const names = ['op', 'pass', 'mode', 'dtype', 'isa', 'threads'] as const;
  for (const name of names) assert.is.not(keyText({ ...a, [name]: 'other' } as any), keyText(a));
  assert.is(keyText({ ...a, noise: 9 } as any), keyText(a));
  const text = reportText({ ...madeReport([slower, c]), comparison: found });
  assert.match(
    text,
    /0\.769 of the old share of the peak \(0\.769 of the fastest call\), noise 4\.2%, SLOWER/,
  );
  assert.match(text, /^1 compared: 1 slower, 0 faster$/m);
});

comparing('another machine, or nothing in common, is no comparison', () => {
  const old = madeReport([madeCase()]);
  const here = { processor: old.machine.processor, arch: 'x64' };
  expectComparable('old.json', old, here, [madeCase(), madeCase({ threads: 2 })]);
  const refusal = (machine: object, keys: object[]): string => {
    try {
      expectComparable('old.json', old, machine as any, keys as any);
    } catch (error) {
      return (error as Error).message;
    }
    return '';
  };
  assert.match(
    refusal({ ...here, processor: 'X' }, [madeCase()]),
    /another processor \(Processor of a test, x64; here X, x64\)/,
  );
  assert.match(refusal({ ...here, arch: 'arm64' }, [madeCase()]), /another processor/);
  assert.match(
    refusal(here, [madeCase({ threads: 2 })]),
    /none of its 1 cases is in this run \(it has avx2 on 1 threads; this run avx2 on 2\)/,
  );
  const newer = madeReport([madeCase()]);
  newer.machine.node = 'v22.0.0';
  assert.equal(compare(old, newer).warnings, ['node: v20.0.0 then, v22.0.0 now']);
});

comparing('a report is read back as it was written', () => {
  const report = madeReport([madeCase(), madeCase({ flops: undefined, gflops: undefined })]);
  const file = path.join(home, 'report.json');
  const write = (edit: object): void => {
    fs.writeFileSync(file, JSON.stringify({ ...report, ...edit }));
  };
  write({});
  assert.equal(readReport(file), JSON.parse(JSON.stringify(report)));
  const wrong: [object, RegExp][] = [
    [{ schema: 'other' }, /expected a file that 'rankone bench --json' has written/],
    [{ version: 2 }, /expected version 1 of its schema, got 2/],
    [{ cases: [{ op: 'gla' }] }, /missing or damaged/],
    [{ cases: [{ ...madeCase(), shape: undefined }] }, /missing or damaged/],
    [{ cases: undefined }, /missing or damaged/],
    [{ machine: {} }, /missing or damaged/],
  ];
  for (const [edit, pattern] of wrong) {
    write(edit);
    assert.throws(() => readReport(file), pattern);
  }
  fs.writeFileSync(file, 'nonsense');
  assert.throws(() => readReport(file), /no JSON/);
});

comparing('what peers did not run is said once per reason', () => {
  const list = [{ peer: 'a', reason: 'absent', cases: 0 }];
  for (const peer of ['a', 'b', 'a']) addSkip(list, { peer, reason: 'no backward', cases: 1 });
  addSkip(list, { peer: 'a', reason: 'absent', cases: 0 });
  assert.equal(list.map(skipText), [
    'a: absent',
    'a: no backward (2 cases)',
    'b: no backward (1 case)',
  ]);
});

comparing.after(() => fs.rmSync(home, { recursive: true, force: true }));
comparing.run();
