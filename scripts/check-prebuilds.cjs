// Holds the binaries of prebuilds/ against what the package promises of them, and lists their sizes.
//   node scripts/check-prebuilds.cjs [target...]     linux-x64-glibc and so on; all that lie there without one
//   node scripts/check-prebuilds.cjs --all           as well, a missing one is a fault, and the package is weighed
// Names of functions are gone from what is shipped: the instructions are read from the objects that it was linked from, in
// build-prebuilds/<target>/, and not at all where those are missing (which is said). Exits 1 on a fault.
const { spawnSync } = require('node:child_process');
const fs = require('node:fs');
const path = require('node:path');
const { disassemble, missingTool, readBinary } = require('./binary.cjs');
const { GLIBC, MACOS, root, selectTargets, targets } = require('./targets.cjs');

const ENTRIES = ['napi_register_module_v1', 'node_api_module_get_api_version_v1'];
const LIMIT = 12 << 20; // bytes of one binary
const PACKED_LIMIT = 15e6; // bytes of the tarball with all of them

const later = (a, b) => a.localeCompare(b, 'en', { numeric: true }) > 0;

const libraries = {
  glibc: /^(lib(c|m|dl|pthread|rt)\.so\.\d+|ld-linux-(x86-64|aarch64)\.so\.\d)$/,
  musl: /^(libc\.so|libc\.musl-(x86_64|aarch64)\.so\.1)$/,
  win32: /^(kernel32|ntdll|advapi32|msvcrt|ucrtbase|api-ms-win-[\w-]+)\.dll$/i,
  darwin: /^\/usr\/lib\/lib(System\.B|c\+\+\.1)\.dylib$/,
};

/** What is wrong with a binary of that target, by what readBinary() found. */
function faultsOf(target, found) {
  const faults = [];
  const where = `${found.platform}-${found.arch}`;
  if (where !== `${target.platform}-${target.arch}`) return [`it is for ${where}`];
  const fits = libraries[target.libc ?? target.platform];
  for (const name of found.needed) if (!fits.test(name)) faults.push(`it needs ${name}`);
  const [entry] = ENTRIES;
  if (!found.exports.includes(entry)) faults.push(`it does not export ${entry}`);
  if (found.symbols) faults.push('it is not stripped');
  if (found.size > LIMIT) faults.push(`it has ${found.size} bytes, more than ${LIMIT}`);

  if (target.platform === 'linux') {
    for (const name of found.exports)
      if (!ENTRIES.includes(name)) faults.push(`it exports ${name}`);
    for (const version of found.versions) {
      const [, library, number] = /^(\w+?)_([\d.]+)$/.exec(version) ?? [];
      if (library !== 'GLIBC') faults.push(`it needs ${version}, of the C++ runtime`);
      else if (target.libc !== 'glibc') faults.push(`it needs ${version}`);
      else if (later(number, GLIBC)) faults.push(`it needs ${version}, newer than ${GLIBC}`);
    }
    if (!found.stays) faults.push('it can be unloaded (no NODELETE)');
  } else if (target.platform === 'win32') {
    // A delayed import is resolved by a hook, of which this knows nothing.
    for (const name of found.delayed)
      if (!/^node\.exe$/i.test(name)) faults.push(`it delays ${name}`);
  } else {
    for (const name of found.imports.filter((n) => /^(napi|node_api)_/.test(n)))
      if (!found.lookedUp.includes(name)) faults.push(`${name} is bound to a library`);
    if (found.ownName && !found.ownName.startsWith('@rpath/'))
      faults.push(`it calls itself ${found.ownName}`);
    if (!found.minimum || later(found.minimum, MACOS))
      faults.push(`it needs macOS ${found.minimum}, newer than ${MACOS}`);
    if (target.arch === 'arm64' && !found.signed) faults.push('its signature does not hold');
  }
  return faults;
}

const LEVELS = ['baseline', 'avx2', 'avx512', 'avx512bf16'];

/** The instruction set that an instruction of x86-64 belongs to, as an index of LEVELS; -1: one that none of them has. */
function levelOf(mnemonic, operands) {
  if (/^(andn|bextr|bls\w+|bzhi|mulx|pdep|pext|rorx|sarx|shlx|shrx|lzcnt)[lq]?$/.test(mnemonic))
    return -1; // of BMI
  const mask = /^k\w/.test(mnemonic) || /%k[0-7]/.test(operands);
  if (!mask && !/^v(?!err|erw|mcall|mfunc|mlaunch|mresume|mread|mwrite)/.test(mnemonic)) return 0;
  if (/^v(dpbf16ps|cvtne2?ps2bf16|pdpbusds?|pdpwssds?)/.test(mnemonic)) return 3;
  return mask || /%zmm|%[xy]mm(1[6-9]|2\d|3[01])/.test(operands) ? 2 : 1;
}

/** The widest level whose namespace a mangled name tells. */
function levelOfSymbol(symbol) {
  const names = [...symbol.matchAll(/7rankone(?:4(avx2)|6(avx512)|10(avx512bf16))/g)];
  return Math.max(0, ...names.map(([, ...level]) => LEVELS.indexOf(level.find(Boolean))));
}

const afterArmv8 =
  /^(sdot|udot|usdot|sudot|bf\w+(dot|mla|mmla)\w*|fmlal2?|cas[apl]*[bh]?|swp[al]*[bh]?|ld(add|clr|eor|set|[su]max|[su]min)[al]*[bh]?|ptrue|whilelo)$/;

