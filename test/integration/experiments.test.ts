/** examples/state-tracking and examples/recall: their words, what they conclude, and both programs in a tiny form. */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { renderChart } from '../../examples/common/chart.ts';
import { mixerNames } from '../../examples/common/mixers/index.ts';
import { SequenceModel } from '../../examples/common/model.ts';
import { Random } from '../../examples/common/random.ts';
import { mean } from '../../examples/common/statistics.ts';
import { table } from '../../examples/common/table.ts';
import * as recall from '../../examples/recall/options.ts';
import * as recallReport from '../../examples/recall/report.ts';
import * as recallStudy from '../../examples/recall/study.ts';
import { draw, recallBatch, vocabulary } from '../../examples/recall/words.ts';
import {
  alternating,
  isEven,
  permutations,
  symmetric,
  wordBatch,
} from '../../examples/state-tracking/groups.ts';
import * as tracking from '../../examples/state-tracking/options.ts';
import { ARMS, TASK_NAMES, TASKS } from '../../examples/state-tracking/problems.ts';
import * as trackingReport from '../../examples/state-tracking/report.ts';
import { build, run, SETTINGS } from '../../examples/state-tracking/study.ts';

const root = path.join(__dirname, '../..');
const test = suite('experiments');

test('groups: orders, neutral element, inverses, associativity', () => {
  const orders = TASK_NAMES.map((name) => TASKS[name]().group.order);
  assert.equal(orders, [2, 5, 6, 24, 60, 120]);
  assert.is(permutations(5).filter(isEven).length, 60);
  for (const { order, product } of [symmetric(3), symmetric(4), alternating(4)]) {
    const times = (a: number, b: number) => product[a * order + b];
    for (let a = 0; a < order; a++) {
      assert.is(times(a, 0), a);
      assert.is(times(0, a), a);
      assert.is(new Set(product.subarray(a * order, (a + 1) * order)).size, order);
      for (let b = 0; b < order; b++)
        for (let c = 0; c < order; c++) assert.is(times(a, times(b, c)), times(times(a, b), c));
    }
  }
});

test('words: each target is what the letters so far make of things in a row', () => {
  const elements = permutations(3);
  const { inputs, targets } = wordBatch(TASKS.S3(), 3, 12, new Random(4));
  assert.equal(inputs.shape, [3, 13]);
  for (let row = 0; row < 3; row++) {
    let things = [0, 1, 2];
    for (let t = 0; t <= 12; t++) {
      const [letter, target] = [inputs.data[row * 13 + t], targets.data[row * 13 + t]];
      if (t === 0) {
        assert.equal([letter, target], [6, -100]);
        continue;
      }
      things = things.map((x) => elements[letter][x]);
      assert.equal(elements[target], things);
    }
  }
  const ones = wordBatch(TASKS.mod5(), 1, 200, new Random(5));
  const letters = [...ones.inputs.data.subarray(1)];
  assert.equal([...new Set(letters)].sort(), [0, 1]);
  assert.is(ones.targets.data[200], letters.reduce((a, b) => a + b) % 5);
});

test('recall: different keys, each asked for once, and the value that it had', () => {
  assert.equal([...draw(5, 5, new Random(1))].sort(), [0, 1, 2, 3, 4]);
  const words = vocabulary(64);
  assert.equal([words.keys, words.values], [31, 32]);
  const [size, pairs] = [4, 8];
  const { inputs, targets } = recallBatch(words, size, pairs, new Random(2));
  assert.equal(inputs.shape, [size, 32]);
  for (let row = 0; row < size; row++) {
    const tokens = inputs.data.subarray(row * 32, row * 32 + 32);
    const answers = targets.data.subarray(row * 32, row * 32 + 32);
    const values = new Map<number, number>();
    for (let i = 0; i < 16; i += 2) values.set(tokens[i], tokens[i + 1]);
    assert.is(values.size, pairs);
    assert.ok([...values.keys()].every((key) => key >= 1 && key <= 31));
    assert.ok([...values.values()].every((value) => value >= 32 && value < 64));
    assert.ok(answers.subarray(0, 16).every((x) => x === -100));
    const asked: number[] = [];
    for (let t = 16; t < 32; t++) {
      assert.is(answers[t] === -100, tokens[t] === 0);
      if (tokens[t] === 0) continue;
      assert.is(answers[t], values.get(tokens[t]));
      asked.push(tokens[t]);
    }
    assert.is(new Set(asked).size, pairs);
  }
});

