// Characters as Python's regular expressions tell them apart: by code points, and by Unicode in \d, \w and \s.

/** @internal */
export type Test = (codePoint: number) => boolean;

const DIGIT = /^\p{Nd}$/u;
const WORD = /^[\p{L}\p{N}_]$/u;
const SEPARATOR = /^[\p{Z}\x85]$/u;

const matches =
  (pattern: RegExp): Test =>
  (c) =>
    pattern.test(String.fromCodePoint(c));
const not =
  (test: Test): Test =>
  (c) =>
    !test(c);

/** @internal */
export const isWord: Test = matches(WORD);
const isSpace: Test = (c) =>
  (c >= 9 && c <= 13) || (c >= 0x1c && c <= 0x1f) || matches(SEPARATOR)(c);
const CLASSES: Record<string, Test> = {
  d: matches(DIGIT),
  D: not(matches(DIGIT)),
  w: isWord,
  W: not(isWord),
  s: isSpace,
  S: not(isSpace),
};

/** @internal */
export const charEscape: Record<string, number> = { a: 7, b: 8, t: 9, n: 10, v: 11, f: 12, r: 13 };
const HEX_DIGITS: Record<string, number> = { x: 2, u: 4, U: 8 };

/** @internal */
export function oneOf(codePoint: number): Test {
  return (c) => c === codePoint;
}

/** What \d, \w and the like stand for. @internal */
export function classEscape(letter: string): Test | undefined {
  return Object.hasOwn(CLASSES, letter) ? CLASSES[letter] : undefined;
}

/** The code point of the escape whose backslash stands before `at`, and its length without it. @internal */
export function escapedChar(
  chars: readonly string[],
  at: number,
  fail: (what: string) => never,
): { length: number; code: number } {
  const c = chars[at] ?? fail("a '\\' at the end");
  if (c !== 'b' && Object.hasOwn(charEscape, c)) return { length: 1, code: charEscape[c] };
  if (Object.hasOwn(HEX_DIGITS, c)) {
    const digits = chars.slice(at + 1, at + 1 + HEX_DIGITS[c]).join('');
    const code = Number.parseInt(digits, 16);
    if (digits.length !== HEX_DIGITS[c] || !/^[\da-fA-F]+$/.test(digits) || code > 0x10ffff)
      fail(`an incomplete escape '\\${c}${digits}'`);
    return { length: 1 + digits.length, code };
  }
  if (/[a-zA-Z0-9]/.test(c)) fail(`the escape '\\${c}', which is not supported`);
  return { length: 1, code: c.codePointAt(0)! };
}
