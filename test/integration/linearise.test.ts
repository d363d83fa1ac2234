/** examples/linearise as a program, and its parts: swapping, attention transfer, the match of attention weights. */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import type { Tensor } from 'rankone';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { randomBatch } from '../../examples/common/batches.ts';
import { renderChart } from '../../examples/common/chart.ts';
import { tokensOf } from '../../examples/common/evaluate.ts';
import type { HybridCell } from '../../examples/common/mixers/mixer.ts';
import { SequenceModel } from '../../examples/common/model.ts';
import { Random } from '../../examples/common/random.ts';
import { train } from '../../examples/common/train.ts';
import { decodeCurve } from '../../examples/linearise/decode.ts';
import { METHODS, parseOptions } from '../../examples/linearise/options.ts';
import { recover } from '../../examples/linearise/training.ts';
import {
  attentionOf,
  outputError,
  ownParameters,
  swap,
  transfer,
} from '../../examples/linearise/transfer.ts';
import { WeightMatch } from '../../examples/linearise/weights.ts';

const root = path.join(__dirname, '../..');
const TEXT = Buffer.from('a whale is a whale, said the mate to the whale. '.repeat(20));
const SMALL = { vocabulary: 128, width: 16, layers: 2, headDim: 8, hidden: 24 };

const test = suite('examples/linearise');

function options() {
  const parsed = parseOptions(['--quick', '--transfer-steps', '12', '--lora-steps', '5']);
  assert.ok(parsed !== 'help');
  Object.assign(parsed.scale, { batch: 2, length: 24, window: 4 });
  return parsed;
}

function teacher(): SequenceModel {
  const model = new SequenceModel({ ...SMALL, mixer: 'attention' }, 1);
  const random = new Random(2);
  train(model.parameters, () => model.learn(randomBatch(TEXT, 4, 24, random)), {
    budget: { steps: 20 },
    schedule: { peak: 2e-2, warmup: 0.1, floor: 0.1 },
    clip: 1,
  });
  return model;
}

const valuesOf = (model: SequenceModel) =>
  new Map(model.parameters.list.map((p) => [p.name, p.value.data.slice()]));

for (const method of METHODS) {
  test(`${method}: the swap keeps every weight, transfer changes the maps alone and helps`, () => {
    const softmax = teacher();
    const student = swap(softmax, method, options());
    const own = new Set(ownParameters(softmax, student).list.map((p) => p.name));
    const before = valuesOf(student);
    for (const [name, value] of valuesOf(softmax)) assert.equal(before.get(name), value, name);
    assert.is(before.size, valuesOf(softmax).size + own.size);
    assert.is(own.size === 0, method === 'liger');
    if (own.size === 0) return;
    const probe = randomBatch(TEXT, 2, 24, new Random(9));
    const error = outputError(softmax, student, probe);
    const { curve } = transfer(softmax, student, TEXT, method, options());
    assert.is(curve.length, 12);
    const after = outputError(softmax, student, probe);
    assert.ok(after < error, `${error} -> ${after}`);
    for (const [name, value] of valuesOf(student)) {
      const same = value.every((x, i) => x === before.get(name)![i]);
      assert.is(same, !own.has(name), name);
    }
  });

  test(`${method}: recovery trains factors on q, k, v and out of every layer, and nothing else`, () => {
    const student = swap(teacher(), method, options());
    const before = valuesOf(student);
    const { adapted, factors } = recover(student, TEXT, method, options());
    assert.is(factors, SMALL.layers * 4 * 8 * (16 + 16));
    assert.equal(valuesOf(adapted.model), before);
    assert.equal(valuesOf(student), before);
    const start = tokensOf(TEXT.subarray(0, 20));
    const recovered = adapted.model.forward(start).data.slice();
    adapted.use(null);
    assert.not.equal(adapted.model.forward(start).data, recovered);
  });
}

test('within its window every form is the softmax or close to it', () => {
  const softmax = teacher();
  const window = swap(softmax, 'lolcats', {
    ...options(),
    scale: { ...options().scale, window: 24 },
  });
  assert.ok(outputError(softmax, window, randomBatch(TEXT, 2, 24, new Random(9))) < 1e-9);
});

/** The loss by its formula, in float64. */
function crossEntropy(q: Tensor, k: Tensor, fq: Tensor, fk: Tensor): number {
  const [batch, tokens, heads, D] = q.shape;
  const F = fq.shape[3];
  let loss = 0;
  for (let b = 0; b < batch; b++)
    for (let h = 0; h < heads; h++)
      for (let i = 0; i < tokens; i++) {
        const dot = (x: Tensor, y: Tensor, j: number, width: number) => {
          let sum = 0;
          for (let d = 0; d < width; d++)
            sum +=
              x.data[((b * tokens + i) * heads + h) * width + d] *
              y.data[((b * tokens + j) * heads + h) * width + d];
          return sum;
        };
        const seen = Array.from({ length: i + 1 }, (_, j) => j);
        const scores = seen.map((j) => Math.exp(dot(q, k, j, D) / Math.sqrt(D)));
        const weights = seen.map((j) => dot(fq, fk, j, F));
        const sum = (x: number[]) => x.reduce((a, c) => a + c);
        const [total, all] = [sum(scores), sum(weights)];
        for (const j of seen) loss -= (scores[j] / total) * Math.log(weights[j] / all);
      }
  return loss / (batch * heads * tokens);
}

