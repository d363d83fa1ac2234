/** `rankone bench lora-linear`: its cases, what it holds against what, and the command itself. */
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { casesFor } from '../../ts/cli/bench/cases';
import { copiesOf, weightsOf } from '../../ts/cli/bench/lora/assets';
import { checkedShape, checkLora } from '../../ts/cli/bench/lora/check';
import { measureTurns } from '../../ts/cli/bench/lora/measure';
import { loraCases } from '../../ts/cli/bench/lora/suite';
import { targetsOf } from '../../ts/cli/bench/lora/targets';
import type { BenchReport } from '../../ts/cli/bench/schema';
import { relationText } from '../../ts/cli/bench/text';
import type { Case } from '../../ts/cli/benchCase';
import { CheckError } from '../../ts/cli/benchCase';
import { makeProblem } from '../../ts/cli/check';
import { findOperations } from '../../ts/cli/ops';
import { loras, routeOf, slotsOf } from '../../ts/cli/ops/lora';
import type { Peer } from '../../ts/cli/peers/peer';
import { madeCase } from '../support/benchReport.ts';
import { round } from '../support/half.ts';

const root = path.join(__dirname, '../..');
const home = fs.mkdtempSync(path.join(os.tmpdir(), 'rankone-lora-bench-'));

const text = ({ op, pass, shape }: Case): string =>
  `${op.name} ${pass} ${Object.values(shape).join()}`;

function tinyCases(pass: 'forward' | 'forward-backward', M = 20): Case[] {
  return loraCases({ op: ['lora/f32'], shape: [40, 72], tokens: [M], pass: [pass] });
}

const cases = suite('bench lora-linear: cases');

cases('every product without adapters is followed by those on it, in the same turns', () => {
  const all = loraCases({});
  const groups = new Map<string, Case[]>();
  for (const one of all) groups.set(one.turns!, [...(groups.get(one.turns!) ?? []), one]);
  let at = 0;
  for (const group of groups.values()) {
    assert.equal(all.slice(at, at + group.length).map(text), group.map(text));
    at += group.length;
    const [base, ...rest] = group;
    assert.is(base.shape.E, 0);
    assert.ok(rest.length > 0);
    for (const { op, pass, dtype, shape } of rest) {
      assert.ok(shape.E > 0 && shape.r > 0);
      assert.is(op.lora!.format, base.op.lora!.format);
      assert.is(op.arithmetic, base.op.arithmetic);
      assert.equal([pass, dtype, shape.M], [base.pass, base.dtype, base.shape.M]);
    }
  }
  const names = new Set(all.filter(({ shape }) => shape.E === 0).map(({ op }) => op.name));
  for (const format of ['f32', 'bf16', 'int8', 'nf4'])
    for (const arithmetic of ['', 'bf16/']) assert.ok(names.has(`${arithmetic}lora/${format}`));
  const rowsOf = (pass: string): number[] => {
    return [...new Set(all.filter((one) => one.pass === pass).map(({ shape }) => shape.M))];
  };
  assert.equal(rowsOf('forward'), [512, 1, 8, 64]);
  assert.equal(rowsOf('forward-backward'), [512]);
  const has = (M: number, r: number, E: number): boolean =>
    all.some(({ shape }) => shape.M === M && shape.r === r && shape.E === E);
  for (const M of [512, 1, 8, 64]) for (const r of [8, 16, 64]) assert.ok(has(M, r, 1));
  assert.ok(has(512, 16, 8) && has(512, 16, 64) && has(64, 16, 1000));
  assert.ok(all.some(({ op, shape }) => op.name === 'lora/f32/top2' && shape.E === 8));
});

cases('by --op a shape has its base product beside it', () => {
  const found = casesFor(undefined, {
    op: ['matmul', 'lora/nf4', 'lora/nf4/top2'],
    pass: ['forward'],
    dtype: ['f32', 'bf16'],
    tokens: [6],
  });
  assert.equal(
    found.map((one) => `${text(one)} ${one.dtype}`),
    [
      'matmul forward 6,1024,1024 f32',
      'matmul forward 6,1024,1024 bf16',
      'lora/nf4 forward 6,4096,4096,0,0 f32',
      'lora/nf4 forward 6,4096,4096,16,1 f32',
      'lora/nf4/top2 forward 6,4096,4096,16,8 f32',
      'lora/nf4 forward 6,4096,4096,0,0 bf16',
      'lora/nf4 forward 6,4096,4096,16,1 bf16',
      'lora/nf4/top2 forward 6,4096,4096,16,8 bf16',
    ],
  );
});

