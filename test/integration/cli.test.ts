/** The command line as a process of its own, from dist; and what decides there, by itself. */
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { check, formsOf, fractionOfLimit } from '../../ts/cli/check';
import { dtypes, encodeTensors, roundTensors, valuesOf } from '../../ts/cli/dtype';
import { findOperations, operations } from '../../ts/cli/ops';
import { duration, significant, table } from '../../ts/cli/table';
import { info } from '../../ts/index';
import { rowFor } from '../support/compare.ts';
import { Random } from '../support/random.ts';

const root = path.join(__dirname, '../..');
const main = path.join(root, 'dist/cli/main.js');
const home = fs.mkdtempSync(path.join(os.tmpdir(), 'rankone-cli-'));

function rankone(args: string, env: NodeJS.ProcessEnv = {}) {
  const result = spawnSync(process.execPath, [main, ...args.split(' ').filter(Boolean)], {
    cwd: home,
    encoding: 'utf8',
    env: { ...process.env, ...env },
  });
  return { code: result.status, out: result.stdout, error: result.stderr };
}

const cli = suite('command line');
cli.after(() => fs.rmSync(home, { recursive: true, force: true }));

cli('info', () => {
  const { code, out, error } = rankone('info --json');
  assert.is(code, 0, error);
  const known = JSON.parse(out);
  assert.is(known.version, require('../../package.json').version);
  assert.is(known.node, process.version);
  assert.equal(known.availableIsas, info().availableIsas);
  assert.ok(known.availableIsas.includes(known.isa));
  assert.is(
    rankone('info --json', { RANKONE_ISA: 'baseline' }).out.includes('"isa": "baseline"'),
    true,
  );
  assert.ok(fs.existsSync(known.binary), known.binary);
  assert.ok(known.threads >= 1);
  assert.match(known.cuda, /^cuda(:0 | unavailable: )/);
  const text = rankone('info').out;
  for (const value of [known.version, known.binary, known.processor, known.cuda])
    assert.ok(text.includes(value), value);
});

cli('info without an addon says why, and what is known all the same', () => {
  const { code, out } = rankone('info --json', { RANKONE_BINDING: path.join(home, 'absent.node') });
  assert.is(code, 1);
  const { error, node } = JSON.parse(out);
  assert.match(error, /native binary does not load/);
  assert.is(node, process.version);
});

/** Operations that only choose among their inputs. */
const EXACT = ['embedding', 'momGather', 'featureMap/relu'];

cli('verify --quick: every operation on every instruction set', () => {
  const { code, out, error } = rankone('verify --quick --json quick.json', { RANKONE_ISA: '' });
  assert.is(code, 0, out + error);
  const { passed, failures, results } = JSON.parse(
    fs.readFileSync(path.join(home, 'quick.json'), 'utf8'),
  );
  assert.is(passed, true);
  assert.equal(failures, []);
  for (const isa of info().availableIsas) {
    for (const dtype of dtypes) {
      const rows = results.filter((row: any) => row.isa === isa && row.dtype === dtype);
      const expected = operations.filter(
        (op) => (dtype === 'f32' || op.halves) && (op.isa ?? isa) === isa,
      );
      assert.equal(
        rows.map((row: any) => row.op),
        expected.map((op) => op.name),
      );
      for (const [i, row] of rows.entries()) {
        assert.equal(Object.keys(row.forms), formsOf(expected[i]));
        for (const form of Object.values<any>(row.forms)) {
          // Rounded results are not those of the reference to the last bit: a 0 would mean that nothing was compared.
          assert.ok(EXACT.includes(row.op) || form.fraction > 0, row.op);
          assert.ok(form.fraction <= 1, row.op);
        }
      }
    }
    assert.match(out, new RegExp(`^${isa}, f32 +recurrent +chunk +decode +backward$`, 'm'));
  }
  assert.match(out, /^gatedDeltaNet( +0\.\d\d){4} +ok$/m);
  assert.is(out.includes('\x1b'), false);
  assert.is(error, '');
});

cli('verify of some operations on one instruction set', () => {
  const { code, out } = rankone(
    'verify --quick --op kda,matmul --isa baseline --dtype f32 --json -',
  );
  assert.is(code, 0);
  const { results } = JSON.parse(out);
  assert.equal(
    results.map((row: any) => [row.isa, row.op]),
    [
      ['baseline', 'kda'],
      ['baseline', 'matmul'],
    ],
  );
});

