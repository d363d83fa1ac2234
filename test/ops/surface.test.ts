import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { description } from '../../ts/binding';
import * as rankone from '../../ts/index';
import { problem, ramp, sameBits, throwsWith } from './helpers';

const all = rankone as unknown as Record<string, (...args: any[]) => any>;

/** What reads and writes files, without the engine. */
const FILES = ['readPeft', 'readPeftConfig', 'readSafetensors', 'writePeft', 'writeSafetensors'];

/** Functions in TypeScript that call the engine. */
const HELPERS = ['doraAdapter', 'synchronize', 'toDevice'];

test('every function of the engine, of files and of helpers is exported in both forms, and nothing else is', () => {
  const functions = description.entries.map((e) => e.name).filter((name) => !name.includes('.'));
  const engine = [...functions, ...FILES, ...HELPERS].sort();
  const exported = Object.keys(all)
    .filter((name) => name.endsWith('Sync'))
    .map((name) => name.slice(0, -'Sync'.length))
    .sort();
  assert.equal(exported, engine);
  for (const name of engine) {
    assert.type(all[name], 'function');
    assert.is(all[name].name, name);
    assert.is(all[`${name}Sync`].name, `${name}Sync`);
  }
});

test('what the engine calls methods are methods', () => {
  const methods = description.entries.map((e) => e.name).filter((name) => name.includes('.'));
  assert.equal(methods, ['AdapterBank.load', 'AdapterBank.replace']);
  for (const name of methods) {
    const [type, method] = name.split('.');
    assert.type(all[type].prototype[method], 'function');
  }
});

test('info, version and threads', () => {
  assert.is(rankone.version, require('../../package.json').version);
  const { isa, availableIsas, threads } = rankone.info();
  assert.ok(availableIsas.includes(isa));
  if (process.env.RANKONE_ISA) assert.is(isa, process.env.RANKONE_ISA);
  assert.is(rankone.getNumThreads(), threads);
  rankone.setNumThreads(3);
  assert.is(rankone.getNumThreads(), 3);
  rankone.setNumThreads(threads);
});

test('results are plain tensors', () => {
  const { o, finalState, saved } = rankone.gatedDeltaNetSync(problem(2, 5, 2, 8, 4), {
    outputFinalState: true,
  });
  assert.equal(o.shape, [2, 5, 2, 4]);
  assert.is(o.dtype, 'f32');
  assert.instance(o.data, Float32Array);
  assert.is(o.data.length, 80);
  assert.equal(finalState!.shape, [2, 2, 8, 4]);
  assert.is(saved, undefined);
  assert.equal(Object.keys(rankone.gatedDeltaNetSync(problem())), ['o']);
});

test('the asynchronous form gives the same bits', async () => {
  const inputs = problem(2, 40, 2, 16, 12);
  const options = { outputFinalState: true };
  const a = rankone.gatedDeltaNetSync(inputs, options);
  const b = await rankone.gatedDeltaNet(inputs, options);
  sameBits(a.o, b.o);
  sameBits(a.finalState!, b.finalState!);
});

test('a preset is its cell of the grid', () => {
  const { q, k, v, g, beta } = problem();
  sameBits(
    rankone.gatedDeltaNetSync({ q, k, v, g, beta }).o,
    rankone.recurrenceSync({ q, k, v, g, beta }).o,
  );
  sameBits(
    rankone.linearAttentionSync({ q, k, v }).o,
    rankone.recurrenceSync({ q, k, v }, { update: 'additive' }).o,
  );
});

test('out is written and returned', async () => {
  const inputs = problem();
  const expected = rankone.gatedDeltaNetSync(inputs).o;
  const o = ramp(...expected.shape);
  const result = rankone.gatedDeltaNetSync(inputs, { out: { o } });
  assert.is(result.o as unknown, o);
  sameBits(o, expected);
  const later = ramp(...expected.shape);
  assert.is((await rankone.gatedDeltaNet(inputs, { out: { o: later } })).o as unknown, later);
  sameBits(later, expected);
});

test('views and shared memory are accepted', () => {
  const inputs = problem();
  const expected = rankone.gatedDeltaNetSync(inputs).o;
  const wide = new Float32Array(inputs.q.data.length + 7);
  wide.set(inputs.q.data, 3);
  const q = { data: wide.subarray(3, 3 + inputs.q.data.length), shape: inputs.q.shape };
  const v = {
    data: new Float32Array(new SharedArrayBuffer(inputs.v.data.byteLength)),
    shape: inputs.v.shape,
  };
  v.data.set(inputs.v.data);
  sameBits(rankone.gatedDeltaNetSync({ ...inputs, q, v }).o, expected);
});

test('frozen inputs and options of undefined are fine', () => {
  const inputs = Object.freeze({ ...problem(), initialState: undefined });
  const plain = rankone.gatedDeltaNetSync(problem()).o;
  sameBits(rankone.gatedDeltaNetSync(inputs, Object.freeze({ scale: undefined })).o, plain);
  sameBits(rankone.gatedDeltaNetSync(inputs, undefined).o, plain);
});

