// Valid files, changed at random: in their bytes, in their header's length, and in the words of their header.
import type { Random } from '../support/random';

/** Numbers and texts that readers stumble over. */
const TOKENS = [
  '0',
  '-0',
  '-1',
  '1.5',
  '1e3',
  '00',
  '4',
  '9007199254740991',
  '9007199254740992',
  '18446744073709551615',
  '1e400',
  'null',
  'true',
  'NaN',
  '""',
  '"F32"',
  '"BF16"',
  '"I64"',
  '"x"',
  '"__metadata__"',
  '"__proto__"',
  '"dtype"',
  '"\\ud800"',
  '"\\u0078"',
  '{}',
  '[]',
  '[0,4]',
  '{"dtype":"F32","shape":[1],"data_offsets":[0,4]}',
  '"x":{"dtype":"F32","shape":[],"data_offsets":[0,4]},',
  '[[[[[[[[[[',
  '{"a":{"a":{"a":',
  ',',
  ':',
  '}',
  ']',
  '\u00a0',
  '\ufeff',
];

const LENGTHS = [0n, 1n, 2n, 7n, 8n, 2n ** 31n, 2n ** 32n, 2n ** 53n, 2n ** 63n, 2n ** 64n - 1n];

function pick<T>(random: Random, values: readonly T[]): T {
  return values[random.integer(values.length)];
}

/** A part of `bytes` in the place of another. */
function splice(bytes: Buffer, at: number, remove: number, insert: Uint8Array): Buffer {
  return Buffer.concat([bytes.subarray(0, at), insert, bytes.subarray(at + remove)]);
}

function mutateBytes(random: Random, bytes: Buffer): Buffer {
  const at = random.integer(bytes.length + 1);
  const some = random.integer(9);
  switch (random.integer(6)) {
    case 0: {
      const copy = Buffer.from(bytes);
      if (at < copy.length) copy[at] ^= 1 << random.integer(8);
      return copy;
    }
    case 1: {
      const copy = Buffer.from(bytes);
      if (at < copy.length) copy[at] = random.integer(256);
      return copy;
    }
    case 2:
      return bytes.subarray(0, at);
    case 3:
      return splice(bytes, at, some, Buffer.alloc(0));
    case 4:
      return splice(bytes, at, 0, Buffer.alloc(some, random.integer(256)));
    default: {
      const from = random.integer(bytes.length + 1);
      return splice(bytes, at, 0, bytes.subarray(from, from + some * 8));
    }
  }
}

/** One tensor's bytes elsewhere. */
function moveTensor(random: Random, text: string): string {
  const by = pick(random, [-8, -4, -2, -1, 1, 2, 4, 8, 2 ** 40]);
  const places = [...text.matchAll(/\[(\d+),(\d+)\]\}/g)];
  if (places.length === 0) return text;
  const { 0: whole, 1: from, 2: to, index } = pick(random, places);
  const moved = `[${Number(from) + by},${Number(to) + by}]}`;
  return text.slice(0, index) + moved + text.slice(index + whole.length);
}

/** The words of a text: numbers, strings, and single characters. */
export function mutateText(random: Random, text: string): string {
  const words = text.match(/"(?:[^"\\]|\\.)*"|-?[\d.eE+]+|[\s\S]/g) ?? [];
  const at = random.integer(words.length + 1);
  const before = words.slice(0, at).join('');
  const after = words.slice(at + random.integer(3)).join('');
  if (random.integer(4) === 0) {
    const from = random.integer(words.length + 1);
    return before + words.slice(from, from + 1 + random.integer(12)).join('') + after;
  }
  return before + pick(random, TOKENS) + after;
}

/** A file whose header holds this text, its length set right. */
function withHeader(bytes: Buffer, start: number, text: string): Buffer {
  const header = Buffer.from(text);
  const prefix = Buffer.alloc(8);
  prefix.writeBigUInt64LE(BigInt(header.length));
  return Buffer.concat([prefix, header, bytes.subarray(start)]);
}

/** A valid file with one change, or a few. */
export function mutateFile(random: Random, valid: Uint8Array): Uint8Array {
  let bytes: Buffer = Buffer.from(valid);
  for (let i = random.integer(2) || 1 + random.integer(4); i > 0; i--) {
    const length = bytes.length >= 8 ? bytes.readBigUInt64LE(0) : 0n;
    const start = 8 + Number(length);
    const kind = random.integer(6);
    if (kind < 3 && bytes.length >= 8 && start <= bytes.length) {
      const text = bytes.toString('utf8', 8, start);
      const change = random.integer(4) ? mutateText : moveTensor;
      bytes = withHeader(bytes, start, change(random, text));
    } else if (kind === 3 && bytes.length >= 8) {
      bytes = Buffer.from(bytes);
      const near = BigInt.asUintN(64, length + BigInt(random.integer(33) - 16));
      bytes.writeBigUInt64LE(random.integer(2) ? near : pick(random, LENGTHS));
    } else {
      bytes = mutateBytes(random, bytes);
    }
  }
  return Uint8Array.from(bytes);
}
