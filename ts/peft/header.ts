// The header of a .safetensors file: u64 length, then JSON
//   {"__metadata__": {string: string}, NAME: {"dtype": D, "shape": [...], "data_offsets": [begin, end]}, ...}
// and the tensors' bytes behind it, which must be covered exactly once.
import { kindNamed, STORED_NAMES, type StoredKind } from './dtypes';
import { decodeUtf8, JsonScanner, quote } from './json';

/** Bytes before the header. @internal */
export const LENGTH_BYTES = 8;
/** As the format's own implementation has it. @internal */
export const MAX_HEADER = 100_000_000;
/** As the array libraries that write such files have it. */
const MAX_DIMENSIONS = 64;
const METADATA = '__metadata__';
const FIELDS = ['dtype', 'shape', 'data_offsets'];

/** A tensor's place in a file. @internal */
export interface HeaderEntry {
  name: string;
  kind: StoredKind;
  shape: number[];
  /** Offsets behind the header. */
  begin: number;
  end: number;
}

/** @internal */
export interface Header {
  /** By offset. */
  entries: HeaderEntry[];
  metadata: Record<string, string>;
}

/** Says what is wrong, and with which key. @internal */
export type Fail = (key: string | undefined, what: string) => never;

/** The length of the header of a file of `size` bytes, from its first eight. @internal */
export function headerLength(bytes: Uint8Array, size: number, fail: Fail): number {
  const view = new DataView(bytes.buffer, bytes.byteOffset, LENGTH_BYTES);
  const length = view.getBigUint64(0, true);
  if (length > BigInt(MAX_HEADER))
    fail(undefined, `expected a header of at most ${MAX_HEADER} bytes, got a length of ${length}`);
  if (length > BigInt(size - LENGTH_BYTES))
    fail(undefined, `expected a header of ${length} bytes, got a file of ${size}: it is cut off`);
  return Number(length);
}

/** Reads and checks a header in front of `dataBytes` bytes of tensors. @internal */
export function parseHeader(bytes: Uint8Array, dataBytes: number, fail: Fail): Header {
  const text = decodeUtf8(bytes);
  if (text === undefined) fail(undefined, 'expected a header in UTF-8, got other bytes');
  if (text[0] !== '{')
    fail(undefined, `expected a header that begins with '{', got ${quote(text.slice(0, 1))}`);
  let inside: string | undefined;
  const scanner = new JsonScanner(text, (what) => fail(inside, what));
  const entries: HeaderEntry[] = [];
  const metadata = new Map<string, string>();
  scanner.object('the header', (name) => {
    inside = name;
    if (name === METADATA) scanner.object(METADATA, (key) => metadata.set(key, scanner.string()));
    else entries.push(parseEntry(scanner, name, fail));
    inside = undefined;
  });
  scanner.end();
  entries.sort((a, b) => a.begin - b.begin || a.end - b.end);
  checkCover(entries, dataBytes, fail);
  return { entries, metadata: Object.fromEntries(metadata) };
}

function parseEntry(scanner: JsonScanner, name: string, fail: Fail): HeaderEntry {
  let dtype: string | undefined;
  let shape: number[] | undefined;
  let offsets: number[] | undefined;
  const integers = (what: string, most: number): number[] => {
    const numbers: number[] = [];
    scanner.array(() => {
      if (numbers.length === most)
        fail(name, `expected at most ${most} numbers in ${what}, got more`);
      numbers.push(scanner.integer());
    });
    return numbers;
  };
  scanner.object(quote(name), (field) => {
    if (field === 'dtype') dtype = scanner.string();
    else if (field === 'shape') shape = integers('shape', MAX_DIMENSIONS);
    else if (field === 'data_offsets') offsets = integers('data_offsets', 2);
    else fail(name, `expected ${FIELDS.join(', ')}, got ${quote(field)}`);
  });
  if (dtype === undefined || !shape || !offsets)
    fail(name, `expected ${FIELDS.join(', ')}, got less`);
  const kind = kindNamed(dtype);
  if (!kind) fail(name, `expected one of the dtypes ${STORED_NAMES}, got ${quote(dtype)}`);
  if (offsets.length !== 2) fail(name, `expected two data_offsets, got ${offsets.length}`);
  const [begin, end] = offsets;
  const size = shape.reduce((a, b) => a * b, kind.bytes);
  if (!Number.isSafeInteger(size))
    fail(name, `expected a shape of less than 2^53 bytes, got [${shape}]`);
  if (end - begin !== size)
    fail(name, `expected ${size} bytes of ${dtype} [${shape}], got data_offsets [${offsets}]`);
  return { name, kind, shape, begin, end };
}

/** No gap and no overlap: bytes that no tensor owns could be anything. */
function checkCover(entries: HeaderEntry[], dataBytes: number, fail: Fail): void {
  let covered = 0;
  for (const { name, begin, end } of entries) {
    if (begin > covered)
      fail(
        name,
        `expected it to begin at byte ${covered}, got ${begin}: a gap that no tensor owns`,
      );
    if (begin < covered)
      fail(
        name,
        `expected it to begin at byte ${covered}, got ${begin}: it overlaps another tensor`,
      );
    if (end > dataBytes)
      fail(name, `expected it to end within ${dataBytes} bytes, got ${end}: the file is cut off`);
    covered = end;
  }
  if (covered !== dataBytes)
    fail(undefined, `expected ${covered} bytes behind the header, got ${dataBytes}`);
}

/** A header of these tensors, laid out one after the other, padded so that what follows is aligned. @internal */
export function buildHeader(
  tensors: readonly { name: string; kind: StoredKind; shape: readonly number[]; bytes: number }[],
  metadata: Readonly<Record<string, string>> | undefined,
  fail: Fail,
): Uint8Array {
  const parts: string[] = [];
  if (metadata) parts.push(`"${METADATA}":${JSON.stringify(metadata)}`);
  let at = 0;
  for (const { name, kind, shape, bytes } of tensors) {
    const entry = { dtype: kind.name, shape, data_offsets: [at, at + bytes] };
    parts.push(`${JSON.stringify(name)}:${JSON.stringify(entry)}`);
    at += bytes;
  }
  const text = Buffer.from(`{${parts.join()}}`);
  const length = Math.ceil(text.length / LENGTH_BYTES) * LENGTH_BYTES;
  if (length > MAX_HEADER)
    fail(undefined, `expected a header of at most ${MAX_HEADER} bytes, got ${length}`);
  const bytes = new Uint8Array(LENGTH_BYTES + length).fill(0x20);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(length), true);
  bytes.set(text, LENGTH_BYTES);
  return bytes;
}
