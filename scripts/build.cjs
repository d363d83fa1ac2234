// dist/: TypeScript to CommonJS once, then an ES module that re-exports its names, so that `import` and `require` share
// one instance of everything.
const { spawnSync } = require('node:child_process');
const fs = require('node:fs');
const path = require('node:path');

const root = path.join(__dirname, '..');
const dist = path.join(root, 'dist');

fs.rmSync(dist, { recursive: true, force: true });
const tsc = path.join(path.dirname(require.resolve('typescript/package.json')), 'bin/tsc');
// The float64 reference first: `rankone verify` is compiled against what the package holds of it.
for (const project of ['tsconfig.oracle.json', 'tsconfig.build.json']) {
  const { status } = spawnSync(process.execPath, [tsc, '-p', project], {
    cwd: root,
    stdio: 'inherit',
  });
  if (status !== 0) process.exit(status ?? 1);
}
// Nobody compiles against these.
for (const folder of ['oracle', 'cli'])
  for (const file of fs.readdirSync(path.join(dist, folder), { recursive: true }))
    if (file.endsWith('.d.ts')) fs.rmSync(path.join(dist, folder, file));
fs.chmodSync(path.join(dist, 'cli/main.js'), 0o755);

// Entry points of the package, as its exports name them.
for (const entry of ['index', 'integrations/tfjs/index']) {
  const file = path.join(dist, entry);
  const from = `./${path.basename(entry)}.js`;
  const names = Object.keys(require(file)).sort();
  const list = names.map((name) => `  ${name},\n`).join('');
  fs.writeFileSync(`${file}.mjs`, `export {\n${list}} from '${from}';\n`);
  fs.writeFileSync(`${file}.d.mts`, `export * from '${from}';\n`);
  console.log(`dist/${entry}: ${names.length} exports`);
}
