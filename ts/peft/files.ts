// Files by ranges, in both forms. What is read and why is said once, by a generator that asks for ranges.
import fs from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { types } from 'node:util';
import { rangeError, show, typeError } from '../errors';

/** Bytes `[at, at + into.length)` of what is read, which go into `into`. @internal */
export interface ByteRange {
  into: Uint8Array;
  at: number;
}

/** Asks for ranges, then returns what they hold. @internal */
export type Reading<T> = Generator<ByteRange, T, void>;

/** One read or write of the system is of less than 2^31 bytes. */
const AT_ONCE = 2 ** 30;

/** @internal */
export function pathOf(operation: string, name: string, file: unknown, or = ''): string {
  if (typeof file === 'string' && file !== '') return file;
  if (types.isProxy(file) || !(file instanceof URL))
    throw typeError(operation, `${name}: expected a path or a file: URL${or}, got ${show(file)}`);
  if (file.protocol !== 'file:')
    throw typeError(operation, `${name}: expected a file: URL, got ${show(file.href)}`);
  return fileURLToPath(file);
}

/** New memory, or an error that says for what. @internal */
export function allocate(operation: string, where: string, bytes: number): Uint8Array {
  try {
    return new Uint8Array(new ArrayBuffer(bytes));
  } catch {
    throw rangeError(operation, `${where}: out of memory for ${bytes} bytes`);
  }
}

// Before it is opened, because opening a pipe waits for its other end.
function sizeOf(operation: string, file: string, stats: fs.Stats): number {
  if (!stats.isFile()) throw typeError(operation, `${file}: expected a file, got something else`);
  return stats.size;
}

function cutOff(operation: string, file: string, at: number): RangeError {
  return rangeError(operation, `${file}: ended at byte ${at} while it was read`);
}

/** @internal */
export function readSync<T>(
  operation: string,
  file: string,
  body: (size: number) => Reading<T>,
): T {
  const size = sizeOf(operation, file, fs.statSync(file));
  const fd = fs.openSync(file, 'r');
  try {
    const reading = body(size);
    for (;;) {
      const step = reading.next();
      if (step.done) return step.value;
      const { into, at } = step.value;
      for (let done = 0; done < into.length; ) {
        const n = fs.readSync(fd, into, done, Math.min(AT_ONCE, into.length - done), at + done);
        if (n === 0) throw cutOff(operation, file, at + done);
        done += n;
      }
    }
  } finally {
    fs.closeSync(fd);
  }
}

/** @internal */
export async function read<T>(
  operation: string,
  file: string,
  body: (size: number) => Reading<T>,
): Promise<T> {
  const size = sizeOf(operation, file, await fs.promises.stat(file));
  const handle = await fs.promises.open(file, 'r');
  try {
    const reading = body(size);
    for (;;) {
      const step = reading.next();
      if (step.done) return step.value;
      const { into, at } = step.value;
      for (let done = 0; done < into.length; ) {
        const count = Math.min(AT_ONCE, into.length - done);
        const { bytesRead } = await handle.read(into, done, count, at + done);
        if (bytesRead === 0) throw cutOff(operation, file, at + done);
        done += bytesRead;
      }
    }
  } finally {
    await handle.close();
  }
}

/** The same from memory. @internal */
export function readBytes<T>(
  operation: string,
  bytes: Uint8Array,
  body: (size: number) => Reading<T>,
): T {
  const reading = body(bytes.length);
  for (;;) {
    const step = reading.next();
    if (step.done) return step.value;
    const { into, at } = step.value;
    const part = bytes.subarray(at, at + into.length);
    if (part.length !== into.length) throw cutOff(operation, 'the bytes', bytes.length);
    into.set(part);
  }
}

/** A name beside the file, from which it is renamed once it is whole: no reader sees half of it. */
function temporary(file: string): string {
  const random = Math.random().toString(36).slice(2);
  return path.join(path.dirname(file), `.${path.basename(file)}.${process.pid}.${random}`);
}

/** @internal */
export function writeSync(file: string, parts: readonly Uint8Array[]): void {
  const name = temporary(file);
  const fd = fs.openSync(name, 'wx');
  try {
    try {
      for (const part of parts)
        for (let done = 0; done < part.length; )
          done += fs.writeSync(fd, part, done, Math.min(AT_ONCE, part.length - done));
    } finally {
      fs.closeSync(fd);
    }
    fs.renameSync(name, file);
  } catch (error) {
    fs.rmSync(name, { force: true });
    throw error;
  }
}

/** @internal */
export async function write(
  operation: string,
  file: string,
  parts: readonly Uint8Array[],
): Promise<void> {
  const lengths = parts.map((part) => part.length);
  const name = temporary(file);
  const handle = await fs.promises.open(name, 'wx');
  try {
    try {
      for (const [i, part] of parts.entries())
        for (let done = 0; done < lengths[i]; ) {
          if (part.length !== lengths[i])
            throw rangeError(operation, `${file}: an array was detached or resized meanwhile`);
          const count = Math.min(AT_ONCE, lengths[i] - done);
          done += (await handle.write(part, done, count)).bytesWritten;
        }
    } finally {
      await handle.close();
    }
    await fs.promises.rename(name, file);
  } catch (error) {
    await fs.promises.rm(name, { force: true });
    throw error;
  }
}
