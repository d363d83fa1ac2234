/** The same bits: whatever the other rows, their number, the threads, the form of the call or of the routing. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { info } from '../../ts/index';
import { expectSame, expectSameBits } from '../support/bits.ts';
import type { AdapterSketch, LoraCase, MadeCase } from '../support/lora.ts';
import { makeCase, routingKinds, weightFormats } from '../support/lora.ts';
import { everything, flatGradients, sameEverywhere } from '../support/loraChecks.ts';
import type { AnyTensor } from '../support/native.ts';
import { native } from '../support/native.ts';

const computes = info().isa === 'avx512bf16' ? (['f32', 'bf16'] as const) : (['f32'] as const);

const MIXED: AdapterSketch[] = [
  { rank: 8 },
  { rank: 1, scale: 2 },
  { rank: 33, mid: 'diagonal' },
  { rank: 16, act: 'gelu', rankBias: true, outBias: true },
  { rank: 5, act: { topK: 2 } },
  { rank: 4, aList: true },
  { rank: 6, bList: true },
  { rank: 12, width: 20, mid: 'matrix', used: 10 },
];

/** Rows of a tensor, in this order. */
function rowsOf({ data, shape, dtype }: AnyTensor, rows: readonly number[]): AnyTensor {
  const width = shape.slice(1).reduce((a, b) => a * b, 1);
  const part = data.slice(0, rows.length * width);
  rows.forEach((row, i) => {
    part.set(data.subarray(row * width, (row + 1) * width) as any, i * width);
  });
  return { data: part, shape: [rows.length, ...shape.slice(1)], dtype };
}

/** Some rows of a case, as a call of their own. */
function part(made: MadeCase, rows: readonly number[]) {
  const { inputs, slots, perRow } = made;
  const own = rows.flatMap((row) => [...slots.slice(row * perRow, (row + 1) * perRow)]);
  const ids = Int32Array.from(own);
  const { gates, k } = inputs.routing as any;
  const routing = gates
    ? { kind: 'topK', k, ids, gates: rowsOf(gates, rows) }
    : { kind: 'tokens', ids };
  return { ...inputs, x: rowsOf(inputs.x, rows), routing };
}

/** The rows beside those that are looked at: not numbers. */
function poisoned(x: AnyTensor, kept: readonly number[]): AnyTensor {
  const width = x.shape[1];
  const data = x.data.slice();
  const values = { f32: [Number.NaN, Infinity, -Infinity], bf16: [0x7fc0, 0x7f80], f16: [0x7e00] };
  const bad = values[(x.dtype ?? 'f32') as 'f32'];
  for (let row = 0; row < x.shape[0]; row++)
    if (!kept.includes(row)) data.fill(bad[row % bad.length], row * width, (row + 1) * width);
  return { ...x, data };
}

const PROBED = [0, 1, 5, 8, 63, 64, 300, 511, 512, 599];

const batch = suite('loraLinear: a row alone, and among others');

interface Setting extends Omit<LoraCase, 'rows'> {
  compute?: string;
}

/** y and dx of single rows, of eight, of 64 and of all, with and without neighbours that are no numbers. */
function checkBatch({ compute = 'f32', ...spec }: Setting): void {
  const made = makeCase({ ...spec, rows: 600 });
  const call = { compute };
  const need = { dx: true, adapters: false, dBias: false, dGates: false };
  const run = (inputs: object, dY: AnyTensor) => ({
    y: native.loraLinearSync(inputs, call).y as AnyTensor,
    dx: native.loraLinearBackwardSync({ ...inputs, dY }, { ...call, need }).dx as AnyTensor,
  });
  const whole = run(made.inputs, made.dY);
  const label = JSON.stringify({ compute, ...spec });
  const hold = (where: string, results: typeof whole, rows: readonly number[], at?: number[]) => {
    const looked = at ?? rows.map((_, i) => i);
    for (const name of ['y', 'dx'] as const) {
      const expected = rowsOf(whole[name], rows);
      expectSame(`${label}: ${name}, ${where}`, rowsOf(results[name], looked), expected);
    }
  };
  for (const row of PROBED)
    hold(`row ${row} alone`, run(part(made, [row]), rowsOf(made.dY, [row])), [row]);
  for (const count of [2, 3, 8, 13, 64]) {
    const rows = Array.from({ length: count }, (_, i) => (PROBED[i % PROBED.length] + 7 * i) % 600);
    hold(`${count} rows`, run(part(made, rows), rowsOf(made.dY, rows)), rows);
  }
  const inputs = { ...made.inputs, x: poisoned(made.inputs.x, PROBED) };
  hold('not numbers beside', run(inputs, poisoned(made.dY, PROBED)), PROBED, PROBED);
  const few = PROBED.slice(0, 5);
  const some = part(
    { ...made, inputs },
    Array.from({ length: 65 }, (_, i) => i),
  );
  const dY = poisoned(made.dY, PROBED);
  const rows = Array.from({ length: 65 }, (_, i) => i);
  hold('not numbers beside, 65 rows', run(some, rowsOf(dY, rows)), few, few);
  made.dispose();
}