test('match of the attention weights: loss and gradients against the formula', () => {
  const random = new Random(4);
  const tensor = (draw: () => number, ...shape: number[]): Tensor => ({
    data: Float32Array.from({ length: shape.reduce((a, b) => a * b) }, draw),
    shape,
  });
  const normal = () => random.normal();
  const [q, k] = [tensor(normal, 2, 5, 3, 4), tensor(normal, 2, 5, 3, 4)];
  const positive = () => random.uniform(0.1, 1);
  const [fq, fk] = [tensor(positive, 2, 5, 3, 6), tensor(positive, 2, 5, 3, 6)];
  const { loss, entropy, dq, dk } = new WeightMatch().loss(q, k, { q: fq, k: fk });
  assert.ok(Math.abs(loss - crossEntropy(q, k, fq, fk)) < 1e-5);
  assert.ok(entropy > 0 && entropy < loss);
  for (const [x, dx] of [
    [fq, dq],
    [fk, dk],
  ])
    x.data.forEach((kept, i) => {
      const at = (value: number) => {
        x.data[i] = value;
        return crossEntropy(q, k, fq, fk);
      };
      const numeric = (at(kept + 1e-3) - at(kept - 1e-3)) / 2e-3;
      x.data[i] = kept;
      assert.ok(Math.abs(numeric - dx.data[i]) < 1e-5, `${numeric} ${dx.data[i]}`);
    });
});

test('a hybrid without its tail is its window', () => {
  const softmax = teacher();
  const probe = randomBatch(TEXT, 2, 24, new Random(9)).inputs;
  const [lolcats, window] = (['lolcats', 'windowAttention'] as const).map((mixer) =>
    swap(softmax, mixer, options()),
  );
  const whole = lolcats.forward(probe).data.slice();
  for (const { cell } of attentionOf(lolcats)) (cell as HybridCell).tail = false;
  const expected = window.forward(probe).data;
  lolcats.forward(probe).data.forEach((x, i) => {
    assert.ok(Math.abs(x - expected[i]) < 1e-5);
  });
  assert.ok(whole.some((x, i) => Math.abs(x - expected[i]) > 1e-3));
});

test('decode curve: speeds, and memory that grows with softmax alone', () => {
  const softmax = teacher();
  const of = (model: SequenceModel) => decodeCurve(model, TEXT, [8, 32], 2);
  const [small, large] = of(softmax);
  assert.is(large.bytes - small.bytes, 24 * 2 * 2 * 16 * 4);
  for (const method of METHODS) {
    const [first, second] = of(swap(softmax, method, options()));
    assert.is(first.bytes, second.bytes);
    assert.ok(first.bytes > 0 && first.tokensPerSecond > 0);
  }
});

test('options: defaults, scales, and errors for what is not one', () => {
  const [plain, quick, full] = [[], ['--quick'], ['--full']].map((args) => parseOptions(args));
  assert.ok(plain !== 'help' && quick !== 'help' && full !== 'help');
  assert.ok(quick.scale.steps < plain.scale.steps && plain.scale.steps < full.scale.steps);
  assert.equal(plain.methods, METHODS);
  const one = parseOptions(['--methods', 'liger', '--window', '5', '--lora-steps', '7']);
  assert.ok(one !== 'help');
  assert.equal([one.methods, one.scale.window, one.scale.loraSteps], [['liger'], 5, 7]);
  assert.is(parseOptions(['--help']), 'help');
  for (const [args, pattern] of [
    [['--methods', 'mamba'], /--methods: expected of hedgehog/],
    [['--window', '0'], /--window: expected a whole number from 1 on, got 0/],
    [['--quick', '--full'], /exclude each other/],
    [['--windows', '2'], /--windows/],
  ] as const)
    assert.throws(() => parseOptions([...args]), pattern);
});

test('charts: marks in the place of round numbers', () => {
  const points = [[8, 1] as const, [9, 2] as const];
  const lines = [{ label: 'line', color: '#000', points }];
  const chart = { title: 't', x: 'x', y: 'y', levels: [], lines, from: 8 };
  assert.match(renderChart(chart), '>8.2</text>');
  const marked = renderChart({ ...chart, marks: [{ label: '256', x: 8 }] });
  assert.match(marked, '>256</text>');
  assert.match(marked, '<path d="M64.0 48V428" stroke="#eee"/>');
  assert.not.match(marked, '>8.2</text>');
});

test('the program, in its quick form', () => {
  const out = mkdtempSync(path.join(os.tmpdir(), 'rankone-linearise-'));
  try {
    const args = ['--import', 'tsx', 'examples/linearise/main.ts', '--quick', '--out', out];
    const { status, stdout, stderr } = spawnSync(process.execPath, args, {
      cwd: root,
      encoding: 'utf8',
    });
    assert.is(status, 0, `${stdout}${stderr}`);
    assert.not.match(stdout, /: NO$/m);
    assert.equal(readdirSync(out).sort(), [
      'bits.svg',
      'linearise.json',
      'lora.svg',
      'memory.svg',
      'time.svg',
    ]);
    const { before, rows } = JSON.parse(readFileSync(path.join(out, 'linearise.json'), 'utf8'));
    assert.equal(
      rows.map((row: { name: string }) => row.name),
      ['softmax', 'window', ...METHODS],
    );
    for (const { name, swapped, recovered } of rows.slice(2))
      assert.ok(before < swapped && recovered < swapped, `${name}: ${swapped} ${recovered}`);
    assert.equal(
      rows.map((row: { withoutTail?: number }) => row.withoutTail !== undefined),
      [false, false, false, true, true],
    );
  } finally {
    rmSync(out, { recursive: true });
  }
});

test.run();
