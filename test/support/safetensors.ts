/**
 * Reader of .safetensors files: u64 header length, JSON header, little-endian tensor bytes.
 * I64 becomes Float64Array, which is exact up to 2^53 and enough for index tensors.
 */
import { readFileSync } from 'node:fs';
import { sizeOf } from './tensor.ts';

export interface StoredTensor {
  data: Float32Array | Float64Array | Int32Array | Uint16Array | Uint8Array;
  shape: number[];
  dtype: string;
}

export interface SafetensorsFile {
  tensors: Map<string, StoredTensor>;
  metadata: Record<string, string>;
}

interface HeaderEntry {
  dtype: string;
  shape: number[];
  data_offsets: [number, number];
}

const decoders: Record<string, (bytes: ArrayBuffer) => StoredTensor['data']> = {
  F64: (bytes) => new Float64Array(bytes),
  F32: (bytes) => new Float32Array(bytes),
  F16: (bytes) => new Uint16Array(bytes),
  BF16: (bytes) => new Uint16Array(bytes),
  I64: (bytes) => Float64Array.from(new BigInt64Array(bytes), Number),
  I32: (bytes) => new Int32Array(bytes),
  U8: (bytes) => new Uint8Array(bytes),
};

export function readSafetensors(path: string | URL): SafetensorsFile {
  const file = readFileSync(path);
  const headerLength = Number(file.readBigUInt64LE(0));
  const start = 8 + headerLength;
  const header = JSON.parse(file.toString('utf8', 8, start)) as Record<string, unknown>;
  const { __metadata__: metadata = {}, ...entries } = header;
  const tensors = new Map<string, StoredTensor>();
  for (const [name, value] of Object.entries(entries)) {
    const {
      dtype,
      shape,
      data_offsets: [from, to],
    } = value as HeaderEntry;
    const decode = decoders[dtype];
    if (!decode) throw new TypeError(`${path}: ${name} has unsupported dtype ${dtype}`);
    // Copied, because a view into the file need not be aligned to the element size.
    const bytes = Uint8Array.from(file.subarray(start + from, start + to)).buffer;
    const data = decode(bytes);
    if (data.length !== sizeOf(shape)) throw new RangeError(`${path}: ${name} is cut short`);
    tensors.set(name, { data, shape, dtype });
  }
  return { tensors, metadata: metadata as Record<string, string> };
}
