// What a native library says of itself, read by LLVM's tools (on Debian the package llvm): llvm-readobj, llvm-objdump
// and llvm-nm of LLVM_BIN, of the PATH, or with a version behind the name.
const { spawn, spawnSync } = require('node:child_process');
const { createHash } = require('node:crypto');
const fs = require('node:fs');
const path = require('node:path');
const readline = require('node:readline');

const found = new Map();

function tool(name) {
  if (found.has(name)) return found.get(name);
  const folders = process.env.LLVM_BIN
    ? [process.env.LLVM_BIN]
    : (process.env.PATH ?? '').split(path.delimiter);
  const versions = [22, 21, 20, 19, 18, 17, 16, 15, 14].map((n) => `-${n}`);
  const names = ['', ...versions].map(
    (v) => name + v + (process.platform === 'win32' ? '.exe' : ''),
  );
  const files = names.flatMap((n) => folders.map((folder) => path.join(folder, n)));
  const file = files.find((f) => fs.existsSync(f));
  if (!file)
    throw new Error(
      `${name} is not here: apt-get install llvm, brew install llvm, or LLVM_BIN=<folder of LLVM's tools>`,
    );
  found.set(name, file);
  return file;
}

/** The first of the tools that is missing, as an error's message; undefined where none is. */
function missingTool() {
  try {
    for (const name of ['llvm-readobj', 'llvm-objdump', 'llvm-nm', 'llvm-strip']) tool(name);
    return undefined;
  } catch (error) {
    return error.message;
  }
}

function output(name, args) {
  const child = spawnSync(tool(name), args, { encoding: 'utf8', maxBuffer: 1 << 28 });
  if (child.status === 0) return child.stdout;
  throw new Error(`${name} ${args.join(' ')}\n${child.stderr || child.error?.message}`);
}

const all = (text, pattern) => [...text.matchAll(pattern)].map((m) => m[1].trim());
const unique = (list) => [...new Set(list)].sort();

function readElf(file) {
  const text = output('llvm-readobj', [
    '--elf-output-style=LLVM',
    ...['--file-headers', '--sections', '--needed-libs', '--dynamic-table', '--version-info'],
    file,
  ]);
  const symbols = output('llvm-nm', ['-D', '--format=just-symbols', '--defined-only', file]);
  const undefinedNames = output('llvm-nm', [
    '-D',
    '--format=just-symbols',
    '--undefined-only',
    file,
  ]);
  const names = (list) => unique(list.split('\n').map((line) => line.trim().replace(/@.*/, '')));
  const sections = all(text, /^ {4}Name: (\S+)/gm);
  const dynamic = text.slice(text.indexOf('DynamicSection'));
  return {
    needed: all(dynamic, /NEEDED\s+Shared library: \[(.*)\]/g),
    exports: names(symbols).filter(Boolean),
    imports: names(undefinedNames).filter(Boolean),
    versions: unique(all(text.slice(text.indexOf('VersionRequirements')), /Name: (\S+_[\d.]+)/g)),
    stays: /FLAGS_1.*NODELETE/.test(dynamic),
    symbols: sections.some((name) => name === '.symtab' || name.startsWith('.debug')),
  };
}