cli('what cannot be meant ends with exit code 2 and says why', () => {
  const wrong: [string, RegExp][] = [
    ['frobnicate', /unknown command 'frobnicate'/],
    ['verify --quikc', /unknown option '--quikc'.*--quick/s],
    ['verify --op glaa', /--op glaa: expected one of .*nearest: gla/],
    ['verify --isa sse9', /--isa sse9: expected one of .*baseline/],
    ['verify --dtype f64', /--dtype.*f64.*allowed are f32/],
    ['bench --op rmsNrom', /--op rmsNrom: expected one of .*nearest: rmsNorm/],
    ['bench --op gla --shape 1,2,3', /gla takes B,T,H,HV,K,V \(6 numbers\), got 3/],
    ['bench --op gla --shape 1,8,3,4,8,8', /HV = 4 is no multiple of H = 3/],
    ['bench --op hgrn2 --shape 1,8,1,2,8,8', /hgrn2 has H = HV, got 1 and 2/],
    ['bench --op gla --shape 1,8,1,1,5000,8', /\[gla\] q: expected a size from 1 to 512/],
    ['bench --shape 1,2', /expected B,T,H,HV,K,V or M,N,K, got 2 numbers/],
    ['bench --shape 1,0,1,1,8,8', /--shape.*positive integers/],
    ['bench --op matmul --pass decode', /--pass decode: matmul has forward, backward only/],
    [
      'bench --pass sideways',
      /--pass.*sideways.*forward, forward-saving, backward, backward-recomputing, decode/,
    ],
    ['bench --mode fast', /--mode.*auto, recurrent, chunk/],
    ['bench --isa sse9', /--isa sse9: expected one of .*baseline/],
    [
      'bench --op bf16/matmul --isa baseline',
      /--op bf16\/matmul: on avx512bf16 only, not on baseline/,
    ],
    ['bench --threads 0', /--threads.*from 1 to 1024/],
    ['bench --threads 1,x', /--threads.*from 1 to 1024/],
    ['bench --seconds soon', /--seconds.*above 0/],
    ['bench --tokens 0', /--tokens.*positive integers/],
    ['bench --dtype f64', /--dtype.*f64.*allowed are f32, bf16, f16/],
    ['bench --op adamW --dtype bf16', /--dtype bf16: adamW is float32 only/],
    ['bench --model gpt', /--model gpt: expected one of qwen3-next/],
    ['bench --model gla-1.3 --op gla', /--model has its own operation and shape/],
    ['bench --model gla-1.3', /--model gla-1.3: .*nearest: gla-1.3b/],
    ['bench --device tpu', /--device.*cpu, cuda/],
    ['bench --device cuda', /--device cuda: cuda unavailable: .*no-such-library/],
    ['info spare', /too many arguments/],
  ];
  for (const [args, pattern] of wrong) {
    const { code, out, error } = rankone(args, { RANKONE_CUDA_PATH: '/no-such-library' });
    assert.is(code, 2, `${args}: ${error}`);
    assert.match(error, pattern);
    assert.is(out, '', args);
    assert.is(/^ +at /m.test(error), false, `${args}: a stack\n${error}`);
  }
});

