// Merging adapters into weights: calls that must fail.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import * as rankone from '../../ts/index';
import { ramp, rejectsWith, throwsWith } from '../ops/helpers';
import { type Any, bank, base, IN, ids, OUT, other, square } from './good';

const merges: [string, Any[], Any, RegExp][] = [
  ['no base', [null, bank, ids[0]], TypeError, /base: expected a packed weight/],
  [
    'an identity',
    ['identity', square, 0],
    TypeError,
    /base: expected what packWeight\(\) returned, got 'identity'/,
  ],
  ['no bank', [base, undefined, ids[0]], TypeError, /bank: expected one/],
  ['a bank of other sizes', [base, other, 0], RangeError, /bank: expected \[out,in\] = \[7,10\]/],
  ['no id', [base, bank], TypeError, /id: expected an integer, got undefined/],
  ['another id', [base, bank, 77], RangeError, /id: .*got 77/],
  ['none', [base, bank, -1], RangeError, /id: .*got -1/],
  ['another format', [base, bank, ids[0], { format: 'i4' }], RangeError, /format: /],
  ['an unknown option', [base, bank, ids[0], { out: {} }], TypeError, /out: /],
  ['options of another kind', [base, bank, ids[0], 3], TypeError, /options: /],
];
for (const [part, spec] of Object.entries({
  act: { act: 'relu' },
  rankBias: { rankBias: ramp(1) },
  outBias: { outBias: ramp(OUT) },
}) as [string, Any][]) {
  const id = bank.load({ a: ramp(1, IN), b: ramp(OUT, 1), ...spec });
  merges.push([
    `an adapter with ${part}`,
    [base, bank, id],
    RangeError,
    new RegExp(`id: .*${part}`),
  ]);
}

for (const operation of ['mergeAdapter', 'unmergeAdapter'])
  for (const [name, args, kind, pattern] of merges)
    test(`${operation} refuses ${name}`, async () => {
      const text = new RegExp(`^\\[${operation}\\] .*${pattern.source}`);
      throwsWith(() => (rankone as Any)[`${operation}Sync`](...args), kind, text);
      await rejectsWith(() => (rankone as Any)[operation](...args), kind, text);
    });

test('options that are no plain object count as well', () => {
  const id = bank.load({ a: ramp(1, IN), b: ramp(OUT, 1) });
  class Options {
    get format() {
      return 'int8' as const;
    }
  }
  for (const merge of [rankone.mergeAdapterSync, rankone.unmergeAdapterSync]) {
    using merged = merge(base, bank, id, new Options());
    assert.is(merged.format, 'int8');
  }
  bank.evict(id);
});

test('what divides by a zero is not taken out again', () => {
  const baseScale = ramp(OUT);
  baseScale.data[3] = 0;
  const id = bank.load({ a: ramp(1, IN), b: ramp(OUT, 1), baseScale });
  rankone.mergeAdapterSync(base, bank, id).dispose();
  throwsWith(() => rankone.unmergeAdapterSync(base, bank, id), RangeError, /zero in baseScale/);
});

test.run();
