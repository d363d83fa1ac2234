import { readFileSync, writeFileSync } from 'node:fs';
import type { Parameters } from './parameters.ts';

/*
 * The safetensors format: u64 length of the header, a JSON header {name: {dtype, shape, data_offsets}, __metadata__},
 * and the tensors' bytes, little-endian, one after the other.
 */

interface Entry {
  dtype: string;
  shape: number[];
  data_offsets: [number, number];
}

export interface Checkpoint {
  metadata: Record<string, string>;
  /** The tensors by name, as raw bytes of float32. */
  tensors: Map<string, { shape: number[]; bytes: Buffer }>;
}

function bytesOf(data: Float32Array): Buffer {
  return Buffer.from(data.buffer, data.byteOffset, data.byteLength);
}

export function saveCheckpoint(
  path: string,
  parameters: Parameters,
  metadata: Record<string, string>,
): void {
  const header: Record<string, unknown> = { __metadata__: metadata };
  let offset = 0;
  for (const { name, value } of parameters.list) {
    const end = offset + value.data.byteLength;
    const entry: Entry = { dtype: 'F32', shape: [...value.shape], data_offsets: [offset, end] };
    header[name] = entry;
    offset = end;
  }
  const text = Buffer.from(JSON.stringify(header));
  // Spaces at the end of the header are allowed, and align the tensors.
  const padded = Buffer.concat([text, Buffer.alloc((8 - (text.length % 8)) % 8, ' ')]);
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(padded.length));
  writeFileSync(
    path,
    Buffer.concat([length, padded, ...parameters.list.map((p) => bytesOf(p.value.data))]),
  );
}

export function readCheckpoint(path: string): Checkpoint {
  const file = readFileSync(path);
  const start = file.length >= 8 ? 8 + Number(file.readBigUInt64LE(0)) : Number.NaN;
  if (!(start <= file.length)) throw new Error(`${path}: not a safetensors file`);
  const { __metadata__: metadata = {}, ...entries } = JSON.parse(file.toString('utf8', 8, start));
  const tensors: Checkpoint['tensors'] = new Map();
  for (const [name, { dtype, shape, data_offsets }] of Object.entries<Entry>(entries)) {
    if (dtype !== 'F32') throw new Error(`${path}: ${name} is ${dtype}, expected F32`);
    const [from, to] = data_offsets;
    tensors.set(name, { shape, bytes: file.subarray(start + from, start + to) });
  }
  return { metadata, tensors };
}

/** Overwrites the parameters with a checkpoint's; names and shapes must be the same. */
export function restore(parameters: Parameters, { tensors }: Checkpoint): void {
  for (const { name, value } of parameters.list) {
    const stored = tensors.get(name);
    if (!stored) throw new Error(`the checkpoint has no ${name}`);
    const fits =
      stored.shape.join() === value.shape.join() && stored.bytes.length === value.data.byteLength;
    if (!fits) {
      throw new Error(`${name}: expected shape [${value.shape}], the file has [${stored.shape}]`);
    }
  }
  if (tensors.size !== parameters.list.length) {
    throw new Error(`the checkpoint has ${tensors.size} tensors, not ${parameters.list.length}`);
  }
  for (const { name, value } of parameters.list) {
    bytesOf(value.data).set(tensors.get(name)!.bytes);
  }
}
