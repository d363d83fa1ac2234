import { fork } from 'node:child_process';
import os from 'node:os';
import path from 'node:path';
import type { Finding } from './check';
import type { Dtype } from './dtype';
import { dtypes } from './dtype';
import { headline, machine } from './info';
import { isasToRun } from './isas';
import { findOperations, operations } from './ops';
import { expectWritable, report } from './output';
import { Progress } from './progress';
import { table } from './table';
import type { Row, Task } from './verifyIsa';

export interface VerifyOptions {
  op?: string[];
  isa?: string[];
  dtype?: Dtype[];
  quick?: boolean;
  json?: string;
}

interface IsaResult {
  isa: string;
  rows: Row[];
  /** Why its process ended early. */
  failure?: string;
}

/** Instruction sets at a time: the float64 reference, which runs on one thread, takes nearly all of the time. */
const PARALLEL = Math.max(1, Math.min(4, os.availableParallelism()));

/** `rankone verify`; returns the exit code. */
export async function runVerify(options: VerifyOptions): Promise<number> {
  const started = performance.now();
  expectWritable(options.json);
  const isas = isasToRun(options.isa);
  const ops = options.op ? findOperations(options.op) : operations;
  const task: Task = {
    dtypes: options.dtype ?? [...dtypes],
    ops: ops.map((op) => op.name),
    quick: options.quick ?? false,
  };
  const halves = task.dtypes.filter((dtype) => dtype !== 'f32').length;
  const rowsOf = (isa: string): number =>
    ops.reduce((sum, op) => {
      const runs = op.isa === undefined || op.isa === isa;
      return runs ? sum + task.dtypes.length - (op.halves ? 0 : halves) : sum;
    }, 0);
  const progress = new Progress(isas.reduce((sum, isa) => sum + rowsOf(isa), 0));
  const results: IsaResult[] = isas.map((isa) => ({ isa, rows: [] }));
  const waiting = [...results];
  const lane = async (): Promise<void> => {
    for (let next = waiting.shift(); next; next = waiting.shift()) {
      await runIsa(next, task, progress);
    }
  };
  await Promise.all(Array.from({ length: PARALLEL }, lane));
  progress.close();

  for (const result of results) {
    const rows = rowsOf(result.isa);
    if (result.failure || result.rows.length === rows) continue;
    result.failure = `computed ${result.rows.length} of ${rows} rows`;
  }
  const failures = results.flatMap(failuresOf);
  const seconds = (performance.now() - started) / 1000;
  const all = results.flatMap(({ isa, rows }) => rows.map((row) => ({ isa, ...row })));
  const passed = failures.length === 0;
  report(
    options.json,
    { machine: machine(), quick: task.quick, passed, seconds, failures, results: all.map(toJson) },
    [
      headline(machine()),
      "Worst error as a share of the contract's limit; above 1 is a failure.",
      ...results.flatMap((result) => task.dtypes.flatMap((dtype) => tablesOf(result, dtype))),
      '',
      ...failures.map((failure) => `FAIL ${failure}`),
      `${passed ? 'ok' : `${failures.length} failed`}: ${all.length} rows in ${seconds.toFixed(1)} s`,
    ].join('\n'),
  );
  return passed ? 0 : 1;
}

async function runIsa(result: IsaResult, task: Task, progress: Progress): Promise<void> {
  const file = path.join(__dirname, `verifyIsa${path.extname(__filename)}`);
  const child = fork(file, [JSON.stringify(task)], {
    // Scratch memory and results start as NaN, so that what a kernel leaves out shows.
    env: { ...process.env, RANKONE_ISA: result.isa, RANKONE_POISON: '1' },
    stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
    serialization: 'advanced', // keeps infinities
  });
  let said = '';
  for (const stream of [child.stdout!, child.stderr!]) {
    stream.on('data', (chunk) => {
      said += chunk;
    });
  }
  child.on('message', (message) => {
    const row = message as Row;
    result.rows.push(row);
    progress.label(`${result.isa} ${row.dtype} ${row.op}`);
    progress.step();
  });
  const [code, signal] = await new Promise<[number | null, string | null]>((resolve) => {
    child.on('close', (...end) => resolve(end));
  });
  if (code === 0) return;
  const last = said.trim() && `\n${said.trim()}`;
  result.failure = `ended with ${signal ?? `exit code ${code}`}${last}`;
}

function passes(finding: Finding): boolean {
  return finding.fraction <= 1;
}

function failuresOf({ isa, rows, failure }: IsaResult): string[] {
  const found = rows.flatMap(({ dtype, op, findings }) =>
    findings
      .filter((finding) => !passes(finding))
      .map(({ form, tensor, fraction }) => {
        const wrong = Number.isFinite(fraction)
          ? `off by ${fraction.toPrecision(3)} times the limit`
          : 'not finite, or not of its shape';
        return `${isa} ${dtype} ${op} ${form}: ${tensor} is ${wrong}`;
      }),
  );
  return failure ? [...found, `${isa}: ${failure}`] : found;
}

function toJson({ isa, dtype, op, findings }: Row & { isa: string }) {
  const forms = findings.map((finding) => [
    finding.form,
    { tensor: finding.tensor, fraction: finding.fraction, passed: passes(finding) },
  ]);
  return { isa, dtype, op, passed: findings.every(passes), forms: Object.fromEntries(forms) };
}

/** A table of the recurrences and one of the rest: their forms differ. */
function tablesOf({ isa, rows }: IsaResult, dtype: Dtype): string[] {
  const ofDtype = rows.filter((row) => row.dtype === dtype);
  const heads = new Map<string, Row[]>();
  for (const row of ofDtype) {
    const forms = row.findings.map(({ form }) => form).filter((form) => form !== 'backward');
    const head = [...forms, 'backward'].join();
    heads.set(head, [...(heads.get(head) ?? []), row]);
  }
  return [...heads].map(([head, members]) => {
    const forms = head.split(',');
    const lines = members.map(({ op, findings }) => [
      op,
      ...forms.map((form) => {
        const finding = findings.find((one) => one.form === form);
        return finding ? finding.fraction.toFixed(2) : '-';
      }),
      findings.every(passes) ? 'ok' : 'FAIL',
    ]);
    return `\n${table([[`${isa}, ${dtype}`, ...forms, ''], ...lines])}`;
  });
}