for (const compute of computes) {
  for (const routing of ['one', 'segments', 'tokens', 'topK'] as const)
    for (const dtype of ['f32', 'bf16', 'f16'] as const)
      batch(`${routing}, ${dtype}, products in ${compute}`, () => {
        checkBatch({ in: 70, out: 45, adapters: MIXED, routing, dtype, compute, bias: true });
      });
  for (const base of [...weightFormats, 'identity', null] as const)
    batch(`base ${base}, products in ${compute}`, () => {
      const routing = 'tokens';
      checkBatch({ in: 65, out: 65, base, adapters: MIXED, routing, compute });
    });
  batch(`long rows, products in ${compute}`, () => {
    for (const base of ['f32', 'bf16', 'nf4'] as const)
      checkBatch({ in: 2100, out: 33, base, adapters: MIXED, routing: 'tokens', compute });
    checkBatch({ in: 33, out: 1500, adapters: MIXED, routing: 'tokens', compute });
  });
  batch(`a base alone, products in ${compute}`, () => {
    for (const base of ['f32', 'q8'] as const)
      checkBatch({ in: 70, out: 45, base, adapters: [{ rank: 4 }], compute });
  });
}

batch('gradients of an adapter do not hear of rows that are not its own', () => {
  for (const routing of ['segments', 'tokens', 'topK'] as const) {
    const made = makeCase({ rows: 90, in: 40, out: 33, adapters: MIXED, routing, seed: 3 });
    const { slots, perRow, ids } = made;
    const watched = ids[3];
    const own: number[] = [];
    for (let row = 0; row < 90; row++)
      if (slots.slice(row * perRow, (row + 1) * perRow).includes(watched)) own.push(row);
    assert.ok(own.length > 5 && own.length < 60, `${own.length} rows`);
    const gradients = (x: AnyTensor, dY: AnyTensor) => {
      const { adapters } = native.loraLinearBackwardSync({ ...made.inputs, x, dY });
      return flatGradients({ adapters: new Map([[watched, adapters.get(watched)]]) });
    };
    const expected = gradients(made.inputs.x, made.dY);
    const got = gradients(poisoned(made.inputs.x, own), poisoned(made.dY, own));
    expectSameBits(routing, got, expected);
    made.dispose();
  }
});

batch('NaN and infinity reach what depends on them', () => {
  for (const base of ['f32', 'int8', null] as const)
    for (const rows of [1, 40]) {
      const adapters = [{ rank: 4 }];
      const made = makeCase({ rows, in: 20, out: 33, base, adapters });
      for (const value of [Number.NaN, Infinity]) {
        const x = { ...made.inputs.x, data: made.inputs.x.data.slice() };
        x.data[(rows - 1) * 20 + 7] = value;
        const y = native.loraLinearSync({ ...made.inputs, x }).y.data.slice((rows - 1) * 33);
        assert.ok(
          [...y].every((v: number) => !Number.isFinite(v)),
          `${base}, ${rows} rows, ${value}`,
        );
      }
      made.dispose();
    }
});

batch.run();

const forms = suite('loraLinear: threads, forms, routings');

for (const compute of computes)
  for (const routing of routingKinds)
    forms(`1, 2 and 5 threads, again, asynchronous: ${routing}, ${compute}`, async () => {
      for (const [rows, width, out, base, dtype] of [
        [1, 300, 700, 'f32', 'f32'],
        [8, 300, 700, 'nf4', 'bf16'],
        [70, 130, 65, 'int8', 'f32'],
        [1100, 40, 33, 'bf16', 'f16'],
        [40, 2100, 50, 'q4', 'f32'],
        [700, 65, 65, 'identity', 'f32'],
        [600, 65, 70, null, 'f32'],
      ] as const) {
        const spec: LoraCase = { rows, in: width, out, base, dtype, routing, adapters: MIXED };
        const made = makeCase({ ...spec, bias: true });
        const chances = { dropout: { p: 0.2, seed: 4 }, skip: { p: 0.1, seed: 5 } };
        await sameEverywhere(`${JSON.stringify(spec)}`, made, { compute });
        await sameEverywhere(`${JSON.stringify(spec)}`, made, { compute, ...chances });
        made.dispose();
      }
    });

