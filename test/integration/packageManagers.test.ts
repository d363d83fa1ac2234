// The package in the layouts of other package managers, from its tarball and a registry on this machine: pnpm, whose
// packages see only what they depend on; yarn classic; yarn berry with node_modules and with Plug'n'Play, where the addon
// has to lie outside of the zip files.
import fs from 'node:fs';
import path from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import {
  emptyEnvironment,
  folderElsewhere,
  type Installed,
  installed,
  prebuild,
  root,
} from '../support/installed.ts';
import { openRegistry, type Registry } from '../support/registry.ts';
import { output, type Place } from '../support/run.ts';
import { fetched } from '../support/tools.ts';

const BODY = `
  const { y } = matmulSync({ a: tensor([1, 2], [1, 2]), b: tensor([3, 4], [2, 1]) });
  const from = internals.resolve('rankone');
  console.log(y.data[0], from.replaceAll('\\\\', '/'));`;
const CJS = `const { matmulSync, tensor } = require('rankone'); const internals = require; ${BODY}`;
const ESM = `
  import { createRequire } from 'node:module';
  import { matmulSync, tensor } from 'rankone';
  const internals = createRequire(import.meta.url); ${BODY}`;

const scratch = folderElsewhere();
/** The system that the CUDA package is for. */
const hasCuda =
  process.platform === 'linux' && process.arch === 'x64' && prebuild.includes('.glibc.');
let made: Installed;
let registry: Registry;

test.before(async () => {
  made = await installed();
  registry = await openRegistry();
  // With a library that does not load: it is the finding that depends on the layout.
  const folder = path.join(scratch, 'package');
  fs.cpSync(path.join(root, 'cuda/package'), folder, { recursive: true });
  fs.writeFileSync(path.join(folder, 'rankone_cuda.so'), 'no library');
  await output('tar', ['-czf', 'cuda.tgz', 'package'], { cwd: scratch });
});

test.after(() => {
  registry?.close();
  fs.rmSync(scratch, { recursive: true });
});

interface Layout {
  /** The package of the package manager, its version and its program. */
  from: [string, string, string];
  /** Files of the project besides package.json. */
  files?: (url: string) => Record<string, string>;
  add: string[];
  /** What comes before a program, and before the name of a package's command. */
  node: string[];
  command: string[];
  /** Where the package has to be. */
  place: RegExp;
}

const berry = (linker: string): Layout => ({
  from: ['@yarnpkg/cli-dist', '4.18.1', 'bin/yarn.js'],
  files: (url) => ({
    '.yarnrc.yml': [
      `nodeLinker: ${linker}`,
      `npmRegistryServer: "${url}"`,
      'unsafeHttpWhitelist: ["127.0.0.1"]',
      'enableTelemetry: false',
      'enableGlobalCache: false',
      'npmMinimalAgeGate: 0',
      'pnpEnableEsmLoader: true',
      'pnpFallbackMode: none',
      '',
    ].join('\n'),
    'yarn.lock': '',
  }),
  add: ['add'],
  node: ['node'],
  command: ['run'],
  place:
    linker === 'pnp'
      ? /\/\.yarn\/unplugged\/rankone-[^/]+\/node_modules\/rankone\//
      : /\/project\/node_modules\/rankone\//,
});

const layouts: Record<string, Layout> = {
  pnpm: {
    from: ['pnpm', '10.34.8', 'bin/pnpm.cjs'],
    files: (url) => ({ '.npmrc': `registry=${url}\n` }),
    add: ['add', '--ignore-scripts'],
    node: ['exec', 'node'],
    command: ['exec'],
    place: /\/node_modules\/\.pnpm\/rankone@[^/]+\/node_modules\/rankone\//,
  },
  'yarn classic': {
    from: ['yarn', '1.22.22', 'bin/yarn.js'],
    files: (url) => ({ '.yarnrc': `registry "${url}"\n`, '.npmrc': `registry=${url}\n` }),
    add: ['add', '--ignore-scripts', '--non-interactive'],
    node: ['-s', 'node'],
    command: ['-s', 'run'],
    place: /\/project\/node_modules\/rankone\//,
  },
  'yarn berry, node_modules': berry('node-modules'),
  "yarn berry, Plug'n'Play": berry('pnp'),
};

for (const [name, layout] of Object.entries(layouts)) {
  const [manager, version, program] = layout.from;
  const folder = fetched(manager, version);
  (folder ? test : test.skip)(name, async () => {
    const home = folderElsewhere();
    try {
      const cwd = path.join(home, 'project');
      fs.mkdirSync(cwd);
      const files = {
        'package.json': '{"private":true}',
        'app.cjs': CJS,
        'app.mjs': ESM,
        ...layout.files?.(registry.url),
      };
      for (const [file, text] of Object.entries(files))
        fs.writeFileSync(path.join(cwd, file), text);
      const place: Place = { cwd, env: emptyEnvironment(home) };
      const run = (...args: string[]) =>
        output(process.execPath, [path.join(folder!, program), ...args], place);
      const cuda = hasCuda ? [`rankone-cuda-linux-x64@file:${path.join(scratch, 'cuda.tgz')}`] : [];
      await run(...layout.add, `rankone@file:${made.tarball}`, ...cuda);
      for (const file of ['app.cjs', 'app.mjs']) {
        const [product, where] = (await run(...layout.node, file)).split(' ');
        assert.is(product, '11', file);
        assert.match(where, layout.place);
      }
      // The command line needs more of what the package depends on.
      const info = JSON.parse(await run(...layout.command, 'rankone', 'info', '--json'));
      assert.match(info.binary, layout.place);
      assert.match(info.binary, /\/prebuilds\//);
      if (hasCuda)
        assert.match(info.cuda, /\/rankone-cuda-linux-x64\/rankone_cuda\.so: file too short/);
    } finally {
      fs.rmSync(home, { recursive: true });
    }
  });
}

test.run();
