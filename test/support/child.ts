/** Programs in processes of their own, for tests whose failure may be a crash or a hang. */
import { spawnSync } from 'node:child_process';
import path from 'node:path';
import * as assert from 'uvu/assert';

const root = path.join(__dirname, '../..');

const PRELUDE = `
  const { Worker, isMainThread, parentPort, workerData } = require('node:worker_threads');
  const rankone = require(process.env.RANKONE_DIST);
  const ramp = (...shape) => ({
    data: Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, (_, i) => ((i * 37) % 101) / 101 - 0.5),
    shape,
  });
  const problem = (B, T, H, K, V) => {
    const [g, beta] = [ramp(B, T, H), ramp(B, T, H)];
    g.data.forEach((x, i) => { g.data[i] = -Math.abs(x); });
    beta.data.forEach((x, i) => { beta.data[i] = Math.abs(x); });
    return { q: ramp(B, T, H, K), k: ramp(B, T, H, K), v: ramp(B, T, H, V), g, beta };
  };
  const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
  const own = (workerData) => new Worker(process.env.SOURCE, { eval: true, workerData });
`;

export interface Program {
  /** What the main thread runs. `rankone`, `ramp(...shape)`, `problem(B,T,H,K,V)`, `sleep(ms)` and `own(data)` are there. */
  main: string;
  /** What a worker made by `own(workerData)` runs. */
  worker?: string;
  /** The expected exit code, default 0. */
  code?: number;
  /** Arguments of node. */
  flags?: string[];
}

/** Runs a program against the built package and returns its standard output. A signal or another exit code fails. */
export function runProgram({ main, worker = '', code = 0, flags = [] }: Program): string {
  const source = `${PRELUDE} if (isMainThread) { ${main} } else { ${worker} }`;
  const { status, signal, stdout, stderr, error } = spawnSync(
    process.execPath,
    [...flags, '-e', source],
    {
      cwd: root,
      encoding: 'utf8',
      timeout: 300_000,
      env: { ...process.env, SOURCE: source, RANKONE_DIST: path.join(root, 'dist/index.js') },
    },
  );
  assert.is(error, undefined);
  assert.is(signal, null, `ended with ${signal}: ${stderr}`);
  assert.is(status, code, `exit code ${status}: ${stderr}`);
  return stdout.trim();
}
