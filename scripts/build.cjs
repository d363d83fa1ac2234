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

// The page of `rankone bench --html` carries what it needs: its style and script, and Chart.js with its licence.
const page = path.join(dist, 'cli/page');
for (const name of ['style.css', 'client.mjs'])
  fs.copyFileSync(path.join(root, 'ts/cli/page', name), path.join(page, name));
const chart = path.dirname(require.resolve('chart.js'));
fs.copyFileSync(path.join(chart, 'chart.umd.min.js'), path.join(page, 'chart.umd.min.js'));
fs.copyFileSync(path.join(chart, '../LICENSE.md'), path.join(page, 'chart.LICENSE.md'));

// Entry points of the package, as its exports name them.
for (const entry of ['index', 'layers/index', 'integrations/tfjs/index']) {
  const file = path.join(dist, entry);
  const from = `./${path.basename(entry)}.js`;
  const names = Object.keys(require(file)).sort();
  const list = names.map((name) => `  ${name},\n`).join('');
  fs.writeFileSync(`${file}.mjs`, `export {\n${list}} from '${from}';\n`);
  fs.writeFileSync(`${file}.d.mts`, `export * from '${from}';\n`);
  console.log(`dist/${entry}: ${names.length} exports`);
}
