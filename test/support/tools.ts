/** Published packages that only tests need, of one version each: fetched once through the npm client, kept in node_modules/.cache. */
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';

export const cache = path.join(__dirname, '../../node_modules/.cache/rankone');

/**
 * The folder of a package. Where it cannot be had nothing, with a line that says what is skipped for it; in a continuous
 * integration (CI) that is an error.
 */
export function fetched(name: string, version: string): string | undefined {
  const home = path.join(cache, `${name.replace('/', '+')}-${version}`);
  const folder = path.join(home, 'node_modules', name);
  if (fs.existsSync(folder)) return folder;
  fs.mkdirSync(cache, { recursive: true });
  const made = fs.mkdtempSync(path.join(cache, 'fetch-'));
  fs.writeFileSync(path.join(made, 'package.json'), '{"private":true}');
  const args = [
    'install',
    '--no-save',
    '--no-audit',
    '--no-fund',
    '--ignore-scripts',
    '--fetch-retries=1',
  ];
  const { status, stderr } = spawnSync('npm', [...args, '--prefer-offline', `${name}@${version}`], {
    cwd: made,
    encoding: 'utf8',
    timeout: 300_000,
  });
  try {
    if (status === 0) fs.renameSync(made, home);
  } catch {
    // Another test was faster.
  }
  fs.rmSync(made, { recursive: true, force: true });
  if (fs.existsSync(folder)) return folder;
  const why =
    stderr.split('\n').find((line) => /npm (error|ERR!)/.test(line)) ?? 'npm install failed';
  const text = `${name}@${version} cannot be fetched: ${why}`;
  if (process.env.CI) throw new Error(text);
  console.log(`skipped: tests with ${text} (CI=true makes that a failure)`);
  return undefined;
}
