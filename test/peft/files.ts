// Files of the tests' own making, byte by byte: not with the code that they test.
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import * as assert from 'uvu/assert';

/** A header's text, or an object for one. */
export type HeaderSource = string | Buffer | Record<string, unknown>;

/** The bytes of a .safetensors file. */
export function safetensors(
  header: HeaderSource,
  data: Uint8Array = new Uint8Array(),
  length?: bigint,
): Uint8Array {
  const text =
    typeof header === 'string' || Buffer.isBuffer(header) ? header : JSON.stringify(header);
  const body = Buffer.from(text as string);
  const prefix = Buffer.alloc(8);
  prefix.writeBigUInt64LE(length ?? BigInt(body.length));
  return Uint8Array.from(Buffer.concat([prefix, body, data]));
}

export interface Raw {
  dtype: string;
  shape: number[];
  bytes: Uint8Array;
}

/** float32 values as a file holds them. */
export function f32(shape: number[], values: readonly number[]): Raw {
  const bytes = Buffer.alloc(4 * values.length);
  values.forEach((x, i) => {
    bytes.writeFloatLE(x, 4 * i);
  });
  return { dtype: 'F32', shape, bytes };
}

/** float32 values that count from `from`. */
export function counted(shape: number[], from = 0): Raw {
  const size = shape.reduce((a, b) => a * b, 1);
  return f32(
    shape,
    Array.from({ length: size }, (_, i) => from + i),
  );
}

/** 16-bit patterns as a file holds them. */
export function words(dtype: 'BF16' | 'F16', shape: number[], values: readonly number[]): Raw {
  const bytes = Buffer.alloc(2 * values.length);
  values.forEach((x, i) => {
    bytes.writeUInt16LE(x, 2 * i);
  });
  return { dtype, shape, bytes };
}

/** The bytes of a file of these tensors, one after the other. */
export function packed(
  tensors: Record<string, Raw>,
  metadata?: Record<string, string>,
): Uint8Array {
  const header: Record<string, unknown> = metadata ? { __metadata__: metadata } : {};
  let at = 0;
  for (const [name, { dtype, shape, bytes }] of Object.entries(tensors)) {
    header[name] = { dtype, shape, data_offsets: [at, at + bytes.length] };
    at += bytes.length;
  }
  return safetensors(header, Buffer.concat(Object.values(tensors).map(({ bytes }) => bytes)));
}

/** What a file holds, read in the plainest way. */
export function unpacked(file: string): Record<string, Raw> {
  const bytes = fs.readFileSync(file);
  const start = 8 + Number(bytes.readBigUInt64LE(0));
  const header = JSON.parse(bytes.toString('utf8', 8, start));
  delete header.__metadata__;
  const tensors: Record<string, Raw> = {};
  for (const [name, { dtype, shape, data_offsets }] of Object.entries<any>(header)) {
    const [from, to] = data_offsets;
    tensors[name] = {
      dtype,
      shape,
      bytes: Uint8Array.from(bytes.subarray(start + from, start + to)),
    };
  }
  return tensors;
}

const root = fs.mkdtempSync(path.join(os.tmpdir(), 'rankone-peft-'));
let files = 0;

/** A new path in a folder that goes away with the process. */
export function fresh(name = 'file'): string {
  return path.join(root, `${files++}-${name}`);
}

process.on('exit', () => fs.rmSync(root, { recursive: true, force: true }));

export function writeFile(bytes: Uint8Array, name = 'model.safetensors'): string {
  const file = fresh(name);
  fs.writeFileSync(file, bytes);
  return file;
}

/** A folder as PEFT saves it. */
export function writeAdapter(tensors: Record<string, Raw>, config: unknown): string {
  const folder = fresh('adapter');
  fs.mkdirSync(folder);
  const text = typeof config === 'string' ? config : JSON.stringify(config);
  fs.writeFileSync(path.join(folder, 'adapter_config.json'), text);
  fs.writeFileSync(
    path.join(folder, 'adapter_model.safetensors'),
    packed(tensors, { format: 'pt' }),
  );
  return folder;
}

/** Both forms end with an error of this class whose message holds all of these. */
export async function refused(
  forms: [() => unknown, () => Promise<unknown>],
  kind: new (...args: any[]) => Error,
  ...parts: (string | RegExp)[]
): Promise<void> {
  for (const form of forms) {
    let error: any;
    try {
      await form();
    } catch (thrown) {
      error = thrown;
    }
    assert.ok(error, `no error; expected ${parts.join(' ')}`);
    assert.instance(error, kind, error.stack);
    for (const part of parts)
      assert.ok(
        typeof part === 'string' ? error.message.includes(part) : part.test(error.message),
        `expected ${part} in: ${error.message}`,
      );
  }
}