cases('what the suite does not have is said', () => {
  assert.throws(() => casesFor('lora', {}), /bench lora: expected lora-linear/);
  assert.throws(() => casesFor('lora-linear', { shape: [1, 2, 3] }), /lora-linear takes OUT,IN/);
  assert.throws(() => casesFor('lora-linear', { model: ['all'] }), /no --model/);
  assert.throws(() => casesFor('lora-linear', { op: ['matmul'] }), /expected one of lora\/f32/);
  assert.throws(() => casesFor('lora-linear', { pass: ['decode'] }), /--pass decode/);
});

cases('the routing of a call is that of its reference', () => {
  for (const [M, E, perRow] of [
    [512, 64, 1],
    [13, 4, 1],
    [70, 9, 1],
    [7, 30, 1],
    [5, 1, 1],
    [11, 8, 2],
    [9, 2, 2],
  ]) {
    const ids = Array.from({ length: E }, (_, e) => 100 + e);
    const gates = { data: new Float32Array(M * perRow), shape: [M, perRow] };
    const routing = routeOf({ M, E }, perRow, ids, gates);
    const slots = [...slotsOf({ M, E }, perRow)];
    const named: number[] = [];
    if (routing.kind === 'one') named.push(...Array(M).fill(routing.id));
    else if (routing.kind === 'segments')
      routing.ids.forEach((id, s) => {
        for (let row = Number(routing.indptr[s]); row < Number(routing.indptr[s + 1]); row++)
          named.push(id);
      });
    else named.push(...routing.ids);
    assert.equal(
      named.map((id) => id - 100),
      slots,
      `${M} ${E} ${perRow}`,
    );
    // Segments of almost equal size; rows with two adapters have two different ones.
    const counts = ids.map((_, e) => slots.filter((slot) => slot === e).length);
    if (perRow === 1 && E <= M) assert.ok(Math.max(...counts) - Math.min(...counts) <= 1);
    for (let row = 0; row < M && perRow === 2; row++)
      assert.is.not(slots[2 * row], slots[2 * row + 1]);
  }
});

cases('rows of a bank larger than the batch are others in every turn', () => {
  const seen = [0, 1, 2].flatMap((turn) => [...slotsOf({ M: 8, E: 100 }, 1, turn)]);
  assert.is(new Set(seen).size, 24);
});

cases('weights of q8 and q4 are what ggml rounds the same values to', () => {
  for (const format of ['q8', 'q4'] as const) {
    const op = findOperations([`lora/${format}`])[0];
    const { inputs } = makeProblem(op, { M: 1, N: 3, K: 96, r: 1, E: 0 }, 'f32');
    const { data } = inputs.weight as { data: Float32Array };
    for (let at = 0; at < data.length; at += 32) {
      const block = [...data.subarray(at, at + 32)];
      const largest = block.reduce((a, b) => (Math.abs(b) > Math.abs(a) ? b : a));
      const scale = round('f16', format === 'q8' ? Math.abs(largest) / 127 : largest / -8);
      for (const value of block) {
        const code =
          format === 'q8' ? Math.round(value / scale) : Math.floor(value / scale + 8.5) - 8;
        assert.is(Math.fround(Math.min(code, format === 'q8' ? 127 : 7) * scale), value);
      }
    }
  }
});

cases('copies of a decode step exceed the caches; a check and a long batch have one', () => {
  const decode = tinyCases('forward', 4)[0];
  assert.ok(copiesOf(decode, 8 << 20) * (8 << 20) >= 128 << 20);
  assert.is(copiesOf(decode, 1000), 64);
  assert.is(copiesOf({ ...decode, turns: undefined }, 1 << 20), 1);
  assert.is(copiesOf(tinyCases('forward', 65)[0], 1 << 20), 1);
  assert.is(copiesOf(tinyCases('forward-backward', 4)[0], 1 << 20), 1);
});

