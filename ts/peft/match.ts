// Where a pattern can end, for all its starts at once: sets of positions through the tree, no backtracking.
import { isWord, type Test } from './characters';
import type { Pattern } from './pattern';

/** Names of modules are short; a pattern that needs more than this was made to take long. */
const MAX_STEPS = 5_000_000;

/** Positions in a text, ascending. */
type Positions = readonly number[];

/** A text that patterns are held against; `fail` is called where one takes too long. @internal */
export class Subject {
  readonly #chars: number[];
  #steps = 0;

  constructor(
    text: string,
    private readonly fail: () => never,
  ) {
    this.#chars = [...text].map((c) => c.codePointAt(0)!);
  }

  /** Every end of a match that begins at `start`. */
  endsFrom(pattern: Pattern, start: number): Positions {
    this.#steps = 0;
    return this.#ends(pattern, [start]);
  }

  /** As Python's re.match: from the start, and to any end. */
  begins(pattern: Pattern): boolean {
    return this.endsFrom(pattern, 0).length > 0;
  }

  /** As Python's re.fullmatch. */
  fits(pattern: Pattern): boolean {
    return this.endsFrom(pattern, 0).includes(this.#chars.length);
  }

  /** As Python's re.match of `(.*\.)?(PATTERN)$`: a whole name, or its end behind a full stop. */
  endsWith(pattern: Pattern): boolean {
    this.#steps = 0;
    const last: Pattern = { kind: 'at', where: 'last' };
    return this.#ends(last, this.#ends(pattern, this.#behindStops())).length > 0;
  }

  #behindStops(): Positions {
    const starts = [0];
    for (const [p, c] of this.#chars.entries()) {
      if (c === 10) break; // which `.` does not pass
      if (c === 46) starts.push(p + 1);
    }
    return starts;
  }

  #ends(pattern: Pattern, starts: Positions): Positions {
    this.#steps += starts.length + 1;
    if (this.#steps > MAX_STEPS) this.fail();
    if (starts.length === 0) return starts;
    switch (pattern.kind) {
      case 'one': {
        const ends: number[] = [];
        for (const p of starts)
          if (p < this.#chars.length && pattern.test(this.#chars[p])) ends.push(p + 1);
        return ends;
      }
      case 'sequence': {
        let ends = starts;
        for (const part of pattern.of) ends = this.#ends(part, ends);
        return ends;
      }
      case 'either':
        return union(pattern.of.map((part) => this.#ends(part, starts)));
      case 'group':
        return this.#ends(pattern.of, starts);
      case 'repeat':
        return this.#repeat(pattern.of, pattern.min, pattern.max, starts);
      case 'at':
        return starts.filter((p) => this.#at(pattern.where, p));
      case 'look':
        return starts.filter((p) => {
          const from = pattern.behind ? Array.from({ length: p + 1 }, (_, i) => i) : [p];
          const found = pattern.behind
            ? from.some((q) => this.#ends(pattern.of, [q]).includes(p))
            : this.#ends(pattern.of, from).length > 0;
          return found === pattern.wanted;
        });
    }
  }

  #repeat(of: Pattern, min: number, max: number, starts: Positions): Positions {
    let now = starts;
    for (let i = 0; i < min && now.length > 0; i++) {
      const next = this.#ends(of, now);
      // Once a turn changes nothing, no further one does.
      if (next.length === now.length && next.every((p, j) => p === now[j])) break;
      now = next;
    }
    if (of.kind === 'one' && max === Infinity) return this.#run(of.test, now);
    const all = new Set(now);
    for (let i = min; i < max && now.length > 0; i++) {
      now = this.#ends(of, now).filter((p) => !all.has(p));
      for (const p of now) all.add(p);
    }
    return [...all].sort((a, b) => a - b);
  }

  /** These, and all that a run of such characters reaches from them. */
  #run(test: Test, starts: Positions): Positions {
    const all: number[] = [];
    let next = 0;
    for (let p = starts[0] ?? this.#chars.length + 1; p <= this.#chars.length; p++) {
      if (p === starts[next]) next++;
      else if (all[all.length - 1] !== p - 1 || !test(this.#chars[p - 1])) {
        if (next === starts.length) break;
        continue;
      }
      all.push(p);
    }
    this.#steps += all.length;
    return all;
  }

  #at(where: (Pattern & { kind: 'at' })['where'], p: number): boolean {
    const { length } = this.#chars;
    if (where === 'start') return p === 0;
    if (where === 'end') return p === length;
    // Python's $ stands before a line feed at the end too.
    if (where === 'last') return p === length || (p === length - 1 && this.#chars[p] === 10);
    const before = p > 0 && isWord(this.#chars[p - 1]);
    const behind = p < length && isWord(this.#chars[p]);
    return (before !== behind) === (where === 'boundary');
  }
}

function union(sets: Positions[]): Positions {
  if (sets.length === 1) return sets[0];
  return [...new Set(sets.flat())].sort((a, b) => a - b);
}
