// Regular expressions as Python's re has them, tried on names.

import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { Subject } from '../../ts/peft/match';
import { parsePattern } from '../../ts/peft/pattern';
import fc from '../support/property.ts';

function refuse(what: string): never {
  throw new RangeError(what);
}

const slow = (): never => refuse('takes too long');
const fits = (pattern: string, text: string): boolean =>
  new Subject(text, slow).fits(parsePattern(pattern, refuse));
const begins = (pattern: string, text: string): boolean =>
  new Subject(text, slow).begins(parsePattern(pattern, refuse));

// What re.fullmatch of CPython 3.11 says.
const CASES: [pattern: string, yes: string[], no: string[]][] = [
  ['.*\\.q_proj', ['a.q_proj', '.q_proj'], ['q_proj', 'a.q_projx', 'aq_proj', 'a\n.q_proj']],
  [
    'model\\.layers\\.(1|22)\\..*(q|v)_proj',
    ['model.layers.22.x.v_proj'],
    ['model.layers.2.x.v_proj'],
  ],
  ['(?:a|ab)(?:c|bcd)', ['abcd', 'abc', 'ac'], ['ab', 'abbc']],
  ['.', ['a', '\r', '\u2028', '𝒳'], ['\n', '', 'ab']],
  ['^a$', ['a'], ['ba', 'a\nb', 'a\n']],
  ['a$\\n', ['a\n'], ['a', 'a\n\n']],
  ['a\\Z\\n', [], ['a\n']],
  ['\\Aa\\Z', ['a'], ['a\n', 'ba']],
  ['\\d+', ['0', '12', '٣'], ['', 'x', '²']],
  ['\\w+', ['aé_9', '٣', '²', '𝒳'], ['-', 'a b', '']],
  ['\\s', [' ', '\t', '\x1c', '\x85', '\u00a0', '\u2028'], ['\ufeff', '\u200b', 'a']],
  ['\\D\\W\\S', ['a-b'], ['1-b', 'aab', 'a- ']],
  ['a{2}', ['aa'], ['a', 'aaa']],
  ['a{,2}', ['', 'a', 'aa'], ['aaa', 'a{,2}']],
  ['a{2,}', ['aa', 'aaaaa'], ['a']],
  ['a{1,2}b?', ['a', 'aab'], ['b', 'aaab']],
  ['a{,}', ['', 'aaa'], ['a{,}']],
  ['a{}', ['a{}'], ['a']],
  ['a{x}', ['a{x}'], ['a']],
  ['{', ['{'], ['']],
  ['a*?b+?c??', ['b', 'aabbc'], ['a', 'c']],
  ['(a*)*b', ['b', 'aaab'], ['aaa']],
  ['(a|b)*?c', ['c', 'ababc'], ['d']],
  ['[abc]', ['a', 'c'], ['d', '', 'ab']],
  ['[^abc]', ['d', '\n'], ['a']],
  ['[]a]', [']', 'a'], ['[']],
  ['[^]a]', ['['], [']', 'a']],
  ['[a-c-]', ['b', '-'], ['d']],
  ['[-a]', ['-', 'a'], ['b']],
  ['[\\d.]+', ['1.5'], ['a']],
  ['[[a&&b]+', ['[a&b'], [']']],
  ['[\\]\\\\]', [']', '\\'], ['a']],
  ['[\\b]', ['\b'], ['b']],
  ['[\\W_]', ['-', '_'], ['a']],
  ['\\x61\\u0062\\U00000063', ['abc'], ['x61']],
  ['\\t\\n\\\\\\.\\-_', ['\t\n\\.-_'], []],
  ['a(?=b).*', ['ab', 'abc'], ['a', 'ac']],
  ['(?!.*lm_head).*', ['q_proj'], ['lm_head', 'x.lm_head']],
  ['.*(?<=q)_proj', ['q_proj'], ['v_proj']],
  ['.*(?<!q)_proj', ['v_proj', '_proj'], ['q_proj']],
  ['.*\\bproj', ['x.proj', 'proj'], ['q_proj', 'éproj']],
  ['.*\\Bproj', ['q_proj'], ['x.proj']],
  ['(?P<name>a)(b)', ['ab'], ['a']],
  ['', [''], ['a']],
  ['a|', ['a', ''], ['b']],
  ['|', [''], ['|']],
  ['𝒳+', ['𝒳𝒳'], ['\ud835']],
  ['(?=a)*b', ['b'], ['a']],
];

for (const [pattern, yes, no] of CASES)
  test(`fullmatch ${pattern}`, () => {
    for (const text of yes) assert.ok(fits(pattern, text), JSON.stringify(text));
    for (const text of no) assert.not(fits(pattern, text), JSON.stringify(text));
  });