/** Functions with instructions that a processor which runs them may not have. */
async function straySymbols(target, files) {
  const stray = new Map();
  let count = 0;
  const apple = target.platform === 'darwin'; // whose first arm64 processor has them
  await disassemble(files, (symbol, mnemonic, operands) => {
    ++count;
    let why;
    if (target.arch === 'x64') {
      const level = levelOf(mnemonic, operands);
      if (level < 0) why = 'BMI';
      else if (level > 0 && level > levelOfSymbol(symbol)) why = LEVELS[level];
    } else if (!apple && !symbol.startsWith('__aarch64_') && afterArmv8.test(mnemonic)) {
      why = 'an extension of armv8';
    }
    if (why && !stray.has(symbol)) stray.set(symbol, `${symbol} has ${mnemonic}, of ${why}`);
  });
  if (count === 0) throw new Error(`no instructions in ${files}`);
  return [...stray.values()];
}

/** What it was linked from, of the C++ runtime nothing. */
function objectsOf(target) {
  const folders = [`${target.name}-native`, target.name]
    .map((name) => path.join(root, 'build-prebuilds', name, 'build/CMakeFiles'))
    .filter((folder) => fs.existsSync(folder));
  // Of two builds, the one that the file comes from is the later one.
  const [folder] = folders.sort((a, b) => fs.statSync(b).mtimeMs - fs.statSync(a).mtimeMs);
  if (!folder) return [];
  const inside = (name) => /^rankone(_engine)?\.dir/.test(name) && /\.o(bj)?$/.test(name);
  const names = fs.readdirSync(folder, { recursive: true }).filter(inside);
  return names.map((name) => path.join(folder, name));
}

/** What is wrong with the tarball, by what `npm pack --json` says of it. */
function packedFaults({ size, files }) {
  const faults = [];
  if (size >= PACKED_LIMIT)
    faults.push(`it has ${size} bytes, and the package stays below ${PACKED_LIMIT}`);
  const packed = new Set(files.map((file) => file.path));
  for (const { file } of targets) if (!packed.has(file)) faults.push(`it lacks ${file}`);
  return faults;
}

function readPacked() {
  const args = ['pack', '--dry-run', '--json', '--ignore-scripts', '--silent'];
  // npm is a script of the shell on Windows.
  const options = { cwd: root, encoding: 'utf8', shell: process.platform === 'win32' };
  const { status, stdout, stderr, error } = spawnSync('npm', args, options);
  if (status !== 0) throw new Error(`npm ${args.join(' ')}: ${error?.message ?? stderr}`);
  return JSON.parse(stdout)[0];
}

function report(name, notes, faults) {
  console.log(`${faults.length ? 'FAIL' : 'ok  '} ${name}  ${notes.filter(Boolean).join(', ')}`);
  for (const fault of faults.slice(0, 20)) console.log(`     ${fault}`);
  if (faults.length > 20) console.log(`     and ${faults.length - 20} more`);
}

async function main() {
  const args = process.argv.slice(2);
  const missing = missingTool();
  if (missing) throw new Error(missing);
  const known = new Map(targets.map((target) => [target.name, target]));
  const named = args.filter((arg) => arg !== '--all');
  for (const name of named) if (!known.has(name)) throw new Error(`no target is ${name}`);
  let wanted = named.map((name) => known.get(name));
  if (named.length === 0)
    wanted = selectTargets({}).filter(
      ({ file }) => args.includes('--all') || fs.existsSync(path.join(root, file)),
    );
  if (wanted.length === 0) throw new Error('prebuilds/ is empty; npm run prebuild fills it');

  let sum = 0;
  let bad = 0;
  for (const target of wanted) {
    const file = path.join(root, target.file);
    if (!fs.existsSync(file)) {
      console.log(`FAIL ${target.name}  ${target.file} is missing`);
      ++bad;
      continue;
    }
    const found = readBinary(file);
    const faults = faultsOf(target, found);
    const objects = objectsOf(target);
    if (objects.length) faults.push(...(await straySymbols(target, objects)));
    const needs = found.versions
      ?.filter((v) => v.startsWith('GLIBC_'))
      .sort((a, b) => (later(a, b) ? 1 : -1));
    const notes = [
      `${(found.size / 1e6).toFixed(2)} MB`,
      needs?.length && `needs ${needs.at(-1)}`,
      found.minimum && `macOS ${found.minimum}`,
      found.signed && 'signed ad hoc',
      `imports from ${found.needed.map((name) => path.basename(name)).join(', ') || 'nothing'}`,
      !objects.length && 'instructions not read: no objects',
    ];
    sum += found.size;
    bad += faults.length ? 1 : 0;
    report(target.name, notes, faults);
  }
  if (args.includes('--all')) {
    const packed = readPacked();
    const faults = packedFaults(packed);
    bad += faults.length ? 1 : 0;
    const built = packed.files.some((file) => file.path === 'dist/index.js');
    const notes = [`${(packed.size / 1e6).toFixed(2)} MB packed`, !built && 'without dist/'];
    report('the package', notes, faults);
  }
  console.log(`${wanted.length} binaries, ${(sum / 1e6).toFixed(2)} MB, ${bad} with faults`);
  process.exitCode = bad ? 1 : 0;
}

module.exports = { faultsOf, levelOf, levelOfSymbol, packedFaults, straySymbols };
if (require.main === module)
  main().catch((error) => {
    console.error(error.message);
    process.exitCode = 1;
  });
