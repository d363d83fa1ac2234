import { accessSync, constants, existsSync, writeFileSync } from 'node:fs';
import path from 'node:path';

/** Before long work whose results shall go into a file. @throws Error of the system where that cannot be written */
export function expectWritable(file: string | undefined): void {
  if (file === undefined || file === '-') return;
  try {
    accessSync(existsSync(file) ? file : path.dirname(path.resolve(file)), constants.W_OK);
  } catch (error) {
    const { message, code } = error as NodeJS.ErrnoException;
    throw Object.assign(new Error(`${message}, to write ${file}`), { code });
  }
}

/** Writes results as JSON: to a file, or with `-` to stdout in place of `text`. */
export function report(file: string | undefined, results: object, text: string): void {
  const json = `${JSON.stringify(results, null, 2)}\n`;
  if (file === '-') {
    process.stdout.write(json);
    return;
  }
  process.stdout.write(`${text}\n`);
  if (file) writeFileSync(file, json);
}