test('match', () => {
  assert.ok(begins('a', 'ab'));
  assert.not(begins('b', 'ab'));
  assert.ok(begins('a$', 'a\n'));
  assert.not(begins('a$', 'a\nb'));
  assert.ok(begins('a|b', 'b'));
});

const REFUSED: [pattern: string, message: RegExp][] = [
  ['(', /'\(' without its '\)'/],
  [')', /'\)' without its '\('/],
  ['[a', /'\[' without its '\]'/],
  ['[]', /'\[' without its '\]'/],
  ['*a', /nothing for '\*' to repeat/],
  ['a|+', /nothing for '\+' to repeat/],
  ['({2})', /nothing for '{' to repeat/],
  ['a**', /a quantifier behind a quantifier/],
  ['a{2}{3}', /a quantifier behind a quantifier/],
  ['a{3,2}', /the wrong way round/],
  ['^*', /a repeated position/],
  ['\\b+', /a repeated position/],
  ['[b-a]', /a range that is none/],
  ['[\\d-a]', /a range that is none/],
  ['[a-\\d]', /a range that is none/],
  ['\\', /'\\' at the end/],
  ['\\q', /the escape '\\q'/],
  ['\\Na', /the escape '\\N'/],
  ['[\\Z]', /the escape '\\Z'/],
  ['\\x6', /an incomplete escape/],
  ['\\uD80', /an incomplete escape/],
  ['\\U00110000', /an incomplete escape/],
  ['(a)\\1', /a backreference or an octal escape/],
  ['\\0', /a backreference or an octal escape/],
  ['(?P<n>a)(?P=n)', /a backreference, '\(\?P='/],
  ['(a)(?(1)b)', /a conditional group/],
  ['(?>a)', /an atomic group/],
  ['a*+', /a possessive quantifier/],
  ['(?i)a', /inline flags, '\(\?i\)'/],
  ['(?i:a)', /inline flags/],
  ['(?-s:a)', /inline flags/],
  ['(?#c)a', /a comment/],
  ['(?P<1>a)', /a group without a proper name/],
  ['(?~a)', /an unknown extension/],
  ['('.repeat(101) + ')'.repeat(101), /nested deeper than 100/],
  ['a'.repeat(20001), /more than 20000 characters/],
];

for (const [pattern, message] of REFUSED)
  test(`refused: ${pattern.slice(0, 20)}`, () => {
    assert.throws(() => parsePattern(pattern, refuse), message);
  });

// Where Python and JavaScript mean the same, RegExp is the reference.
test('random patterns', () => {
  const atom = fc.constantFrom(
    'a',
    'b',
    '.',
    '[ab]',
    '[^a]',
    '\\.',
    '(?=a)',
    '(?!b)',
    '\\d',
    '[a-c1]',
  );
  const quantifier = fc.constantFrom('', '', '', '*', '+', '?', '{2}', '{1,2}', '{1,}', '*?', '??');
  const { pattern } = fc.letrec<{ pattern: string; part: string }>((tie) => ({
    pattern: fc.oneof(
      { depthSize: 'small' },
      fc.array(tie('part'), { minLength: 1, maxLength: 4 }).map((parts) => parts.join('')),
      fc.tuple(tie('pattern'), tie('pattern')).map(([x, y]) => `${x}|${y}`),
    ),
    part: fc.oneof(
      { depthSize: 'small', withCrossShrink: true },
      fc.tuple(atom, quantifier).map(([x, q]) => (x.startsWith('(?') ? x : x + q)),
      fc.tuple(tie('pattern'), quantifier).map(([x, q]) => `(${x})${q}`),
    ),
  }));
  const text = fc.array(fc.constantFrom('a', 'b', 'c', '.', '1'), { maxLength: 9 });
  fc.assert(
    fc.property(pattern, text, (source, chars) => {
      const s = chars.join('');
      assert.is(fits(source, s), new RegExp(`^(?:${source})$`, 'u').test(s), `${source} on ${s}`);
      assert.is(begins(source, s), new RegExp(`^(?:${source})`, 'u').test(s), `${source} on ${s}`);
    }),
    { seed: 11, numRuns: 1500 },
  );
});

test('patterns that make a backtracking engine hang', () => {
  const text = `${'a'.repeat(200)}!`;
  for (const pattern of ['(a+)+', '(a|a)*', '(a*)*b', '(.*)*x', '(a|aa)+', '((a{1,9})+)+'])
    assert.not(fits(pattern, text));
  const many = `${'(?:a?){200}'.repeat(60)}x`;
  assert.throws(() => fits(many, 'a'.repeat(5000)), /takes too long/);
});

test.run();
