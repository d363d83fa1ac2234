import { types } from 'node:util';
import { rangeError, show, typeError, unknownKey } from '../errors';
import type { Float16Tensor } from '../types';
import {
  fromFileOrder,
  inFileOrder,
  kindOf,
  type StoredDType,
  type StoredKind,
  type StoredTensor,
} from './dtypes';
import {
  allocate,
  pathOf,
  type Reading,
  read,
  readBytes,
  readSync,
  write,
  writeSync,
} from './files';
import { buildHeader, type Fail, headerLength, LENGTH_BYTES, parseHeader } from './header';
import { quote } from './json';
import type { FileUrl } from './types';

/** What {@link readSafetensors} returns. */
export interface SafetensorsFile {
  /** By name, in the order of their bytes. */
  tensors: Map<string, StoredTensor>;
  /** The file's `__metadata__`, empty where it has none. */
  metadata: Record<string, string>;
}

/** Options of {@link readSafetensors}. */
export interface ReadSafetensorsOptions {
  /** Which tensors to read; default all. The whole header is checked in any case, the others' bytes are not touched. */
  filter?: (name: string, info: { dtype: StoredDType; shape: readonly number[] }) => boolean;
}

/** A tensor that {@link writeSafetensors} takes. */
export type WritableTensor =
  | {
      readonly [D in StoredDType]: {
        readonly data: StoredTensor<D>['data'];
        readonly shape: readonly number[];
        readonly dtype: D;
      };
    }[StoredDType]
  | { readonly data: DefaultArrays; readonly shape: readonly number[]; readonly dtype?: undefined }
  | Float16Tensor;

/** Arrays that say by themselves what they hold; a Uint16Array needs a dtype. */
type DefaultArrays =
  | Float32Array
  | Float64Array
  | Int32Array
  | Int16Array
  | Int8Array
  | Uint32Array
  | Uint8Array
  | BigInt64Array
  | BigUint64Array;

/** Tensors by name, as {@link writeSafetensors} takes them. */
export type NamedTensors =
  | ReadonlyMap<string, WritableTensor>
  | { readonly [name: string]: WritableTensor };

const READ = 'readSafetensors';
const WRITE = 'writeSafetensors';

/** @internal */
export function failIn(operation: string, file: string): Fail {
  return (key, what) => {
    throw rangeError(operation, `${file}: ${key === undefined ? '' : `${quote(key)}: `}${what}`);
  };
}

/** @internal */
export function* readingSafetensors(
  operation: string,
  file: string,
  size: number,
  filter?: ReadSafetensorsOptions['filter'],
): Reading<SafetensorsFile> {
  const fail = failIn(operation, file);
  if (size < LENGTH_BYTES)
    fail(undefined, `expected a header length of ${LENGTH_BYTES} bytes, got a file of ${size}`);
  const prefix = allocate(operation, file, LENGTH_BYTES);
  yield { into: prefix, at: 0 };
  const length = headerLength(prefix, size, fail);
  const text = allocate(operation, file, length);
  yield { into: text, at: LENGTH_BYTES };
  const start = LENGTH_BYTES + length;
  const { entries, metadata } = parseHeader(text, size - start, fail);
  const tensors = new Map<string, StoredTensor>();
  for (const { name, kind, shape, begin, end } of entries) {
    if (filter && !filter(name, { dtype: kind.dtype, shape: [...shape] })) continue;
    const bytes = allocate(operation, `${file}: ${quote(name)}`, end - begin);
    yield { into: bytes, at: start + begin };
    fromFileOrder(bytes, kind);
    const data = new kind.array(bytes.buffer as ArrayBuffer);
    tensors.set(name, { data, shape, dtype: kind.dtype } as StoredTensor);
  }
  return { tensors, metadata };
}

function filterOf(options: ReadSafetensorsOptions | undefined): ReadSafetensorsOptions['filter'] {
  if (options === undefined) return undefined;
  if (typeof options !== 'object' || options === null)
    throw typeError(READ, `options: expected an object, got ${show(options)}`);
  for (const key in options)
    if (key !== 'filter') throw unknownKey(READ, 'an option', key, ['filter']);
  const { filter } = options;
  if (filter !== undefined && typeof filter !== 'function')
    throw typeError(READ, `filter: expected a function, got ${show(filter)}`);
  return filter;
}

/**
 * Reads a .safetensors file. Each tensor gets memory of its own, bf16 and f16 as bit patterns in a Uint16Array. The
 * header is checked before anything is allocated by it: tensors cover the bytes behind it without gap or overlap.
 *
 * @param file a path, a file: URL, or the bytes of a file
 * @throws (rejects) TypeError for a wrong argument; RangeError that names the file and the tensor for a file that is cut
 * off or malformed, and where there is no memory; the system's errors
 *
 * @example
 * const { tensors } = await readSafetensors('model.safetensors');
 * const { data, shape, dtype } = tensors.get('lm_head.weight')!;
 */
export async function readSafetensors(
  file: string | FileUrl | Uint8Array,
  options?: ReadSafetensorsOptions,
): Promise<SafetensorsFile> {
  if (types.isUint8Array(file)) return readSafetensorsSync(file, options);
  const filter = filterOf(options);
  const name = pathOf(READ, 'file', file, ', or bytes');
  return read(READ, name, (size) => readingSafetensors(READ, name, size, filter));
}

