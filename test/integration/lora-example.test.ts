/** examples/lora as a program, and the layer and the model that it adapts. */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { readPeftConfig, readPeftSync } from 'rankone';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { AdaptedModel, TrainableAdapter } from '../../examples/common/adapters.ts';
import { randomBatch } from '../../examples/common/batches.ts';
import { tokensOf } from '../../examples/common/evaluate.ts';
import { mixerNames } from '../../examples/common/mixers/index.ts';
import { SequenceModel } from '../../examples/common/model.ts';
import { Random } from '../../examples/common/random.ts';
import { generate, generateRows } from '../../examples/common/sample.ts';
import { train } from '../../examples/common/train.ts';
import { parseOptions } from '../../examples/lora/options.ts';
import { loadAdapter, saveAdapter } from '../../examples/lora/peft.ts';
import { loadTexts } from '../../examples/lora/texts.ts';

const root = path.join(__dirname, '../..');
const TEXT = Buffer.from('a whale is a whale, said the mate to the whale. '.repeat(20));
const OTHER = Buffer.from('0 1 1 2 3 5 8 13 21 34 55 89 144 233 377 610 987 '.repeat(20));
const SMALL = { vocabulary: 128, width: 16, layers: 2, headDim: 8, hidden: 24 };

const test = suite('examples/lora');

function base(mixer: (typeof mixerNames)[number] = 'gatedDeltaNet'): SequenceModel {
  const model = new SequenceModel({ ...SMALL, mixer }, 1);
  const random = new Random(2);
  train(model.parameters, () => model.learn(randomBatch(TEXT, 4, 24, random)), {
    budget: { steps: 10 },
    schedule: { peak: 2e-2, warmup: 0.1, floor: 0.1 },
    clip: 1,
  });
  return model;
}

function logits(model: SequenceModel, bytes: Uint8Array): Float32Array {
  return model.forward(tokensOf(bytes)).data.slice();
}

/** An adapter that has been trained a little, so that both of its factors do something. */
function adapter(adapted: AdaptedModel, name: string, rank: number, steps = 8): TrainableAdapter {
  const made = new TrainableAdapter(name, adapted.layers, { rank, alpha: 2 * rank, seed: rank });
  const random = new Random(3);
  adapted.put(made);
  adapted.use(name);
  const learn = () => {
    adapted.put(made);
    return adapted.model.learn(randomBatch(OTHER, 4, 24, random));
  };
  const schedule = { peak: 1e-2, warmup: 0.1, floor: 0.1 };
  train(made.parameters, learn, { budget: { steps }, schedule, clip: 1 });
  adapted.put(made);
  return made;
}

for (const mixer of mixerNames) {
  test(`${mixer}: the frozen model is the base, and its adapters' gradients are right`, () => {
    const model = base(mixer);
    const adapted = new AdaptedModel(model, 'f32');
    const dense = logits(model, TEXT.subarray(0, 30));
    const frozen = logits(adapted.model, TEXT.subarray(0, 30));
    const largest = Math.max(...dense.map(Math.abs));
    dense.forEach((x, i) => {
      assert.ok(Math.abs(x - frozen[i]) < 1e-5 * largest, `${x} ${frozen[i]}`);
    });

    const made = adapter(adapted, 'other', 2, 3);
    const batch = randomBatch(OTHER, 2, 9, new Random(5));
    const loss = () => {
      adapted.put(made);
      return adapted.model.losses(batch).reduce((sum, x) => sum + x, 0) / 18;
    };
    made.parameters.clear();
    adapted.model.learn(batch);
    for (const { value, grad, name } of made.parameters.list) {
      const norm = Math.hypot(...grad.data);
      assert.ok(norm > 0, `${name}: no gradient`);
      const kept = value.data.slice();
      const h = Math.min(3e-2, 3e-3 / norm);
      const at = (step: number) => {
        for (let i = 0; i < kept.length; i++)
          value.data[i] = kept[i] + (step * grad.data[i]) / norm;
        return loss();
      };
      const numeric = (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h);
      value.data.set(kept);
      const tolerance = 1e-2 * norm + 3e-7 / h;
      assert.ok(Math.abs(numeric - norm) <= tolerance, `${name}: ${norm}, numerically ${numeric}`);
    }
    for (const { grad, name } of adapted.model.parameters.list)
      assert.ok(
        grad.data.every((x) => x === 0),
        `${name} is frozen`,
      );
  });
}

test('rows of a batch by their own adapters: bit for bit as alone, the base among them', () => {
  const adapted = new AdaptedModel(base(), 'f32');
  const start = TEXT.subarray(0, 12);
  const without = logits(adapted.model, start);
  adapter(adapted, 'narrow', 1);
  adapter(adapted, 'wide', 5);
  const names = [null, 'wide', 'narrow', 'wide'];
  adapted.use(null);
  assert.equal(logits(adapted.model, start), without);
  adapted.use(...names);
  const ids = { data: Int32Array.from(Buffer.concat(names.map(() => start))), shape: [4, 12] };
  const together = adapted.model.forward(ids).data.slice();
  for (const [row, name] of names.entries()) {
    adapted.use(name);
    const alone = logits(adapted.model, start);
    assert.equal(together.subarray(row * alone.length, (row + 1) * alone.length), alone, `${row}`);
    if (name) assert.ok(alone.some((x, i) => x !== without[i]));
  }
  const written: number[][] = names.map(() => []);
  adapted.use(...names);
  const prompts = names.map(() => start);
  const randoms = names.map((_, row) => new Random(row));
  for (const step of generateRows(adapted.model, prompts, 15, 1, randoms))
    step.forEach((token, row) => {
      written[row].push(token);
    });
  for (const [row, name] of names.entries()) {
    adapted.use(name);
    assert.equal([...generate(adapted.model, start, 15, 1, new Random(row))], written[row]);
  }
});

