import fs from 'node:fs';
import path from 'node:path';

const build = path.join(__dirname, '../../build');

/** A new folder inside of the package, whose programs may name it, and nowhere that is packed. */
export function folderInPackage(name: string): string {
  fs.mkdirSync(build, { recursive: true }); // is not there where a prebuilt binary is tested
  return fs.mkdtempSync(path.join(build, `${name}-`));
}