/**
 * {@link readSafetensors} on the caller's thread.
 * @throws the same errors, synchronously
 */
export function readSafetensorsSync(
  file: string | FileUrl | Uint8Array,
  options?: ReadSafetensorsOptions,
): SafetensorsFile {
  const filter = filterOf(options);
  if (types.isUint8Array(file))
    return readBytes(READ, file, (size) => readingSafetensors(READ, 'the bytes', size, filter));
  const name = pathOf(READ, 'file', file, ', or bytes');
  return readSync(READ, name, (size) => readingSafetensors(READ, name, size, filter));
}

interface Planned {
  name: string;
  kind: StoredKind;
  shape: number[];
  /** Its numbers as a file has them. */
  content: Uint8Array;
  bytes: number;
}

/** @internal */
export function plannedTensor(operation: string, name: string, value: any): Planned {
  const key = quote(name);
  if (name === '__metadata__' || /\p{Cs}/u.test(name))
    throw rangeError(operation, `${key}: expected another name, got one that no file can hold`);
  if (typeof value !== 'object' || value === null)
    throw typeError(
      operation,
      `${key}: expected a tensor {data, shape, dtype}, got ${show(value)}`,
    );
  const { data, dtype, shape: given } = value;
  const kind = kindOf(data, dtype);
  if (!kind)
    throw typeError(
      operation,
      `${key}: expected a typed array and its dtype, got ${show(data)} with dtype ${show(dtype)}`,
    );
  if (!Array.isArray(given))
    throw typeError(operation, `${key}: expected a shape, got ${show(given)}`);
  const shape: number[] = [...given];
  for (const d of shape)
    if (!Number.isSafeInteger(d) || d < 0)
      throw rangeError(
        operation,
        `${key}: expected a shape of non-negative integers, got ${show(d)}`,
      );
  const bytes = shape.reduce((a, b) => a * b, kind.bytes);
  const content = inFileOrder(data, kind);
  if (bytes !== content.length)
    throw rangeError(
      operation,
      `${key}: expected ${bytes} bytes of ${kind.dtype} [${shape}], got ${content.length}`,
    );
  return { name, kind, shape: shape.map((d) => d + 0), content, bytes };
}

function metadataOf(operation: string, metadata: unknown): Record<string, string> | undefined {
  if (metadata === undefined) return undefined;
  if (typeof metadata !== 'object' || metadata === null)
    throw typeError(operation, `metadata: expected an object of strings, got ${show(metadata)}`);
  const entries = Object.entries(metadata);
  for (const [key, value] of entries) {
    if (typeof value !== 'string')
      throw typeError(operation, `metadata: ${quote(key)}: expected a string, got ${show(value)}`);
    if (/\p{Cs}/u.test(key + value))
      throw rangeError(
        operation,
        `metadata: ${quote(key)}: expected text, got half a surrogate pair`,
      );
  }
  return Object.fromEntries(entries);
}

/** The bytes of a file, in parts: its header, then each tensor's memory. @internal */
export function safetensorsParts(
  operation: string,
  file: string,
  tensors: unknown,
  metadata: unknown,
): Uint8Array[] {
  if (typeof tensors !== 'object' || tensors === null)
    throw typeError(operation, `tensors: expected tensors by name, got ${show(tensors)}`);
  const entries: [unknown, unknown][] = types.isMap(tensors)
    ? [...tensors]
    : Object.entries(tensors);
  const planned = entries.map(([name, value]) => {
    if (typeof name !== 'string')
      throw typeError(operation, `tensors: expected names that are strings, got ${show(name)}`);
    return plannedTensor(operation, name, value);
  });
  const text = metadataOf(operation, metadata);
  // Wide elements first: each tensor is aligned to its elements. As the format's own writer has it.
  planned.sort((a, b) => b.kind.order - a.kind.order || (a.name < b.name ? -1 : 1));
  const header = buildHeader(planned, text, failIn(operation, file));
  return [header, ...planned.map(({ content }) => content)];
}

/**
 * Writes a .safetensors file: beside its place first, then renamed, so that no reader sees half of one. Tensors are
 * aligned to their elements, and the same tensors and metadata give the same bytes.
 *
 * @param tensors by name; arrays without a dtype are what they look like, a Uint16Array needs `'bf16'`, `'f16'` or `'u16'`
 * @param metadata strings by name, for `__metadata__`
 * @throws (rejects) TypeError or RangeError that names the tensor; the system's errors. Arrays must stay as they are until
 * then.
 */
export async function writeSafetensors(
  file: string | FileUrl,
  tensors: NamedTensors,
  metadata?: Readonly<Record<string, string>>,
): Promise<void> {
  const name = pathOf(WRITE, 'file', file);
  await write(WRITE, name, safetensorsParts(WRITE, name, tensors, metadata));
}

/**
 * {@link writeSafetensors} on the caller's thread.
 * @throws the same errors, synchronously
 */
export function writeSafetensorsSync(
  file: string | FileUrl,
  tensors: NamedTensors,
  metadata?: Readonly<Record<string, string>>,
): void {
  const name = pathOf(WRITE, 'file', file);
  writeSync(name, safetensorsParts(WRITE, name, tensors, metadata));
}