test('mixers: options reach the layers', () => {
  const base = { vocabulary: 8, width: 16, layers: 1, headDim: 8, hidden: 0 };
  const count = (more: object) =>
    new SequenceModel({ ...base, mixer: 'deltaProduct', ...more }, 1).parameters.count;
  assert.is(count({ householders: 3 }) - count({}), 16 * 32 + 32 * 4 + 16 * 2);
  assert.is(count({}) - count({ noConvolution: true }), 3 * (16 + 32 + 32));
  assert.is(count({ hidden: 24 }) - count({}), 3 * 16 * 24 + 16);
  const ids = { data: Int32Array.of(1, 2, 3, 4), shape: [1, 4] };
  const logits = (negativeEigenvalues: boolean) =>
    new SequenceModel({ ...base, mixer: 'deltaNet', negativeEigenvalues }, 1).forward(ids).data;
  assert.not.equal(logits(true), logits(false));
  assert.ok(mixerNames.includes('deltaProduct'));
  const arm = ARMS.find((a) => a.name === 'deltaProduct4')!;
  const model = build(TASKS.S5(), arm, { ...SETTINGS, layers: 2, steps: 1, seed: 1 });
  assert.is(model.parameters.list.filter((p) => p.rate === SETTINGS.strengthRate).length, 2);
  assert.is(model.config.householders, 4);
});

test('state tracking: beta up to 2 learns parity of longer words, up to 1 does not', () => {
  const settings = {
    ...SETTINGS,
    layers: 1,
    width: 32,
    hidden: 32,
    steps: 150,
    letters: 800,
    seed: 1,
  };
  const of = (name: string) => run(TASKS.parity(), ARMS.find((a) => a.name === name)!, settings);
  const [one, two] = ['deltaNet', 'deltaNet2'].map(of);
  assert.ok(trackingReport.within(two) > 0.95, `${trackingReport.within(two)}`);
  assert.ok(trackingReport.within(one) < 0.8, `${trackingReport.within(one)}`);
  assert.ok(trackingReport.beyond(one) < 0.6, `${trackingReport.beyond(one)}`);
});

test('recall: the delta rule learns two pairs', () => {
  const { SETTINGS, run } = recallStudy;
  const settings = { ...SETTINGS, vocabulary: 16, pairs: [2], width: 16, tokens: 512 };
  const made = run('deltaNet', { ...settings, steps: 200, learningRate: 0.02, seed: 1 });
  assert.ok(made.accuracy[0] > 0.9, `${made.accuracy[0]}`);
  assert.is(recallStudy.stateSize({ ...settings, steps: 1, learningRate: 1, seed: 1 }), 512);
});

test('state tracking: conclusions, the best seed, and accuracy from guessing to solved', () => {
  const task = TASKS.S3();
  const flat = (within: number, beyond: number) => ({
    losses: [1],
    seconds: 1,
    accuracy: Array.from({ length: 256 }, (_, i) => (i < 40 ? within : beyond)),
  });
  const result = (name: string, ...beyond: number[]): trackingReport.Result => ({
    task,
    arm: ARMS.find((a) => a.name === name)!,
    settings: { ...SETTINGS, layers: 1, steps: 1, seed: 1 },
    runs: beyond.map((x, i) => ({ seed: i, run: flat(1, x) })),
  });
  const two = result('deltaProduct2', 0.3, 0.97, 0.5);
  assert.is(trackingReport.best(two), two.runs[1].run);
  assert.ok(Math.abs(trackingReport.scaled(1 / 6, task)) < 1e-12);
  assert.is(trackingReport.scaled(1, task), 1);
  const claims = trackingReport.claims([result('deltaNet2', 0.32), two]);
  assert.equal(
    claims.map((c) => c.holds),
    [true, true],
  );
  const turned = trackingReport.claims([result('deltaNet2', 0.95), result('deltaProduct2', 0.4)]);
  assert.equal(
    turned.map((c) => c.holds),
    [false, false],
  );
});

test('recall: conclusions', () => {
  const result = (mixer: recallStudy.RecallMixer, ...accuracy: number[]): recallReport.Result => ({
    mixer,
    settings: { ...recallStudy.SETTINGS, width: 16, steps: 1, learningRate: 1, seed: 1 },
    runs: [{ seed: 1, learningRate: 1, run: { losses: [], seconds: 1, accuracy } }],
  });
  const of = (delta: number, sum: number) =>
    recallReport
      .claims([result('linearAttention', 1, sum), result('deltaNet', 1, delta)])
      .map((c) => c.holds);
  assert.equal(of(0.9, 0.5), [true]);
  assert.equal(of(0.5, 0.9), [false]);
  assert.equal(of(0.99, 1), [true]);
});