cases('the copies of a weight are different memory, kept while the weight is the same', () => {
  const wide = loraCases({
    op: ['lora/f32'],
    shape: [2048, 4096],
    tokens: [1, 8],
    pass: ['forward'],
  });
  const [one, ...rest] = wide;
  const first = weightsOf(one);
  assert.ok(first.length >= 4);
  assert.is(new Set(first).size, first.length);
  assert.equal(weightsOf(rest.at(-1)!)[0], first[0]);
  weightsOf(tinyCases('forward')[0]);
  assert.ok(first.every(({ disposed }) => disposed));
});

cases('targets', () => {
  const of = (name: string, pass: string, M: number, r: number, E: number) =>
    targetsOf({
      op: findOperations([name])[0],
      pass,
      shape: { M, N: 4096, K: 4096, r, E },
      dtype: 'f32',
      mode: 'auto',
      turns: 'x',
    } as Case);
  assert.equal(of('lora/f32', 'forward', 512, 16, 1), { overBase: 1.02 });
  assert.equal(of('bf16/lora/int8', 'forward', 512, 64, 1), { overBase: 1.045 });
  assert.equal(of('lora/bf16', 'forward', 8, 16, 1), { overBase: 1.03 });
  assert.equal(of('lora/bf16', 'forward', 1, 64, 1), { overBase: 1.06, shareOfBandwidth: 0.9 });
  assert.equal(of('bf16/lora/nf4', 'forward', 1, 16, 1), {
    overBase: 1.06,
    shareOfBandwidth: 0.75,
  });
  assert.equal(of('lora/nf4', 'forward', 512, 16, 64), { overOne: 1.03 });
  assert.equal(of('lora/f32', 'forward-backward', 512, 64, 1), { overBase: 1.07 });
  assert.equal(of('lora/f32', 'forward', 512, 0, 0), {
    shareOfPeak: 0.92,
    peers: { openblas: 1.05 },
  });
  assert.equal(of('lora/f32/top2', 'forward', 512, 16, 8), {});
  assert.equal(targetsOf(tinyCases('forward', 512)[1]), {});
});

cases('a relation as text says when its target is missed', () => {
  const relations = [
    { to: 'base', medianNs: 1, ratio: 1.0304, ratioP25: 1.01, ratioP75: 1.05 },
  ] as const;
  const made = (overBase?: number): string =>
    relationText(madeCase({ relations: [...relations], targets: { overBase } }), 'base');
  assert.is(made(), '1.030 (1.010 .. 1.050)');
  assert.is(made(1.03), '1.030 (1.010 .. 1.050) <=1.03!');
  assert.is(made(1.04).trim(), '1.030 (1.010 .. 1.050) <=1.04');
  assert.is(relationText(madeCase(), 'base'), '');
});

cases.run();

const timing = suite('bench lora-linear: what is timed');

timing('the check keeps segments as long as those of the case', () => {
  const shape = { M: 512, N: 4096, K: 4096, r: 16, E: 64 };
  assert.equal(checkedShape(shape, 1), { ...shape, M: 70, E: 9 });
  assert.equal(checkedShape({ ...shape, E: 1 }, 1), { ...shape, M: 70, E: 1 });
  assert.equal(checkedShape({ ...shape, E: 8 }, 2), { ...shape, M: 70, E: 8 });
  assert.equal(checkedShape({ ...shape, M: 64, E: 1000 }, 1), { ...shape, M: 64, E: 100 });
  assert.equal(checkedShape({ ...shape, M: 1, E: 1 }, 1), { ...shape, M: 1, E: 1 });
});

timing('a wrong answer is not timed, whichever result is wrong', () => {
  const one = tinyCases('forward-backward').find(({ shape }) => shape.E === 1)!;
  assert.ok(checkLora(one) > 0);
  for (const wrong of ['y', 'dx', 'dA', 'dB']) {
    const strict = (name: string, ...rest: [any, any]) => {
      const row = one.op.row(name, ...rest);
      return name === wrong ? { ...row, limit: 1e-12 } : row;
    };
    assert.throws(
      () => checkLora({ ...one, op: { ...one.op, row: strict } }),
      (error: Error) => error instanceof CheckError && error.message.includes(`: ${wrong} is off`),
    );
  }
});