function readPe(file) {
  const text = output('llvm-readobj', [
    ...['--file-headers', '--sections', '--coff-imports', '--coff-exports'],
    file,
  ]);
  return {
    needed: unique(all(text, /^Import \{\n\s+Name: (.*)/gm)),
    delayed: unique(all(text, /^DelayImport \{\n\s+Name: (.*)/gm)),
    exports: unique(all(text, /^Export \{\n\s+Ordinal: .*\n\s+Name: (.*)/gm)),
    imports: unique(all(text, /^ {2}Symbol: (\S+)/gm)),
    symbols: !/SymbolCount: 0\b/.test(text) || /Name: \.debug/.test(text),
  };
}

function readMachO(file) {
  const headers = output('llvm-objdump', ['--macho', '--private-headers', file]);
  const names = output('llvm-nm', ['-m', file]).split('\n');
  const outside = names.filter((line) => line.includes('(undefined)') && line.includes(' _'));
  const last = (line) => line.replace(/ \((from|dynamically looked up).*/, '').replace(/.* _/, '');
  const ownName = /^\s*name (\S+) \(offset/m.exec(headers.split('cmd LC_ID_DYLIB')[1] ?? '')?.[1];
  return {
    needed: all(
      output('llvm-objdump', ['--macho', '--dylibs-used', file]),
      /^\s+(\/\S+|@\S+) \(compat/gm,
    ).filter((name) => name !== ownName),
    ownName,
    exports: unique(
      output('llvm-objdump', ['--macho', '--exports-trie', file])
        .split('\n')
        .filter((line) => /^0x/.test(line))
        .map((line) => line.split(/\s+/)[1].replace(/^_/, '')),
    ),
    imports: unique(outside.map(last)),
    lookedUp: unique(outside.filter((line) => line.includes('dynamically looked up')).map(last)),
    minimum:
      /LC_BUILD_VERSION[\s\S]*?minos (\S+)/.exec(headers)?.[1] ??
      /LC_VERSION_MIN_MACOSX[\s\S]*?version (\S+)/.exec(headers)?.[1],
    signed: signatureHolds(file),
    symbols: names.some((line) => / non-external __Z/.test(line)),
  };
}

/**
 * Whether the signature of a Mach-O file for one processor is an ad hoc one that holds for every page: macOS on arm64
 * ends a process that loads another. LLVM's tools only say where it is.
 */
function signatureHolds(file) {
  const bytes = fs.readFileSync(file);
  const LC_CODE_SIGNATURE = 0x1d;
  let at = 32; // of the 64-bit header
  for (let left = bytes.readUInt32LE(16); left > 0; left--) {
    if (bytes.readUInt32LE(at) === LC_CODE_SIGNATURE) break;
    at += bytes.readUInt32LE(at + 4);
    if (left === 1) return false;
  }
  const blob = bytes.subarray(bytes.readUInt32LE(at + 8));
  if (blob.readUInt32BE(0) !== 0xfade0cc0) return false;
  const directory = blob.subarray(blob.readUInt32BE(16)); // the first of the blob's index
  if (directory.readUInt32BE(0) !== 0xfade0c02) return false;
  const [flags, hashes] = [directory.readUInt32BE(12), directory.readUInt32BE(16)];
  const [pages, limit] = [directory.readUInt32BE(28), directory.readUInt32BE(32)];
  const [hashSize, hashType, pageSize] = [directory[36], directory[37], 1 << directory[39]];
  const SHA256 = 2;
  const ADHOC = 2;
  if (hashType !== SHA256 || !(flags & ADHOC) || pages !== Math.ceil(limit / pageSize))
    return false;
  for (let page = 0; page < pages; page++) {
    const part = bytes.subarray(page * pageSize, Math.min(limit, (page + 1) * pageSize));
    const hash = createHash('sha256').update(part).digest().subarray(0, hashSize);
    const first = hashes + page * hashSize;
    if (!hash.equals(directory.subarray(first, first + hashSize))) return false;
  }
  return true;
}

/** Format, processor, size, and what the format tells of imports, exports and symbols. */
function readBinary(file) {
  const head = output('llvm-readobj', ['--file-headers', file]);
  const format = /^Format: (\S+)/m.exec(head)[1].toLowerCase();
  const arch = { x86_64: 'x64', aarch64: 'arm64' }[/^Arch: (\S+)/m.exec(head)[1]];
  const size = fs.statSync(file).size;
  if (format.startsWith('elf')) return { platform: 'linux', arch, size, ...readElf(file) };
  if (format.startsWith('coff')) return { platform: 'win32', arch, size, ...readPe(file) };
  if (format.startsWith('mach-o')) return { platform: 'darwin', arch, size, ...readMachO(file) };
  throw new Error(`${file} is ${format}`);
}

/** Calls visit(symbol, mnemonic, operands) for each instruction of libraries or objects. */
async function disassemble(files, visit) {
  const args = ['--disassemble', '--no-show-raw-insn', '--no-leading-addr', ...files];
  const child = spawn(tool('llvm-objdump'), args, { stdio: ['ignore', 'pipe', 'inherit'] });
  const ended = new Promise((resolve) => child.on('close', resolve));
  let symbol = '';
  for await (const line of readline.createInterface({ input: child.stdout })) {
    if (line.startsWith('<')) symbol = line.slice(1, line.lastIndexOf('>'));
    else {
      const [, mnemonic, operands = ''] = /^\s+(\S+)\s*(.*)$/.exec(line) ?? [];
      if (mnemonic) visit(symbol, mnemonic, operands);
    }
  }
  if ((await ended) !== 0) throw new Error(`llvm-objdump cannot read ${files}`);
}

module.exports = { disassemble, missingTool, readBinary, tool };
