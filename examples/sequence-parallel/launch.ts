/** Starts the ranks of a job and collects their reports. */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { buildAddon, runMpi } from './mpi.ts';
import { runProcesses } from './processes.ts';
import type { Job, Report } from './rank.ts';

export async function launch(ranks: number, job: Omit<Job, 'folder'>): Promise<Report[]> {
  const folder = mkdtempSync(path.join(os.tmpdir(), 'sequence-parallel-'));
  try {
    const program = path.join(__dirname, 'rank.ts');
    const args = [JSON.stringify({ ...job, folder })];
    // One thread a rank: what is compared is ranks.
    const env = { ...process.env, RANKONE_NUM_THREADS: '1' };
    if (job.transport === 'mpi') {
      buildAddon();
      await runMpi(ranks, program, args, env);
    } else {
      await runProcesses(ranks, program, args, env);
    }
    return Array.from({ length: ranks }, (_, rank) =>
      JSON.parse(readFileSync(path.join(folder, `${rank}.json`), 'utf8')),
    );
  } finally {
    rmSync(folder, { recursive: true });
  }
}