cli('help and version need no addon', () => {
  const absent = { RANKONE_BINDING: path.join(home, 'absent.node') };
  for (const args of ['--help', 'bench --help', 'verify --help', 'info --help', '--version'])
    assert.is(rankone(args, absent).code, 0, args);
  assert.match(rankone('bench --help').out, /--shape <sizes>/);
  const { code, error } = rankone('verify', absent);
  assert.is(code, 1);
  assert.match(error, /^error: rankone's native binary does not load/);
  assert.is(/^ +at /m.test(error), false);
});

cli('an instruction set that does not exist, a file that cannot be written', () => {
  const forced = rankone('verify', { RANKONE_ISA: 'sse9' });
  assert.is(forced.code, 2);
  assert.match(forced.error, /RANKONE_ISA=sse9: expected/);
  const { code, error } = rankone('verify --quick --op swiglu --json no/such/folder.json');
  assert.is(code, 1);
  assert.match(error, /^error: ENOENT.*folder\.json/m);
});

cli('a wrong answer is found', () => {
  const reference = {
    data: Float64Array.from({ length: 24 }, (_, i) => i + 1),
    shape: [1, 3, 2, 4],
  };
  const row = rowFor('o', 3);
  const off = (edit: (data: Float32Array) => void, shape = reference.shape): number => {
    const data = Float32Array.from(reference.data);
    edit(data);
    return fractionOfLimit({ data, shape }, reference, row);
  };
  assert.is(
    off(() => {}),
    0,
  );
  // Elements 9 to 12, head 0 of token 1: four of the 12 numbers that the row of head 0 has.
  const norm = Math.hypot(1, 2, 3, 4, 9, 10, 11, 12, 17, 18, 19, 20);
  const wrong = off((data) => {
    data[9] *= 1 + 1e-4;
  });
  assert.ok(Math.abs(wrong / (1e-3 / norm / row.limit) - 1) < 0.01, String(wrong));
  assert.ok(wrong > 1);
  for (const bad of [Number.NaN, Infinity])
    assert.is(
      off((data) => data.fill(bad, 5, 6)),
      Infinity,
    );
  assert.is(
    off(() => {}, [1, 3, 4, 2]),
    Infinity,
  );
  assert.is(fractionOfLimit(undefined, reference, row), Infinity);
  const exact = { limit: 0, layout: { kept: [] } };
  assert.is(fractionOfLimit(reference, reference, exact), 0);
  const other = { data: reference.data.map((x) => x + 1e-9), shape: reference.shape };
  assert.is(fractionOfLimit(other, reference, exact), Infinity);
});

cli('a kernel whose answers are not those of the reference is found, in every form', () => {
  for (const name of ['gatedDeltaNet', 'mamba2', 'hgrn2', 'channel/delta/3', 'matmul', 'adamW']) {
    const [op] = findOperations([name]);
    const [shape] = op.shapes;
    for (const form of formsOf(op)) {
      const [right] = check(op, shape, 'f32', [form]);
      assert.ok(right.fraction < 0.5, `${name} ${form}: ${right.tensor} ${right.fraction}`);
      const direction = form === 'backward' ? 'backward' : 'forward';
      const { inputs, gradients } = op.draw(shape, new Random(1));
      const expected = op[direction]!({ ...inputs, ...gradients });
      // The same calls, against a reference that is off by a thousandth in one number of one result.
      for (const [result, tensor] of Object.entries(expected)) {
        if (!tensor) continue;
        const data = Float64Array.from(tensor.data);
        data[0] += 1e-3 * Math.hypot(...data);
        const spoilt = { ...expected, [result]: { ...tensor, data } };
        const [finding] = check({ ...op, [direction]: () => spoilt }, shape, 'f32', [form]);
        assert.is(finding.tensor, result, `${name} ${form}`);
        assert.ok(finding.fraction > 1, `${name} ${form} ${result}: ${finding.fraction}`);
      }
    }
  }
});

cli('rounding to a dtype spares indices and what stays float32', () => {
  const tensors = {
    x: { data: Float32Array.of(1.001, -0.1), shape: [2] },
    kept: { data: Float32Array.of(1.001), shape: [1] },
    ids: { data: Int32Array.of(7), shape: [1] },
  };
  roundTensors(tensors, 'bf16', ['kept']);
  assert.equal([...tensors.x.data], [1, -0.10009765625]);
  assert.equal([...tensors.kept.data], [Math.fround(1.001)]);
  const encoded = encodeTensors(tensors, 'bf16', ['kept']) as any;
  assert.equal([...encoded.x.data], [0x3f80, 0xbdcd]);
  assert.is(encoded.x.dtype, 'bf16');
  assert.ok(encoded.kept.data instanceof Float32Array && encoded.ids.data instanceof Int32Array);
  assert.equal([...Array.from(valuesOf(encoded.x).data)], [1, -0.10009765625]);
});

cli('tables', () => {
  assert.is(
    table([
      ['a', 'b'],
      ['long', '1'],
    ]),
    'a     b\nlong  1',
  );
  assert.equal(
    [123.4, 1.234, 0.00123, 5678].map((x) => significant(x)),
    ['123', '1.23', '0.00123', '5678'],
  );
  assert.equal([12, 1234, 2.5e6, 3e9].map(duration), ['12.0 ns', '1.23 us', '2.50 ms', '3.00 s']);
});

cli.run();