test('accessors of a class are read, each once', async () => {
  const inputs = problem();
  const { o: expected, finalState } = rankone.gatedDeltaNetSync(inputs, {
    scale: 3,
    outputFinalState: true,
  });
  const reads: string[] = [];
  const read = <T>(name: string, value: T): T => {
    reads.push(name);
    return value;
  };
  class Inputs {
    k = inputs.k;
    v = inputs.v;
    g = inputs.g;
    beta = inputs.beta;
    get q() {
      return read('q', inputs.q);
    }
  }
  const mine = ramp(...expected.shape);
  class Out {
    get o() {
      return read('o', mine);
    }
  }
  class Base {
    get scale() {
      return read('scale', 3);
    }
  }
  class Options extends Base {
    outputFinalState = true;
    get out() {
      return read('out', new Out());
    }
  }
  for (const run of [rankone.gatedDeltaNetSync, rankone.gatedDeltaNet]) {
    mine.data.fill(0);
    reads.length = 0;
    const result = await run(new Inputs(), new Options());
    assert.equal(reads.sort(), ['o', 'out', 'q', 'scale']);
    assert.is(result.o as unknown, mine);
    sameBits(mine, expected);
    sameBits(result.finalState!, finalState!);
  }
  class Typo {
    scael = 1;
  }
  assert.throws(() => rankone.gatedDeltaNetSync(inputs, new Typo() as any), /scael: .*scale/);
});

test('an object that names nothing but what it inherits', () => {
  const inputs = problem();
  const child = Object.create(inputs);
  sameBits(rankone.gatedDeltaNetSync(child).o, rankone.gatedDeltaNetSync(inputs).o);
  const bare = Object.assign(Object.create(null), inputs);
  sameBits(rankone.gatedDeltaNetSync(bare).o, rankone.gatedDeltaNetSync(inputs).o);
});

test('only what out was checked with is returned', () => {
  const inputs = problem();
  const o = ramp(1, 5, 2, 4);
  let reads = 0;
  const out = {
    get o() {
      return reads++ ? ramp(1, 5, 2, 4) : o;
    },
  };
  assert.is(rankone.gatedDeltaNetSync(inputs, { out }).o as unknown, o);
  assert.is(reads, 1);
});

test('a call from inside a getter of another call does no harm', () => {
  const inputs = problem();
  const expected = rankone.gatedDeltaNetSync(inputs).o;
  const nosy = {
    ...inputs,
    get beta() {
      rankone.linearAttentionSync({
        q: ramp(1, 2, 1, 3),
        k: ramp(1, 2, 1, 3),
        v: ramp(1, 2, 1, 5),
      });
      return inputs.beta;
    },
  };
  sameBits(rankone.gatedDeltaNetSync(nosy).o, expected);
});

test('saved makes the backward agree with the one that recomputes', async () => {
  const inputs = problem(1, 40, 2, 16, 8);
  const { o, saved } = rankone.gatedDeltaNetSync(inputs, { saveForBackward: true });
  assert.instance(saved, rankone.SavedForward);
  const a = rankone.gatedDeltaNetBackwardSync({ ...inputs, dO: o, saved });
  const b = await rankone.gatedDeltaNetBackward({ ...inputs, dO: o });
  for (const name of ['dq', 'dk', 'dv', 'dg', 'dbeta'] as const) {
    assert.equal(a[name].shape, b[name].shape);
    const worst = a[name].data.reduce((m, x, i) => Math.max(m, Math.abs(x - b[name].data[i])), 0);
    assert.ok(worst < 1e-4, `${name} differs by ${worst}`);
  }
  saved!.dispose();
  saved!.dispose();
});

test('tensor()', () => {
  const t = rankone.tensor([1, 2, 3, 4, 5, 6], [2, 3]);
  assert.instance(t.data, Float32Array);
  assert.equal(t.shape, [2, 3]);
  const data = new Float32Array(4);
  assert.is(rankone.tensor(data, [4]).data, data);
  assert.instance(rankone.tensor([1, 2], [2], 'i32').data, Int32Array);
  assert.is(rankone.tensor(new Int32Array(2), [2]).dtype, 'i32');
  assert.is(rankone.tensor(new Uint16Array(2), [2], 'bf16').dtype, 'bf16');
  assert.equal(rankone.tensor([7], []).shape, []);
  throwsWith(
    () => (rankone.tensor as any)(new Uint16Array(2), [2]),
    TypeError,
    /dtype: expected 'bf16' or 'f16' beside a Uint16Array, got none/,
  );
});

test('updates in place', async () => {
  const make = () => ({
    param: ramp(64),
    grad: ramp(64),
    m: ramp(64),
    v: rankone.tensor(new Float32Array(64), [64]),
  });
  const a = make();
  const b = make();
  const { param, m, v } = a;
  assert.equal(rankone.adamWSync(a, { step: 1, lr: 1e-3 }), {});
  assert.is(a.param, param);
  assert.not.equal(a.param.data, ramp(64).data);
  assert.equal(await rankone.adamW(b, { step: 1, lr: 1e-3 }), {});
  sameBits(b.param, param);
  sameBits(b.m, m);
  sameBits(b.v, v);
});

test.run();
