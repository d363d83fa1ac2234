/** The package as its users get it: packed with a prebuild for this system, and installed. Made once for all tests. */
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { libc } from '../../ts/libc';
import { openRegistry } from './registry.ts';
import { output, plainEnvironment } from './run.ts';

export const root = path.join(__dirname, '../..');

/** The addon under test. */
export const addon = path.resolve(
  root,
  process.env.RANKONE_BINDING ?? 'build/Release/rankone.node',
);

const tag = process.platform === 'linux' ? `.${libc().split(' ')[0]}` : '';
/** Where its prebuild lies in the package. */
export const prebuild = `prebuilds/${process.platform}-${process.arch}/rankone${tag}.node`;

export interface Installed {
  /** What `npm pack` makes of this checkout, without prebuilds. */
  packed: string;
  /** The same with the addon under test as the prebuild for this system. */
  tarball: string;
  /** A folder where it is installed. */
  home: string;
}

/** Stamps of all that is packed. */
function key(): string {
  const { files } = JSON.parse(fs.readFileSync(path.join(root, 'package.json'), 'utf8'));
  const hash = createHash('sha256');
  const add = (file: string): void => {
    const stat = fs.statSync(file, { throwIfNoEntry: false });
    if (stat?.isDirectory())
      for (const name of fs.readdirSync(file).sort()) add(path.join(file, name));
    else hash.update(`${file} ${stat?.size} ${stat?.mtimeMs}\n`);
  };
  const folders = files.map((name: string) => name.replace(/^!|\/\*.*$/g, ''));
  for (const name of [...folders, 'package.json', 'package-lock.json', 'README.md'])
    add(path.join(root, name));
  add(addon);
  return hash.digest('hex').slice(0, 16);
}

/** The environment of a user who has nothing: no settings, and of the commands only those in the folders given. */
export function emptyEnvironment(home: string, ...folders: string[]): NodeJS.ProcessEnv {
  const env = {
    ...plainEnvironment(),
    HOME: home,
    XDG_CONFIG_HOME: home,
    XDG_CACHE_HOME: home,
    XDG_DATA_HOME: home,
  };
  return folders.length ? { ...env, PATH: folders.join(path.delimiter) } : env;
}

/** Arguments of `npm install` for a tarball whose dependencies the registry of tests has. */
export function npmInstall(tarball: string, registry: string, home: string): string[] {
  const flags = ['--no-audit', '--no-fund', '--ignore-scripts', '--registry', registry];
  return ['install', ...flags, '--cache', path.join(home, '.npm'), tarball];
}

async function make(home: string): Promise<void> {
  const args = ['pack', '--json', '--ignore-scripts', '--silent', '--pack-destination', home];
  const packing = {
    cwd: root,
    env: { ...emptyEnvironment(home), npm_config_cache: path.join(home, '.npm') },
  };
  const [{ filename }] = JSON.parse((await output('npm', args, packing)).replace(/^[^[]*/, ''));
  const place = { cwd: home, env: emptyEnvironment(home) };
  await output('tar', ['-xzf', filename], place);
  fs.rmSync(path.join(home, 'package/prebuilds'), { recursive: true, force: true });
  const held = path.join(home, 'package', prebuild);
  // Prebuilds of the checkout are another test's.
  await output('tar', ['-czf', 'packed.tgz', 'package'], place);
  fs.mkdirSync(path.dirname(held), { recursive: true });
  fs.copyFileSync(addon, held);
  await output('tar', ['-czf', 'rankone.tgz', 'package'], place);
  fs.rmSync(path.join(home, 'package'), { recursive: true });
  fs.rmSync(path.join(home, filename));
  fs.writeFileSync(path.join(home, 'package.json'), '{"private":true}');
  const registry = await openRegistry();
  try {
    await output('npm', npmInstall('rankone.tgz', registry.url, home), place);
  } finally {
    registry.close();
  }
  // What `rankone/tfjs` is used with.
  const peer = path.join(root, 'node_modules/@tensorflow');
  fs.symlinkSync(peer, path.join(home, 'node_modules/@tensorflow'));
}

const HOUR = 3_600_000;

/** Away from this checkout, whose node_modules would stand in for what the package forgets to depend on. */
const store = path.join(fs.realpathSync(os.tmpdir()), `rankone-tests-${os.userInfo().uid}`);

/** The package, installed; tests write in folders of their own, made by `folderIn`. */
export async function installed(): Promise<Installed> {
  const name = `package-${key()}`;
  const home = path.join(store, name);
  if (!fs.existsSync(home)) {
    fs.mkdirSync(store, { recursive: true });
    for (const other of fs.readdirSync(store).filter((f) => /^(package|pack)-/.test(f))) {
      const file = path.join(store, other);
      const stat = fs.statSync(file, { throwIfNoEntry: false });
      if (stat && Date.now() - stat.mtimeMs > HOUR)
        fs.rmSync(file, { recursive: true, force: true });
    }
    const made = fs.mkdtempSync(path.join(store, 'pack-'));
    await make(made);
    try {
      fs.renameSync(made, home);
    } catch {
      // Another test was faster.
      fs.rmSync(made, { recursive: true });
    }
  }
  return { packed: path.join(home, 'packed.tgz'), tarball: path.join(home, 'rankone.tgz'), home };
}

/** An empty folder whose programs find the installed package. */
export function folderIn(home: string): string {
  return fs.mkdtempSync(path.join(home, 'user-'));
}

/** An empty folder away from every package. */
export function folderElsewhere(): string {
  return fs.mkdtempSync(path.join(fs.realpathSync(os.tmpdir()), 'rankone-user-'));
}
