/** Programs that run beside the test, in an environment without this checkout's or its caller's settings. */
import { execFile } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import * as assert from 'uvu/assert';

export interface Ended {
  status: number | string;
  stdout: string;
  stderr: string;
}

export interface Place {
  cwd: string;
  env?: NodeJS.ProcessEnv;
}

/** The environment, but for what npm and rankone read from it. */
export function plainEnvironment(): NodeJS.ProcessEnv {
  const settings = Object.entries(process.env).filter(([name]) => {
    return !/^(npm_|RANKONE_|NODE_|YARN_|PNPM_|PREBUILD|LIBC$|INIT_CWD$|CI$)/i.test(name);
  });
  return Object.fromEntries(settings);
}

/** Runs a program to its end, whatever that is. */
export function attempt(
  command: string,
  args: string[],
  { cwd, env = plainEnvironment() }: Place,
): Promise<Ended> {
  return new Promise((resolve) => {
    const options = { cwd, env, encoding: 'utf8' as const, maxBuffer: 2 ** 26, timeout: 300_000 };
    execFile(command, args, options, (error, stdout, stderr) => {
      resolve({ status: error ? (error.signal ?? error.code ?? 1) : 0, stdout, stderr });
    });
  });
}

/** What a program prints that must end well. */
export async function output(command: string, args: string[], place: Place): Promise<string> {
  const { status, stdout, stderr } = await attempt(command, args, place);
  assert.is(status, 0, `${command} ${args.join(' ')}\n${stdout}${stderr}`);
  return stdout.trim();
}

/** The script of the npm that this machine has, for any Node. */
export function npmScript(): string {
  const folders = process.env.PATH!.split(path.delimiter);
  const files = folders.map((folder) => path.join(folder, 'npm')).filter((f) => fs.existsSync(f));
  const given = process.env.npm_execpath;
  return given?.endsWith('npm-cli.js') ? given : fs.realpathSync(files[0]);
}

/** A folder of commands: node and sh, and nothing that compiles. */
export function commandsIn(folder: string, node = process.execPath): string {
  const commands = path.join(folder, 'commands');
  fs.mkdirSync(commands);
  fs.symlinkSync(node, path.join(commands, 'node'));
  fs.symlinkSync('/bin/sh', path.join(commands, 'sh'));
  return commands;
}
