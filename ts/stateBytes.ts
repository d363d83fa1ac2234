// A state as bytes, little-endian whatever the machine:
//    0  magic "RK1STATE"
//    8  u32 version
//   12  u32 CRC-32 of all that follows
//   16  u32 batch, valueHeads, keyDim, valueDim, keyHeads (0 where there is no z)
//   36  f32 state [N,HV,K,V], then z [N,H,K]
import { types } from 'node:util';
import { rangeError, show, typeError } from './errors';

const OPERATION = 'deserializeState';
const MAGIC = 'RK1STATE';
const VERSION = 1;
const CHECKED = 16;
const HEADER = 36;
const DIMENSIONS = ['batch', 'valueHeads', 'keyDim', 'valueDim', 'keyHeads'] as const;

/** The bytes of a state and its numbers in them. @internal */
export interface StateBytes {
  /** batch, valueHeads, keyDim, valueDim, keyHeads */
  dims: readonly number[];
  bytes: Uint8Array;
  state: Float32Array;
  z: Float32Array | undefined;
}

// CRC_TABLES[i]: the remainder of a byte that i zero bytes follow.
const CRC_TABLES = [
  new Int32Array(256),
  new Int32Array(256),
  new Int32Array(256),
  new Int32Array(256),
];
for (let byte = 0; byte < 256; byte++) {
  let rest = byte;
  for (const table of CRC_TABLES) {
    for (let bit = 0; bit < 8; bit++) rest = rest & 1 ? (rest >>> 1) ^ 0xedb88320 : rest >>> 1;
    table[byte] = rest;
  }
}

/** CRC-32 of whole words, by four bytes at a time. zlib.crc32 is younger than Node 20. */
function crc32({ buffer }: Uint8Array, from: number): number {
  const [t0, t1, t2, t3] = CRC_TABLES;
  const view = new DataView(buffer);
  let crc = -1;
  for (let at = from; at < view.byteLength; at += 4) {
    crc ^= view.getInt32(at, true);
    crc = t3[crc & 255] ^ t2[(crc >>> 8) & 255] ^ t1[(crc >>> 16) & 255] ^ t0[crc >>> 24];
  }
  return ~crc >>> 0;
}

function sizeOf([n, hv, k, v, h]: readonly number[]): { state: number; z: number; bytes: number } {
  const state = n * hv * k * v;
  const z = n * h * k;
  return { state, z, bytes: HEADER + 4 * (state + z) };
}

function numbersIn(bytes: Uint8Array, dims: readonly number[]): StateBytes {
  const { state, z } = sizeOf(dims);
  return {
    dims,
    bytes,
    state: new Float32Array(bytes.buffer, HEADER, state),
    z: z > 0 ? new Float32Array(bytes.buffer, HEADER + 4 * state, z) : undefined,
  };
}

/** The numbers' words from this machine's order to the format's, or back, which is the same. */
function reorder({ buffer }: Uint8Array): void {
  const words = new Uint32Array(buffer, HEADER);
  const view = new DataView(buffer, HEADER);
  for (let i = 0; i < words.length; i++) words[i] = view.getUint32(4 * i, true);
}

/**
 * Memory for a state and z of these dimensions, to be filled with their numbers and then sealed.
 * @throws RangeError when there is none
 * @internal
 */
export function stateBytes(operation: string, dims: readonly number[]): StateBytes {
  const size = sizeOf(dims).bytes;
  try {
    return numbersIn(new Uint8Array(size), dims);
  } catch {
    throw rangeError(operation, `out of memory for ${size} bytes`);
  }
}

/** The format of what stateBytes() made; its numbers are in the format's order then. @internal */
export function seal({ bytes, dims }: StateBytes): Uint8Array {
  reorder(bytes);
  const view = new DataView(bytes.buffer);
  for (let i = 0; i < MAGIC.length; i++) bytes[i] = MAGIC.charCodeAt(i);
  view.setUint32(8, VERSION, true);
  dims.forEach((d, i) => {
    view.setUint32(CHECKED + 4 * i, d, true);
  });
  view.setUint32(12, crc32(bytes, CHECKED), true);
  return bytes;
}

// Checks and numbers are of the same copy, which nobody else can change or resize.
function copyOf(bytes: unknown): Uint8Array {
  if (!types.isUint8Array(bytes))
    throw typeError(OPERATION, `bytes: expected a Uint8Array, got ${show(bytes)}`);
  try {
    return new Uint8Array(bytes);
  } catch {
    throw rangeError(
      OPERATION,
      'bytes: expected an array that can be copied: it is detached, or out of memory',
    );
  }
}

/**
 * Allocates one copy of the bytes, and nothing that they only ask for.
 * @throws TypeError where that is no Uint8Array, RangeError for bytes that seal() did not make
 * @internal
 */
export function unseal(given: unknown): StateBytes {
  const wrong = (expected: string, got: string): RangeError =>
    rangeError(OPERATION, `bytes: expected ${expected}, got ${got}`);
  const bytes = copyOf(given);
  if (bytes.length < HEADER) throw wrong(`a header of ${HEADER} bytes`, `${bytes.length} in all`);
  const view = new DataView(bytes.buffer);
  const magic = String.fromCharCode(...bytes.subarray(0, MAGIC.length));
  if (magic !== MAGIC) throw wrong(`'${MAGIC}' at their start`, JSON.stringify(magic));
  const version = view.getUint32(8, true);
  if (version !== VERSION) throw wrong(`version ${VERSION}`, `${version}`);
  const dims = DIMENSIONS.map((_, i) => view.getUint32(CHECKED + 4 * i, true));
  const size = sizeOf(dims).bytes;
  if (size !== bytes.length) {
    const named = DIMENSIONS.map((name, i) => `${name} ${dims[i]}`).join(', ');
    throw wrong(`${size} in all for ${named}`, `${bytes.length}`);
  }
  const stored = view.getUint32(12, true);
  const sum = crc32(bytes, CHECKED);
  if (sum !== stored) throw wrong(`checksum ${stored}`, `${sum}: they have been changed`);
  reorder(bytes);
  return numbersIn(bytes, dims);
}
