// JSON by tokens. JSON.parse keeps the last of several equal keys, takes any number, and any depth.

const NUMBER = /-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?/y;
const WORD = /true|false|null/y;
/** Deeper than any file of ours, and far from the end of the stack. */
const MAX_DEPTH = 64;
/** Longer slices would be views that keep the whole text. */
const SHORT = 12;

/** A text from a file, as an error message shows it. @internal */
export function quote(text: string): string {
  return JSON.stringify(text.length > 200 ? `${text.slice(0, 200)}...` : text);
}

/** Reads a text from its start, one token after the other; `fail` is told what is wrong with it. @internal */
export class JsonScanner {
  #at = 0;

  constructor(
    private readonly text: string,
    private readonly fail: (what: string) => never,
  ) {}

  /** The next character that is no white space; empty at the end. */
  peek(): string {
    for (;;) {
      const c = this.text.charCodeAt(this.#at);
      if (c !== 32 && c !== 10 && c !== 13 && c !== 9) return this.text.charAt(this.#at);
      this.#at++;
    }
  }

  /** Whether the next character is this one, which is then read. */
  take(character: string): boolean {
    if (this.peek() !== character) return false;
    this.#at++;
    return true;
  }

  expect(character: string): void {
    if (!this.take(character)) this.#unexpected(`'${character}'`);
  }

  string(): string {
    if (this.peek() !== '"') this.#unexpected('a string');
    const start = this.#at;
    let end = start + 1;
    let plain = true;
    for (;;) {
      const c = this.text.charCodeAt(end);
      if (c === 34) break;
      if (c === 92 || c < 32 || c > 0xd7ff) plain = false;
      if (Number.isNaN(c)) this.fail(`a string at character ${start} has no end`);
      end += c === 92 ? 2 : 1;
    }
    this.#at = end + 1;
    if (plain && end - start <= SHORT) return this.text.slice(start + 1, end);
    let value: string;
    try {
      value = JSON.parse(this.text.slice(start, this.#at));
    } catch {
      this.fail(`expected a JSON string at character ${start}`);
    }
    if (!plain && /\p{Cs}/u.test(value))
      this.fail(`a string at character ${start} has half a surrogate pair`);
    return value;
  }

  /** A non-negative integer that a double holds. */
  integer(): number {
    const text = this.#match(NUMBER);
    if (text === undefined) this.#unexpected('a number');
    const value = Number(text);
    if (!/^\d+$/.test(text) || !Number.isSafeInteger(value))
      this.fail(`expected an integer from 0 to 2^53 - 1, got ${text.slice(0, 40)}`);
    return value;
  }

  /** Calls `entry` for each key of an object, which then reads its value. */
  object(what: string, entry: (key: string) => void): void {
    this.expect('{');
    const seen = new Set<string>();
    if (this.take('}')) return;
    do {
      const key = this.string();
      if (seen.has(key)) this.fail(`${what} has the key ${quote(key)} twice`);
      seen.add(key);
      this.expect(':');
      entry(key);
    } while (this.take(','));
    this.expect('}');
  }

  /** Calls `element` for each element of an array, which then reads it. */
  array(element: () => void): void {
    this.expect('[');
    if (this.take(']')) return;
    do element();
    while (this.take(','));
    this.expect(']');
  }

  /** Any value, checked and passed over. */
  skip(depth = 0): void {
    if (depth > MAX_DEPTH) this.fail(`nested deeper than ${MAX_DEPTH}`);
    const next = this.peek();
    if (next === '{') this.object('an object', () => this.skip(depth + 1));
    else if (next === '[') this.array(() => this.skip(depth + 1));
    else if (next === '"') this.string();
    else if (this.#match(WORD) === undefined && this.#match(NUMBER) === undefined)
      this.#unexpected('a JSON value');
  }

  end(): void {
    if (this.peek() !== '') this.#unexpected('nothing more');
  }

  #match(pattern: RegExp): string | undefined {
    this.peek();
    pattern.lastIndex = this.#at;
    const found = pattern.exec(this.text)?.[0];
    this.#at += found?.length ?? 0;
    return found;
  }

  #unexpected(wanted: string): never {
    const got = this.peek();
    this.fail(`expected ${wanted} at character ${this.#at}, got ${got ? quote(got) : 'its end'}`);
  }
}

const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

/** Bytes as text; undefined where they are not UTF-8. A byte order mark stays. @internal */
export function decodeUtf8(bytes: Uint8Array): string | undefined {
  try {
    return utf8.decode(bytes);
  } catch {
    return undefined;
  }
}

/**
 * A JSON text as its value: syntax, depth and equal keys checked first. As with JSON.parse, a key `__proto__` is one
 * like any other.
 * @internal
 */
export function parseJson(text: string, fail: (what: string) => never): unknown {
  const scanner = new JsonScanner(text, fail);
  scanner.skip();
  scanner.end();
  return JSON.parse(text);
}
