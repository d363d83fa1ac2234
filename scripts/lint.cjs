// Formatters and linters: biome for TypeScript and JSON, clang-format for C++ and CUDA.
//   node scripts/lint.cjs [--fix]
const { spawnSync } = require('node:child_process');
const fs = require('node:fs');
const path = require('node:path');

const root = path.join(__dirname, '..');
const fix = process.argv.includes('--fix');

function run(command, args) {
  const { status, error } = spawnSync(command, args, { cwd: root, stdio: 'inherit' });
  if (error) console.error(error.message);
  if (status !== 0) process.exitCode = 1;
}

function walk(folder) {
  return fs.readdirSync(path.join(root, folder), { withFileTypes: true }).flatMap((entry) => {
    const name = `${folder}/${entry.name}`;
    if (entry.isDirectory()) return walk(name);
    return /\.(h|cpp|inl|def|cu|cuh)$/.test(name) ? [name] : [];
  });
}

const biome = require.resolve('@biomejs/biome/bin/biome');
run(process.execPath, [biome, 'check', '--error-on-warnings', ...(fix ? ['--write'] : []), '.']);

const clangFormat = require('clang-format').getNativeBinary();
if (fs.existsSync(clangFormat)) {
  const sources = [
    ...walk('cpp'),
    ...walk('cuda'),
    ...walk('bench'),
    ...walk('test').filter((f) => /native|simt|cuda/.test(f)),
  ];
  run(clangFormat, [...(fix ? ['-i'] : ['--dry-run', '-Werror']), ...sources]);
} else {
  console.log(`clang-format: no binary for ${process.platform}-${process.arch}, C++ not checked`);
}
