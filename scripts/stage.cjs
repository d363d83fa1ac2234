// The tests as plain JavaScript, for a Node of another system: neither tsx nor esbuild has to run there. Compiled into
// build-prebuilds/stage/ as they lie in the tree, with links to what they read.
const { spawnSync } = require('node:child_process');
const fs = require('node:fs');
const path = require('node:path');
const { root } = require('./targets.cjs');

const stage = path.join(root, 'build-prebuilds/stage');
const linked = ['package.json', 'node_modules', 'dist', 'docs', 'README.md', 'sources.json'];

// What TensorFlow.js registers its gradients by is a module of ECMAScript that names its own files without their
// extensions, and plain Node finds none of them.
const gradients = '@tensorflow/tfjs-core/dist/register_all_gradients';

function bundleGradients() {
  const bundle = path.join(stage, 'test/registerGradients.js');
  const { buildSync } = require(require.resolve('esbuild', { paths: [require.resolve('tsx')] }));
  buildSync({
    entryPoints: [path.join(root, 'node_modules', `${gradients}.js`)],
    ...{ bundle: true, platform: 'node', format: 'cjs', outfile: bundle, logLevel: 'error' },
  });
  for (const name of fs.readdirSync(path.join(stage, 'test'), { recursive: true })) {
    const file = path.join(stage, 'test', name);
    if (!file.endsWith('.js') || file === bundle) continue;
    const text = fs.readFileSync(file, 'utf8');
    const own = path.relative(path.dirname(file), bundle).split(path.sep).join('/');
    if (text.includes(gradients)) fs.writeFileSync(file, text.replaceAll(gradients, own));
  }
}

function makeStage() {
  fs.rmSync(stage, { recursive: true, force: true });
  fs.mkdirSync(path.join(stage, 'test'), { recursive: true });
  const project = path.join(stage, 'tsconfig.json');
  const compilerOptions = {
    noEmit: false,
    allowImportingTsExtensions: false,
    rewriteRelativeImportExtensions: true,
    rootDir: root,
    outDir: stage,
    noCheck: true,
    paths: { '#oracle/*': [path.join(root, 'test/*.ts')] },
    typeRoots: [path.join(root, 'node_modules/@types')],
  };
  const config = {
    extends: path.join(root, 'tsconfig.json'),
    compilerOptions,
    include: [path.join(root, 'ts'), path.join(root, 'test')],
    exclude: [path.join(root, 'test/types')],
  };
  fs.writeFileSync(project, JSON.stringify(config));
  const tsc = path.join(path.dirname(require.resolve('typescript/package.json')), 'bin/tsc');
  const { status } = spawnSync(process.execPath, [tsc, '-p', project], { stdio: 'inherit' });
  if (status !== 0) throw new Error('the tests could not be compiled');
  bundleGradients();
  for (const name of [...linked, 'test/fixtures'])
    fs.symlinkSync(path.join(root, name), path.join(stage, name));
  return stage;
}

module.exports = { makeStage, stage };
if (require.main === module) console.log(makeStage());
