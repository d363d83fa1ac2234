// Regular expressions in Python's syntax, as adapter_config.json holds them, as trees. Parsed rather than handed to
// RegExp: `.`, `$`, `\d`, `\w`, `\s`, `{,n}` and sets mean other things there, and a pattern of a stranger's file must not
// backtrack for ever (match.ts does not backtrack).
import { charEscape, classEscape, escapedChar, oneOf, type Test } from './characters';

/** @internal */
export type Pattern =
  | { kind: 'one'; test: Test }
  | { kind: 'sequence'; of: Pattern[] }
  | { kind: 'either'; of: Pattern[] }
  | { kind: 'repeat'; of: Pattern; min: number; max: number }
  | { kind: 'at'; where: 'start' | 'end' | 'last' | 'boundary' | 'inside' }
  | { kind: 'look'; of: Pattern; behind: boolean; wanted: boolean }
  | { kind: 'group'; of: Pattern };

const MAX_NESTING = 100;
const MAX_LENGTH = 20_000;
const AT: Record<string, Pattern> = {
  A: { kind: 'at', where: 'start' },
  Z: { kind: 'at', where: 'end' },
  b: { kind: 'at', where: 'boundary' },
  B: { kind: 'at', where: 'inside' },
};
const LOOKS: [string, { behind: boolean; wanted: boolean }][] = [
  ['(?=', { behind: false, wanted: true }],
  ['(?!', { behind: false, wanted: false }],
  ['(?<=', { behind: true, wanted: true }],
  ['(?<!', { behind: true, wanted: false }],
];
const REFUSED: [RegExp, string][] = [
  [/^\(\?P=/, 'a backreference'],
  [/^\(\?P/, 'a group without a proper name'],
  [/^\(\?#/, 'a comment'],
  [/^\(\?\(/, 'a conditional group'],
  [/^\(\?>/, 'an atomic group'],
  [/^\(\?[-a-zA-Z]/, 'inline flags'],
  [/^\(\?/, 'an unknown extension'],
];

class Parser {
  readonly chars: string[];
  at = 0;
  depth = 0;

  constructor(
    text: string,
    private readonly fail: (what: string) => never,
  ) {
    this.chars = [...text];
  }

  starts(text: string): boolean {
    return this.chars.slice(this.at, this.at + text.length).join('') === text;
  }

  take(text: string): boolean {
    if (!this.starts(text)) return false;
    this.at += text.length;
    return true;
  }

  whole(): Pattern {
    const pattern = this.alternatives();
    if (this.at < this.chars.length) this.fail("a ')' without its '('");
    return pattern;
  }

  alternatives(): Pattern {
    if (++this.depth > MAX_NESTING) this.fail(`groups nested deeper than ${MAX_NESTING}`);
    const of = [this.sequence()];
    while (this.take('|')) of.push(this.sequence());
    this.depth--;
    return of.length === 1 ? of[0] : { kind: 'either', of };
  }

  sequence(): Pattern {
    const of: Pattern[] = [];
    while (this.at < this.chars.length && !this.starts('|') && !this.starts(')')) {
      of.push(this.repeated(this.item()));
    }
    return { kind: 'sequence', of };
  }

  item(): Pattern {
    const c = this.chars[this.at];
    if (c === '(') return this.group();
    if (this.repetition()) this.fail(`nothing for '${c}' to repeat`);
    this.at++;
    if (c === '.') return { kind: 'one', test: (x) => x !== 10 };
    if (c === '^') return AT.A;
    if (c === '$') return { kind: 'at', where: 'last' };
    if (c === '[') return { kind: 'one', test: this.set() };
    if (c === '\\') return this.escape();
    return { kind: 'one', test: oneOf(c.codePointAt(0)!) };
  }

  escape(): Pattern {
    const c = this.chars[this.at] ?? this.fail("a '\\' at the end");
    if (/\d/.test(c)) this.fail('a backreference or an octal escape, which are not supported');
    const test = classEscape(c);
    if (test || Object.hasOwn(AT, c)) this.at++;
    return AT[c] ?? { kind: 'one', test: test ?? oneOf(this.character()) };
  }

  /** The code point that an escape stands for, behind its backslash. */
  character(): number {
    const { length, code } = escapedChar(this.chars, this.at, this.fail);
    this.at += length;
    return code;
  }

  group(): Pattern {
    let of: Pattern;
    const look = LOOKS.find(([text]) => this.starts(text));
    const head = this.chars.slice(this.at, this.at + 64).join('');
    const named = /^\(\?P<[\p{L}_][\p{L}\p{N}_]*>/u.exec(head);
    if (look) {
      this.take(look[0]);
      of = { kind: 'look', of: this.alternatives(), ...look[1] };
    } else if (this.take('(?:')) {
      of = this.alternatives();
    } else {
      const refused = named ? undefined : REFUSED.find(([form]) => form.test(head));
      if (refused) this.fail(`${refused[1]}, '${head.slice(0, 4)}', which is not supported`);
      this.at += named ? [...named[0]].length : 1;
      of = { kind: 'group', of: this.alternatives() };
    }
    if (!this.take(')')) this.fail("a '(' without its ')'");
    return of;
  }

  /** The bounds of a quantifier that stands here, and its length. */
  repetition(): { min: number; max: number; length: number } | undefined {
    const c = this.chars[this.at];
    if (c === '*') return { min: 0, max: Infinity, length: 1 };
    if (c === '+') return { min: 1, max: Infinity, length: 1 };
    if (c === '?') return { min: 0, max: 1, length: 1 };
    if (c !== '{') return undefined;
    // Anything else in braces is text.
    const braces = /^\{(?!\})(\d*)(?:(,)(\d*))?\}/.exec(
      this.chars.slice(this.at, this.at + 32).join(''),
    );
    if (!braces) return undefined;
    const [{ length }, low, comma, high] = braces;
    const min = Number(low);
    const max = comma ? (high ? Number(high) : Infinity) : min;
    if (max < min) this.fail(`'${braces[0]}', whose bounds are the wrong way round`);
    return { min, max, length };
  }

  repeated(of: Pattern): Pattern {
    const bounds = this.repetition();
    if (!bounds) return of;
    if (of.kind === 'at') this.fail('a repeated position');
    this.at += bounds.length;
    // Lazy or not, the same texts match.
    if (!this.take('?') && this.take('+'))
      this.fail('a possessive quantifier, which is not supported');
    if (this.repetition()) this.fail('a quantifier behind a quantifier');
    return { kind: 'repeat', of, min: bounds.min, max: bounds.max };
  }

  set(): Test {
    const negated = this.take('^');
    const tests: Test[] = [];
    for (let first = true; first || !this.starts(']'); first = false) {
      const low = this.member();
      if (this.starts('-') && this.chars[this.at + 1] !== ']') {
        this.at++;
        const high = this.member();
        if (typeof low === 'function' || typeof high === 'function' || high < low)
          this.fail('a range that is none in a set');
        tests.push((c) => c >= low && c <= high);
      } else tests.push(typeof low === 'function' ? low : oneOf(low));
    }
    this.at++;
    return (c) => tests.some((test) => test(c)) !== negated;
  }

  member(): number | Test {
    const c = this.chars[this.at++] ?? this.fail("a '[' without its ']'");
    if (c !== '\\') return c.codePointAt(0)!;
    const next = this.chars[this.at] ?? this.fail("a '[' without its ']'");
    const test = classEscape(next);
    if (!test && next !== 'b') return this.character();
    this.at++;
    return test ?? charEscape.b;
  }
}

/**
 * The tree of a pattern; `fail` is told what it holds that Python or this engine does not take.
 * @internal
 */
export function parsePattern(text: string, fail: (what: string) => never): Pattern {
  if (text.length > MAX_LENGTH) fail(`more than ${MAX_LENGTH} characters`);
  return new Parser(text, fail).whole();
}

/** Whether a pattern has groups that capture. @internal */
export function captures(pattern: Pattern): boolean {
  switch (pattern.kind) {
    case 'group':
      return true;
    case 'sequence':
    case 'either':
      return pattern.of.some(captures);
    case 'repeat':
    case 'look':
      return captures(pattern.of);
    default:
      return false;
  }
}
