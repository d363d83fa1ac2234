// Finds and loads the addon: RANKONE_BINDING, else build/Release, else the prebuild that fits, as node-gyp-build has it.
// What is found and does not load is an error that says why; nothing else is tried in its place.
import fs from 'node:fs';
import path from 'node:path';
import { faultOfFile } from './addonFile';
import { libc } from './libc';
import { platformName, systemName } from './system';

const root = path.join(__dirname, '..');
const DOCUMENT = 'docs/install.md';

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

/** node-gyp-build knows musl only by Alpine's release file. */
function ofThisLibc(file: string): string {
  const tag = /\.(glibc|musl)\.node$/;
  if (process.platform !== 'linux' || process.env.LIBC || !tag.test(file)) return file;
  const fitting = file.replace(tag, `.${libc().split(' ')[0]}.node`);
  return fs.existsSync(fitting) ? fitting : file;
}

/** The file that is loaded, where there is one. @internal */
export function findAddon(): string | undefined {
  const wish = process.env.RANKONE_BINDING;
  if (wish) return path.resolve(wish);
  const { resolve } = require('node-gyp-build');
  for (const home of homes()) {
    let file: string;
    try {
      file = resolve(home);
    } catch {
      continue;
    }
    // Elsewhere than at home, build/Release may be another package's.
    if (/^rankone\b/.test(path.basename(file))) return ofThisLibc(file);
  }
  return undefined;
}

function list(folder: string): string[] {
  try {
    return fs.readdirSync(folder);
  } catch {
    return [];
  }
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
  const script = path.join(root, 'scripts/install.cjs');
  return (
    'To build it from source (python3, make and a C++20 compiler: gcc 12 or later, or clang 14 or later):\n' +
    `  ${node} ${/\s/.test(script) ? JSON.stringify(script) : script} --from-source`
  );
}

function failure(text: string, cause?: unknown): Error {
  const more = atHome() ? `\nMore: ${path.join(root, DOCUMENT)}` : '';
  const error = new Error(text + more, cause === undefined ? undefined : { cause });
  (error as NodeJS.ErrnoException).code = 'ERR_RANKONE_BINDING';
  return error;
}

function nothingFits(): Error {
  const tuple = `${process.platform}-${process.arch}`;
  const looked = homes().flatMap((home) => {
    const held = list(path.join(home, 'prebuilds')).map((name) => {
      const files = list(path.join(home, 'prebuilds', name)).filter((f) => f.endsWith('.node'));
      return name === tuple ? `${name}: ${files.join(', ') || 'nothing'}` : name;
    });
    return [
      path.join(home, 'build/Release/rankone.node'),
      `${path.join(home, 'prebuilds', tuple)}  (${held.length ? `prebuilds holds ${held.join(', ')}` : 'no prebuilds there'})`,
    ];
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
export function loadAddon(): unknown {
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
  return addon.exports;
}
