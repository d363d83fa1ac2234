import { fork } from 'node:child_process';
import path from 'node:path';
import { UsageError } from '../errors';
import type { Message, Task, Thrown } from './worker';

/** Runs a task on an instruction set, or on the device that the task names. @throws what the process has thrown, and Error where it died */
export async function runIsa(
  isa: string,
  task: Task,
  onMessage: (message: Message) => void,
): Promise<void> {
  const file = path.join(__dirname, `worker${path.extname(__filename)}`);
  const child = fork(file, {
    env: task.place === 'cpu' ? { ...process.env, RANKONE_ISA: isa } : process.env,
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
    serialization: 'advanced', // keeps infinities
  });
  let failure: Thrown | undefined;
  child.on('message', (message) => {
    const said = message as Message;
    if (said.type === 'error') failure = said.error;
    else onMessage(said);
  });
  child.send(task);
  const [code, signal] = await new Promise<[number | null, string | null]>((resolve, reject) => {
    child.on('error', reject);
    child.on('close', (...end) => resolve(end));
  });
  if (failure) throw errorOf(failure);
  if (code !== 0) throw new Error(`bench on ${isa} ended with ${signal ?? `exit code ${code}`}`);
}

function errorOf({ kind, message, stack, code }: Thrown): Error {
  const kinds = { usage: UsageError, type: TypeError, range: RangeError, other: Error };
  const error = new kinds[kind](message);
  return Object.assign(error, { stack, ...(code !== undefined && { code }) });
}