forms('one, segments, tokens, and topK of one with gates of 1 are the same', () => {
  for (const compute of computes)
    for (const rows of [1, 4, 20, 200])
      for (const dtype of ['f32', 'bf16'] as const) {
        const made = makeCase({ rows, in: 57, out: 45, dtype, adapters: MIXED });
        for (const id of [...made.ids, -1]) {
          const ids = new Int32Array(rows).fill(id);
          const half = rows >> 1;
          const gates = { data: new Float32Array(rows).fill(1), shape: [rows, 1] };
          const results = [
            { kind: 'one', id },
            { kind: 'tokens', ids },
            {
              kind: 'segments',
              indptr: Int32Array.of(0, 0, half, rows),
              ids: Int32Array.of(made.ids[0], id, id),
            },
            { kind: 'topK', k: 1, ids, gates },
          ].map((routing) => {
            const given = { ...made, inputs: { ...made.inputs, routing } };
            const need = { dx: true, adapters: true, dGates: false };
            const results = everything(given, { compute }, { need });
            // The empty segment's adapter has gradients too, and its rank counts in t.
            delete results.t;
            for (const name of Object.keys(results))
              if (/ of /.test(name) && !name.endsWith(` of ${id}`)) delete results[name];
            return results;
          });
          for (const [i, other] of results.slice(1).entries())
            expectSameBits(`${rows} rows of ${id}, ${dtype}, form ${i + 1}`, other, results[0]);
        }
        made.dispose();
      }
});

forms('t of saveRank gives the gradients that its recomputation gives', () => {
  for (const compute of computes)
    for (const routing of routingKinds)
      for (const dtype of ['f32', 'bf16'] as const)
        for (const rows of [1, 9, 70, 600]) {
          const made = makeCase({ rows, in: 57, out: 45, dtype, adapters: MIXED, routing });
          for (const dropout of [undefined, { p: 0.5, seed: 2 }]) {
            const call = { compute, ...(dropout && { dropout }) };
            const { t, y } = native.loraLinearSync(made.inputs, { ...call, saveRank: true });
            expectSame('y', y, native.loraLinearSync(made.inputs, call).y);
            expectSameBits(
              `${routing}, ${dtype}, ${rows} rows`,
              everything(made, call, { t }),
              everything(made, call),
            );
          }
          made.dispose();
        }
});

forms('a gradient alone has the bits that it has beside others', () => {
  const spec: LoraCase = {
    rows: 50,
    in: 57,
    out: 45,
    adapters: MIXED,
    routing: 'topK',
    bias: true,
  };
  const made = makeCase(spec);
  const given = { ...made.inputs, dY: made.dY };
  const all = flatGradients(native.loraLinearBackwardSync(given));
  for (const wanted of ['dx', 'adapters', 'dGates', 'dBias']) {
    const none = { dx: false, adapters: false, dGates: false, dBias: false };
    const results = native.loraLinearBackwardSync(given, { need: { ...none, [wanted]: true } });
    assert.equal(Object.keys(results), [wanted]);
    for (const [name, x] of Object.entries(flatGradients(results)))
      expectSame(`${name} alone`, x, all[name]);
  }
  made.dispose();
});

forms('out: into the caller’s memory', async () => {
  for (const dtype of ['f32', 'bf16'] as const) {
    const made = makeCase({ rows: 30, in: 57, out: 45, dtype, adapters: MIXED, routing: 'tokens' });
    const { y } = native.loraLinearSync(made.inputs);
    const given = { ...made.inputs, dY: made.dY };
    const { dx } = native.loraLinearBackwardSync(given);
    const fresh = (x: AnyTensor) => ({
      ...x,
      data: new (x.data.constructor as any)(x.data.length),
    });
    const [ownY, ownDx] = [fresh(y), fresh(dx)];
    assert.is((await native.loraLinear(made.inputs, { out: { y: ownY } })).y, ownY);
    assert.is(native.loraLinearBackwardSync(given, { out: { dx: ownDx } }).dx, ownDx);
    expectSame('y', ownY, y);
    expectSame('dx', ownDx, dx);
    made.dispose();
  }
});

forms.run();
