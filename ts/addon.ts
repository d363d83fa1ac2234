// Finds and loads the addon: RANKONE_BINDING, else build/Release, else the prebuild for this system. Only what this process
// is decides, and none of the variables by which npm and others say that they install for another system.
// What is found and does not load is an error that says why; nothing else is tried in its place.
import fs from 'node:fs';
import path from 'node:path';
import { faultOfFile } from './addonFile';
import { libcName } from './libc';
import { platformName, systemName } from './system';

const root = path.join(__dirname, '..');
const DOCUMENT = 'docs/install.md';
const tuple = `${process.platform}-${process.arch}`;

/** Whether this file still lies in its package: a bundler may have moved it. */
function atHome(): boolean {
  try {
    return JSON.parse(fs.readFileSync(path.join(root, 'package.json'), 'utf8')).name === 'rankone';
  } catch {
    return false;
  }
}

/** Folders that may hold build/ or prebuilds/. */
function homes(): string[] {
  return atHome() ? [root] : [__dirname, root];
}

/** A prebuild's place in a folder. */
function prebuildIn(home: string): string {
  const tag = process.platform === 'linux' ? `.${libcName()}` : '';
  return path.join(home, 'prebuilds', tuple, `rankone${tag}.node`);
}

/** Files that may be the addon, in the order in which they are looked for. */
function candidates(): string[] {
  return [
    ...homes().flatMap((home) => [path.join(home, 'build/Release/rankone.node'), prebuildIn(home)]),
    prebuildIn(path.dirname(process.execPath)), // of applications that carry their own Node
  ];
}

/** Whether there is something; false as well where nobody may look, as Node's permissions can have it of other folders. */
function stands(file: string): boolean {
  try {
    return Boolean(fs.statSync(file));
  } catch {
    return false;
  }
}

/** The file that is loaded, where there is one. @internal */
export function findAddon(): string | undefined {
  const wish = process.env.RANKONE_BINDING;
  return wish ? path.resolve(wish) : candidates().find(stands);
}

/** What a folder with the folders of prebuilds holds, in words. */
function held(prebuilds: string): string {
  let names: string[];
  try {
    names = fs.readdirSync(prebuilds);
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    return code === 'ENOENT' ? 'no prebuilds there' : message;
  }
  const told = names.map((name) => {
    if (name !== tuple) return name;
    const files = list(path.join(prebuilds, name)).filter((f) => f.endsWith('.node'));
    return `${name}: ${files.join(', ') || 'nothing'}`;
  });
  return `prebuilds holds ${told.join(', ') || 'nothing'}`;
}

function list(folder: string): string[] {
  try {
    return fs.readdirSync(folder);
  } catch {
    return [];
  }
}

/** As a shell takes it for one word. */
function quoted(word: string): string {
  return /^[\w./@+:,=-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`;
}

/** How to get a binary that fits: one command. */
function cure(): string {
  if (!atHome())
    return (
      `rankone has been bundled into ${__filename}, away from its binaries. Leave it out of the bundle (esbuild:\n` +
      '--external:rankone) and install it beside the bundle, or copy node_modules/rankone/prebuilds to\n' +
      `  ${path.join(__dirname, 'prebuilds')}`
    );
  if (process.platform === 'win32') return 'It cannot be built from source on Windows.';
  const node = process.versions.pnp ? 'yarn node' : 'node';
  return (
    'To build it from source (python3, make and a C++20 compiler: gcc 12 or later, or clang 14 or later):\n' +
    `  ${node} ${quoted(path.join(root, 'scripts/install.cjs'))} --from-source`
  );
}

function failure(text: string, cause?: unknown): Error {
  const more = atHome() ? `\nMore: ${path.join(root, DOCUMENT)}` : '';
  const error = new Error(text + more, cause === undefined ? undefined : { cause });
  (error as NodeJS.ErrnoException).code = 'ERR_RANKONE_BINDING';
  return error;
}

function nothingFits(): Error {
  const looked = candidates().map((file) => {
    const prebuilds = path.dirname(path.dirname(file));
    return path.basename(prebuilds) === 'prebuilds' ? `${file}  (${held(prebuilds)})` : file;
  });
  return failure(
    `rankone has no native binary for ${platformName()}.\n` +
      `System: ${systemName()}\n` +
      `Looked for:\n${looked.map((line) => `  ${line}\n`).join('')}${cure()}`,
  );
}

/** What the system's reason means, where that is known. */
function meaning(reason: string): string {
  const glibc = /version [`']GLIBC_([\d.]+)' not found/.exec(reason);
  if (glibc) return `it needs glibc ${glibc[1]}, this is ${platformName()}`;
  if (/GLIBCXX_|CXXABI_/.test(reason)) return 'it needs a newer libstdc++ than this system has';
  // Where glibc's files for developers are, libc.so is a text for the linker.
  if (/libc\.musl-|ld-musl-|\blibc\.so: (cannot open|invalid ELF header)/.test(reason))
    return `it is built for musl, this is ${platformName()}`;
  if (/Error loading shared library (libc\.so\.6|ld-linux)/.test(reason))
    return `it is built for glibc, this is ${platformName()}`;
  const symbol = /undefined symbol: (napi_\w+|node_api_\w+)/.exec(reason);
  if (symbol) return `this version of Node has no ${symbol[1]}`;
  if (/failed to map segment/.test(reason)) return 'its folder may be mounted noexec';
  return '';
}

function broken(file: string, reason: string, cause?: unknown): Error {
  const wish = process.env.RANKONE_BINDING;
  const [line] = reason.split('\n');
  const means = meaning(line);
  const head = `rankone's native binary does not load, and nothing was put in its place.\n`;
  const facts = `  ${file}\n  Reason: ${line}${means && `\n  That is: ${means}`}\nSystem: ${systemName()}\n`;
  if ((cause as NodeJS.ErrnoException)?.code === 'ERR_DLOPEN_DISABLED')
    return failure(
      `${head}${facts}Node was started without native addons: --no-addons, or --permission without --allow-addons.`,
      cause,
    );
  const way = wish
    ? `RANKONE_BINDING=${wish} names it; without that variable the package's own binary is loaded.`
    : `If the file is damaged, install the package anew. ${cure()}`;
  return failure(head + facts + way, cause);
}

/** Loads the addon. @throws Error with the code ERR_RANKONE_BINDING @internal */
export function loadAddon(): { addon: unknown; file: string } {
  const file = findAddon();
  if (!file) throw nothingFits();
  const fault = faultOfFile(file);
  if (fault) throw broken(file, fault);
  const addon: { exports: any } = { exports: {} };
  try {
    // Not by `require`, in whose place bundlers put something else.
    process.dlopen(addon, path.toNamespacedPath(file));
  } catch (cause) {
    throw broken(file, String((cause as Error)?.message ?? cause), cause);
  }
  if (typeof addon.exports?.describe !== 'function')
    throw broken(file, 'it is the addon of another package, or of another version of rankone');
  return { addon: addon.exports, file };
}
