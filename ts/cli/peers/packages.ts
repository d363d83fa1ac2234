// npm packages that the user may have: rankone depends on none of them.
import { createRequire } from 'node:module';
import path from 'node:path';

/** Folders whose node_modules are searched, theirs and those above: RANKONE_PEERS_PATH, the working directory, this package. */
function folders(): string[] {
  const named = (process.env.RANKONE_PEERS_PATH ?? '').split(path.delimiter).filter(Boolean);
  return [...named.map((folder) => path.resolve(folder)), process.cwd(), __dirname];
}

/** The path of a package's main file, if there is one. */
export function resolvePackage(name: string): string | undefined {
  for (const folder of folders()) {
    try {
      return createRequire(path.join(folder, 'package.json')).resolve(name);
    } catch {
      // Not in this one.
    }
  }
  return undefined;
}

/** The folder of a package, from the path of one of its files. */
export function packageFolder(name: string, file: string): string {
  const inside = path.join('node_modules', ...name.split('/'));
  return file.slice(0, file.lastIndexOf(inside) + inside.length);
}

/** What to say of a package that is not there. */
export function howToGet(name: string): string {
  return (
    `no package ${name} in the node_modules of ${[...new Set(folders().slice(0, -1))].join(', ')}, nor beside rankone; ` +
    `npm i --ignore-scripts --prefix ~/peers ${name}, then RANKONE_PEERS_PATH=~/peers`
  );
}
