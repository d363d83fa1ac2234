// Runs cases on every instruction set and number of threads, and gathers what comes.
import type { Case } from '../benchCase';
import { UsageError } from '../errors';
import { machine } from '../info';
import type { Place } from '../place';
import { Progress } from '../progress';
import { specOf } from './cases';
import type { Timed } from './measure';
import { keyOf, movement } from './measure';
import { runIsa } from './runIsa';
import type { BenchReport, CaseKey } from './schema';
import { keyText, SCHEMA, VERSION } from './schema';
import { addSkip } from './skipped';
import type { Traffic } from './traffic';
import type { Message } from './worker';

export interface Plan {
  cases: readonly Case[];
  isas: readonly string[];
  threads: readonly number[];
  seconds: number;
  peers: readonly string[];
  /** Of a device: the one name in `isas`. */
  place: Place;
}

/** The cases that an instruction set has. */
function casesOn(isa: string, cases: readonly Case[]): Case[] {
  return cases.filter(({ op }) => op.isa === undefined || op.isa === isa);
}

/** Every result that a plan leads to. @throws UsageError for an operation that none of its instruction sets has */
export function keysOf({ cases, isas, threads }: Plan): CaseKey[] {
  const lost = cases.find(({ op }) => op.isa !== undefined && !isas.includes(op.isa));
  if (lost && isas.every((isa) => casesOn(isa, cases).length === 0)) {
    throw new UsageError(`--op ${lost.op.name}: on ${lost.op.isa} only, not on ${isas.join(', ')}`);
  }
  return isas.flatMap((isa) =>
    threads.flatMap((n) => casesOn(isa, cases).map((one) => keyOf(one, isa, n))),
  );
}

export async function collect(plan: Plan): Promise<BenchReport> {
  const { cases, isas, threads, seconds, peers, place } = plan;
  const report: BenchReport = {
    schema: SCHEMA,
    version: VERSION,
    created: new Date().toISOString(),
    machine: machine(),
    options: { seconds, peers: [...peers] },
    ceilings: [],
    cases: [],
    peers: [],
    skipped: [],
    failures: [],
  };
  const progress = new Progress(keysOf(plan).length);
  try {
    for (const isa of isas) {
      const own = casesOn(isa, cases);
      if (own.length === 0) continue;
      const settings = { threads: [...threads], seconds, peers: [...peers], place };
      const task = { cases: own.map(specOf), ...settings };
      const gather = gatherer(report);
      await runIsa(isa, task, (message) => {
        gather(message);
        if (message.type === 'case' || message.type === 'failure') progress.step();
        if (message.type !== 'start') return;
        progress.label(keyText(keyOf(own[message.index], isa, message.threads)));
      });
    }
  } finally {
    progress.close();
  }
  return report;
}

/** Puts what a process says into the report. */
function gatherer(report: BenchReport): (message: Message) => void {
  let waiting: { timed: Timed; traffic: Traffic }[] = [];
  return (message) => {
    switch (message.type) {
      case 'peers':
        for (const peer of message.found) {
          if (!report.peers.some(({ name }) => name === peer.name)) report.peers.push(peer);
        }
        break;
      case 'skip':
        addSkip(report.skipped, message.skip);
        break;
      case 'failure':
        report.failures.push(message.message);
        break;
      case 'case':
        waiting.push({ timed: message.timed, traffic: message.traffic });
        break;
      case 'ceilings':
        report.ceilings.push(message.ceilings);
        for (const { timed, traffic } of waiting) {
          report.cases.push({ ...timed, ...movement(traffic, timed.medianNs, message.ceilings) });
        }
        waiting = [];
        break;
    }
  };
}