timing(
  'turns: relations to the base, to one adapter and to what is not fused; peers by case',
  async () => {
    for (const pass of ['forward', 'forward-backward'] as const) {
      const group = tinyCases(pass);
      let closed = 0;
      const peer: Peer = {
        name: 'still',
        version: '1',
        objection: ({ shape }) => (shape.E === 0 ? undefined : 'no adapters'),
        open: async (one, inputs) => ({
          results: async () => one.op.forward(inputs),
          time: async (runs) => new Array(runs).fill(1000),
          close: async () => {
            closed++;
          },
        }),
      };
      const setting = { seconds: 0.01, peers: [peer], isa: 'x', threads: 1 };
      const measured = await measureTurns(group, setting);
      assert.is(closed, 2); // the small problem and the timed one
      assert.equal(
        measured.map(({ timed }) => timed.shape),
        group.map(({ shape }) => shape),
      );
      const [base, ...rest] = measured.map(({ timed }) => timed);
      assert.is(base.relations, undefined);
      assert.equal(
        base.peers.map(({ name, medianNs }) => [name, medianNs]),
        [['still', 1000]],
      );
      for (const one of rest) {
        assert.is(one.peers.length, 0);
        const single = one.shape.E === 1 && !one.op.endsWith('top2');
        const [over, ...others] = one.relations!.map(({ to }) => to);
        assert.is(over, 'base');
        assert.ok(others.includes(single ? 'unfused' : 'one adapter'));
        const [toBase] = one.relations!;
        assert.ok(toBase.ratio > 1e-6 && toBase.ratio < 1e6);
        assert.ok(toBase.ratioP25 <= toBase.ratio && toBase.ratio <= toBase.ratioP75);
        assert.ok(Math.abs(toBase.medianNs / base.medianNs - 1) < 1e-9);
        assert.ok(one.samples >= 9 && one.worstError <= 1);
      }
      assert.equal(measured[0].skipped.length, rest.length);
    }
  },
);

timing('every operation of the table is drawn, bound and right', () => {
  for (const op of loras) {
    if (op.isa) continue;
    for (const pass of ['forward', 'forward-backward'] as const) {
      if (!op.passes.includes(pass)) continue;
      const shape = { M: 9, N: 50, K: 96, r: 5, E: 3 };
      assert.ok(checkLora({ op, pass, shape, dtype: 'f32', mode: 'auto' }) > 0, op.name);
    }
  }
});

timing.run();

const cli = suite('bench lora-linear: command line');
cli.after(() => fs.rmSync(home, { recursive: true, force: true }));

cli('a table, a file and a page', () => {
  const command = `bench lora-linear --op lora/nf4 --shape 64,96 --tokens 9,70 --seconds 0.01 --threads 1 --isa baseline --json out.json --html page.html`;
  const main = path.join(root, 'ts/cli/main.ts');
  const { status, stdout, stderr } = spawnSync(
    process.execPath,
    [
      '--import',
      'tsx',
      main,
      ...command
        .split(' ')
        .map((word) => (/^(out|page)\./.test(word) ? path.join(home, word) : word)),
    ],
    { cwd: root, encoding: 'utf8' },
  );
  assert.is(status, 0, stderr);
  assert.match(stdout, /^lora\/nf4 +forward +M9 N64 K96 r0 E0 /m);
  assert.match(stdout, /over base +over one adapter +over unfused/);
  const report: BenchReport = JSON.parse(fs.readFileSync(path.join(home, 'out.json'), 'utf8'));
  assert.equal(report.failures, []);
  const named = report.cases.map(
    ({ op, pass, shape }) => `${op} ${pass} ${shape.M} ${shape.r} ${shape.E}`,
  );
  for (const wanted of [
    'lora/nf4 forward 9 0 0',
    'lora/nf4 forward 9 64 1',
    'lora/nf4 forward 70 16 8',
    'lora/nf4/top2 forward 70 16 8',
    'lora/nf4 forward-backward 70 16 1',
  ])
    assert.ok(named.includes(wanted), wanted);
  const page = fs.readFileSync(path.join(home, 'page.html'), 'utf8');
  assert.match(page, /What adapters cost/);
  assert.match(page, /over one adapter/);
});

cli.run();