test('adapters that are not there, and batches of another size', () => {
  const adapted = new AdaptedModel(base(), 'f32');
  assert.throws(() => adapted.use('other'), /no adapter other/);
  adapter(adapted, 'other', 2, 1);
  adapted.use('other', null);
  assert.throws(() => logits(adapted.model, TEXT.subarray(0, 4)), /adapters for 2 rows/);
  assert.is(adapted.memory.adapters, adapted.layers.length);
  adapted.evict('other');
  assert.is(adapted.memory.adapters, 0);
  assert.is(adapted.memory.usedBytes, 0);
  assert.throws(() => adapted.use('other'), /no adapter other/);
  assert.throws(() => adapted.load('other', new Map([['blocks.9', {} as any]])), /no layer/);
});

test('files: every bit, and an adapter of another model is refused', () => {
  const folder = mkdtempSync(path.join(os.tmpdir(), 'rankone-'));
  try {
    const adapted = new AdaptedModel(base(), 'f32');
    const made = adapter(adapted, 'other', 3);
    saveAdapter(folder, made);
    const read = loadAdapter(folder, adapted.layers);
    assert.equal([...read.keys()].sort(), adapted.layers.map((layer) => layer.path).sort());
    for (const [layer, { a, b, scale }] of made.values()) {
      assert.equal(read.get(layer)!.a.data, a.data);
      assert.equal(read.get(layer)!.b.data, b.data);
      assert.is(read.get(layer)!.scale, scale);
    }
    const other = new SequenceModel({ ...SMALL, width: 24, mixer: 'gatedDeltaNet' }, 1);
    const { layers } = new AdaptedModel(other, 'f32');
    assert.throws(() => loadAdapter(folder, layers), /expected shape/);
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test('texts: whole, held out, each of another kind', () => {
  const { novel, tasks } = loadTexts();
  const [dictionary, javascript, capitals] = tasks.map(({ corpus }) => corpus);
  const text = (bytes: Uint8Array) => Buffer.from(bytes).toString();
  assert.ok(dictionary.train.length > 3e6 && javascript.train.length > 3e5);
  assert.match(text(dictionary.train), /^WHALES {2}W EY1 L Z$/m);
  assert.match(text(javascript.train), /^'use strict';|^\/\*!/);
  assert.is(
    text(capitals.heldOut),
    text(novel.heldOut).replace(/[a-z]/g, (c) => c.toUpperCase()),
  );
});

test('options: defaults, and errors for what is not one', () => {
  const defaults = parseOptions([]);
  assert.ok(defaults !== 'help' && defaults.rank === 8 && defaults.format === 'f32');
  const quick = parseOptions(['--quick', '--format', 'nf4', '--ratio', '16', '--rank', '3']);
  assert.ok(quick !== 'help' && quick.steps < defaults.steps && quick.ratio === 16);
  assert.equal(parseOptions(['--help']), 'help');
  for (const [args, pattern] of [
    [['--rank', '0'], /--rank: expected a whole number from 1 on, got 0/],
    [['--ratio', 'fast'], /--ratio: expected a number above zero/],
    [['--format', 'f64'], /--format: expected f32, .*; got f64/],
    [['--ranks', '2'], /--ranks/],
  ] as const)
    assert.throws(() => parseOptions([...args]), pattern);
});

test('the program, in its quick form', async () => {
  const out = mkdtempSync(path.join(os.tmpdir(), 'rankone-lora-'));
  try {
    const args = [
      '--import',
      'tsx',
      'examples/lora/main.ts',
      '--quick',
      '--ratio',
      '4',
      '--out',
      out,
    ];
    const { status, stdout, stderr } = spawnSync(process.execPath, args, {
      cwd: root,
      encoding: 'utf8',
    });
    assert.is(status, 0, `${stdout}${stderr}`);
    assert.not.match(stdout, /: NO$/m);
    assert.is(stdout.match(/: yes$/gm)?.length, 4, stdout);
    const bits = (name: string) =>
      new RegExp(`^ +${name} +([\\d. ]+?) +[-\\d]+ +[\\d,]+ +[-\\d]+$`, 'm')
        .exec(stdout)![1]
        .split(/ +/)
        .map(Number);
    const names = ['none', 'dictionary', 'javascript', 'capitals'];
    const table = names.map(bits);
    for (let i = 1; i < names.length; i++) {
      // Each adapter is the best on its own text, and much better there than no adapter.
      assert.ok(table[i][i] < 0.8 * table[0][i], `${names[i]}: ${table[0][i]} to ${table[i][i]}`);
      for (const row of table) assert.ok(table[i][i] <= row[i], `${names[i]}\n${stdout}`);
    }
    for (const name of names.slice(1)) {
      const folder = path.join(out, name);
      assert.equal(readdirSync(folder).sort(), [
        'adapter_config.json',
        'adapter_model.safetensors',
      ]);
      const { r, lora_alpha } = await readPeftConfig(folder);
      for (const adapter of readPeftSync(folder).values()) {
        assert.ok(adapter.kind === 'linear');
        assert.is(adapter.a.shape[0], r);
        assert.is(adapter.scale, lora_alpha! / r!);
      }
    }
  } finally {
    rmSync(out, { recursive: true });
  }
});

test.run();