test('options: defaults, and errors for what is not one', () => {
  assert.is(tracking.parseOptions(['--help']), 'help');
  assert.is(recall.parseOptions(['--help']), 'help');
  const one = tracking.parseOptions([]);
  assert.ok(one !== 'help' && one.complete && !one.full);
  assert.equal(one.tasks, ['parity', 'mod5', 'S3']);
  assert.equal([one.layers, one.seeds, one.mixers.length], [[1, 2], [1], 8]);
  const full = tracking.parseOptions(['--full', '--seed', '4']);
  assert.ok(full !== 'help');
  assert.equal([full.tasks.length, full.seeds], [6, [4, 5, 6]]);
  const other = tracking.parseOptions(['--head-dim', '16', '--convolution']);
  assert.ok(other !== 'help' && !other.complete);
  assert.equal(other.changes, { convolution: true, headDim: 16, strengthRate: 4 });
  assert.throws(() => tracking.parseOptions(['--full', '--quick']), /exclude/);
  assert.throws(() => tracking.parseOptions(['--tasks', 'S6']), /--tasks: expected some of .*S6/);
  assert.throws(() => tracking.parseOptions(['--steps', '0']), /--steps: expected a whole number/);
  assert.throws(() => tracking.parseOptions(['--layer', '1']), /--layer/);
  const two = recall.parseOptions(['--widths', '8,24', '--rates', '0.5']);
  assert.ok(two !== 'help');
  assert.equal([two.widths, two.rates, two.mixers.length], [[8, 24], [0.5], 5]);
  assert.throws(() => recall.parseOptions(['--rates', '0.1,x']), /--rates: expected numbers/);
  assert.throws(() => recall.parseOptions(['--mixers', 'mamba2']), /--mixers: expected some of/);
});

test('a table lines up, and a chart begins where it is told to', () => {
  assert.is(
    table(
      ['', 'ab'],
      [
        ['x', '1'],
        ['yy', '222'],
      ],
    ),
    '     ab\nx     1\nyy  222',
  );
  const lines = [{ label: 'a<b', color: '#000', points: [[5, 0] as const, [9, 1] as const] }];
  const chart = { title: 't', x: 'x', y: 'y', lines, levels: [] };
  const at = (svg: string) => Number(/<path d="M([\d.]+) [\d.]+L/.exec(svg)![1]);
  assert.is(at(renderChart({ ...chart, from: 5 })), 64);
  assert.ok(at(renderChart(chart)) > 300);
  assert.match(renderChart({ ...chart, beside: true }), 'a&lt;b');
});

for (const [name, args, plots] of [
  ['state-tracking', ['--steps', '3'], ['parity-1.svg']],
  ['recall', ['--steps', '3'], ['pairs-2.svg', 'pairs-4.svg']],
] as const) {
  test(`${name} as a program: table, plots and numbers, the same for the same seed`, () => {
    const out = mkdtempSync(path.join(os.tmpdir(), 'rankone-'));
    try {
      const results = ['a', 'b'].map((folder) => {
        const target = path.join(out, folder);
        const main = path.join(root, 'examples', name, 'main.ts');
        const { status, stdout, stderr } = spawnSync(
          process.execPath,
          ['--import', 'tsx', main, '--quick', ...args, '--out', target],
          { cwd: root, encoding: 'utf8' },
        );
        assert.is(status, 0, stderr);
        assert.match(stdout, /deltaNet/);
        assert.equal(readdirSync(target).sort(), [...plots, 'results.json'].sort());
        assert.match(readFileSync(path.join(target, plots[0]), 'utf8'), /^<svg [\s\S]*<\/svg>\n$/);
        const { results } = JSON.parse(readFileSync(path.join(target, 'results.json'), 'utf8'));
        for (const { runs } of results) {
          assert.is(runs.length, 1);
          assert.is(runs[0].losses.length, 3);
          assert.ok(mean(runs[0].accuracy) >= 0 && mean(runs[0].accuracy) <= 1);
          runs[0].seconds = 0;
        }
        return results;
      });
      assert.equal(results[0], results[1]);
    } finally {
      rmSync(out, { recursive: true });
    }
  });
}

test.run();
