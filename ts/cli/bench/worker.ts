// One instruction set of `rankone bench`, in a process of its own: RANKONE_ISA is read once.
import type { Case } from '../benchCase';
import { CheckError } from '../benchCase';
import { engine } from '../engine';
import { UsageError } from '../errors';
import { findPeers } from '../peers';
import type { Place } from '../place';
import { computeOn } from '../place';
import type { CaseSpec } from './cases';
import { caseOf } from './cases';
import type { Ceilings } from './ceilings';
import { higher, measureCeilings } from './ceilings';
import { measureTurns } from './lora/measure';
import type { Measured, Setting, Timed } from './measure';
import { measure } from './measure';
import type { Skip } from './schema';
import type { Traffic } from './traffic';

/** What the parent asks for. */
export interface Task {
  cases: CaseSpec[];
  threads: number[];
  seconds: number;
  peers: string[];
  place: Place;
}

/** What it gets, one by one. */
export type Message =
  | { type: 'start'; index: number; threads: number }
  /** After the cases of a number of threads. */
  | { type: 'ceilings'; ceilings: Ceilings }
  | { type: 'peers'; found: { name: string; version: string }[] }
  | { type: 'skip'; skip: Skip }
  | { type: 'case'; timed: Timed; traffic: Traffic }
  | { type: 'failure'; message: string }
  | { type: 'error'; error: Thrown };

/** An error on its way between processes. */
export interface Thrown {
  kind: 'usage' | 'type' | 'range' | 'other';
  message: string;
  stack?: string;
  code?: string;
}

function send(message: Message): void {
  process.send!(message);
}

async function run({ cases, threads, seconds, peers: wanted, place }: Task): Promise<void> {
  computeOn(place);
  const { found, missing } = await findPeers(wanted);
  send({ type: 'peers', found: found.map(({ name, version }) => ({ name, version })) });
  for (const { name: peer, reason } of missing) {
    send({ type: 'skip', skip: { peer, reason, cases: 0 } });
  }
  for (const n of threads) {
    if (place === 'cpu') engine().setNumThreads(n);
    const before = measureCeilings();
    const setting = { seconds, peers: found, isa: before.isa, threads: n };
    for (let index = 0; index < cases.length; ) {
      send({ type: 'start', index, threads: n });
      const together = inTurns(cases, index);
      index += together.length;
      try {
        for (const { skipped, ...measured } of await measureAll(together, setting)) {
          for (const skip of skipped) send({ type: 'skip', skip });
          send({ type: 'case', ...measured });
        }
      } catch (error) {
        if (!(error instanceof CheckError)) throw error;
        send({ type: 'failure', message: error.message });
      }
    }
    send({ type: 'ceilings', ceilings: higher(before, measureCeilings()) });
  }
}

/** The cases that are timed in the same turns as the one at `index`. */
function inTurns(cases: readonly CaseSpec[], index: number): Case[] {
  const { turns } = cases[index];
  const end = cases.findIndex((spec, i) => i > index && (!turns || spec.turns !== turns));
  return cases.slice(index, end < 0 ? cases.length : end).map(caseOf);
}

async function measureAll(cases: readonly Case[], setting: Setting): Promise<Measured[]> {
  return cases[0].turns ? measureTurns(cases, setting) : [await measure(cases[0], setting)];
}

function thrown(error: NodeJS.ErrnoException): Thrown {
  const { message, stack, code } = error;
  const kind =
    error instanceof UsageError
      ? 'usage'
      : error instanceof TypeError
        ? 'type'
        : error instanceof RangeError
          ? 'range'
          : 'other';
  return { kind, message, stack, code };
}

process.once('message', async (task) => {
  try {
    await run(task as Task);
  } catch (error) {
    send({ type: 'error', error: thrown(error as Error) });
  }
  process.disconnect();
});
