// All cases on one base product, in turns with each other, with what is not fused, and with the peers.
import { relativeErrors } from '#oracle/support/compare';
import type { TensorLike } from '#oracle/support/tensor';
import type { Case, Prepared } from '../../benchCase';
import { CheckError } from '../../benchCase';
import { valuesOf } from '../../dtype';
import { SCALE } from '../../ops/lora';
import { factorType } from '../../peers/problem';
import { placeName } from '../../place';
import { measurePeak } from '../ceilings';
import type { Measured, Opened, Setting, Timed } from '../measure';
import { engineContender, keyOf, openPeers, peakKindOf, peerResultsOf, rates } from '../measure';
import type { Contender, Rounds } from '../rounds';
import { noiseOf, ratioOf, timeInTurns } from '../rounds';
import type { Relation, Skip } from '../schema';
import { median, summarize } from '../statistics';
import { checkLora } from './check';
import { fusedRun, unfusedRun } from './runs';
import { targetsOf } from './targets';

/** Differences of a percent are the matter here: more rounds than elsewhere. */
const ROUNDS = { fewest: 9, most: 15 };

interface Own {
  one: Case;
  prepared: Prepared;
  worstError: number;
  opened: Opened[];
}

/** The first case is the base product. @throws CheckError where an answer of the engine's is wrong */
export async function measureTurns(cases: readonly Case[], setting: Setting): Promise<Measured[]> {
  const { seconds, peers, threads } = setting;
  const skipped: Skip[] = [];
  const owns: Own[] = [];
  try {
    for (const one of cases) {
      const skip = (peer: { name: string }, reason: string): void => {
        skipped.push({ peer: peer.name, reason, cases: 1 });
      };
      const worstError = checkLora(one);
      const opened = await openPeers(one, peers, threads, skip);
      owns.push({ one, worstError, opened, prepared: fusedRun(one) });
    }
    const contenders: Contender[] = [];
    const names: string[] = [];
    const add = (name: string, contender: Contender): void => {
      names.push(name);
      contenders.push(contender);
    };
    for (const [i, { prepared }] of owns.entries())
      add(`${i}`, await engineContender(prepared.run));
    for (const [i, { one, prepared }] of owns.entries()) {
      if (!hasUnfused(one)) continue;
      const unfused = unfusedRun(one);
      unfused.run();
      if (one.pass === 'forward') expectSame(one, prepared, unfused.y());
      add(`${i} unfused`, await engineContender(unfused.run));
    }
    for (const [i, { opened }] of owns.entries())
      for (const { peer, own } of opened)
        add(`${i} ${peer.name}`, { name: peer.name, time: (runs) => own.time(runs) });
    const kind = peakKindOf(cases[0]);
    const rounds = await timeInTurns(contenders, seconds, () => measurePeak(kind), ROUNDS);
    const failed = rounds.failures.findIndex(
      (failure, i) => failure !== undefined && (names[i].endsWith('unfused') || i < owns.length),
    );
    if (failed >= 0) throw new Error(rounds.failures[failed]);
    const samplesOf = (name: string): number[][] => rounds.samples[names.indexOf(name)];
    const measured = owns.map((own, i): Measured => {
      const peersOf = peerResultsOf(own.opened, samplesOf(`${i}`), (peer) => {
        const at = names.indexOf(`${i} ${peer.name}`);
        const failure = rounds.failures[at];
        if (failure !== undefined) skipped.push({ peer: peer.name, reason: failure, cases: 1 });
        return failure === undefined ? rounds.samples[at] : undefined;
      });
      const relations = relationsOf(i, owns, samplesOf);
      const timed = timedOf(own, rounds, samplesOf(`${i}`), setting);
      return {
        timed: { ...timed, ...relations, peers: peersOf },
        traffic: own.prepared.traffic,
        skipped: [],
      };
    });
    measured[0].skipped.push(...skipped);
    return measured;
  } finally {
    for (const { opened } of owns) for (const { own } of opened) await own.close();
  }
}

function hasUnfused({ op, shape: { E } }: Case): boolean {
  const onCpu = placeName() === 'cpu'; // a plain product is there only
  return onCpu && E === 1 && op.lora!.perRow === 1 && op.arithmetic !== 'int8';
}

function timedOf(
  { one, worstError }: Own,
  { peaks }: Rounds,
  samples: number[][],
  { isa, threads }: Setting,
): Timed {
  const summary = summarize(samples.flat());
  const targets = targetsOf(one);
  return {
    ...keyOf(one, isa, threads),
    ...summary,
    noise: noiseOf(samples, peaks),
    ...rates(one, summary.medianNs, Math.max(...peaks)),
    worstError,
    ...(Object.keys(targets).length > 0 && { targets }),
    peers: [],
  };
}

/** The time of a case as a multiple of the base product's, of one adapter's of the same rank, and of the unfused. */
function relationsOf(
  i: number,
  owns: readonly Own[],
  samplesOf: (name: string) => number[][],
): { relations?: Relation[] } {
  const { one } = owns[i];
  if (i === 0) return {};
  const ours = samplesOf(`${i}`);
  const over = (to: Relation['to'], theirs: number[][]): Relation => {
    return { to, medianNs: median(theirs.flat()), ...ratioOf(theirs, ours) };
  };
  const single = owns.findIndex(
    (own) =>
      own.one.shape.E === 1 && own.one.shape.r === one.shape.r && own.one.op.lora!.perRow === 1,
  );
  const relations = [over('base', samplesOf('0'))];
  if (single >= 0 && single !== i) relations.push(over('one adapter', samplesOf(`${single}`)));
  if (hasUnfused(one)) relations.push(over('unfused', samplesOf(`${i} unfused`)));
  return { relations };
}

/** What another order of sums and one more rounding explain. */
const SAME = { f32: 1e-5, f16: 2e-3, bf16: 1.5e-2 };

/** That the unfused products compute what the fused one does. @throws CheckError */
function expectSame(one: Case, { run }: Prepared, [base, added]: TensorLike[]): void {
  const fused = valuesOf((run() as { y: TensorLike }).y).data;
  const [of, more] = [valuesOf(base).data, valuesOf(added).data];
  const sum = Float64Array.from(of, (value, i) => value + SCALE * more[i]);
  const { row } = relativeErrors(fused, sum, { shape: [1, sum.length], axes: { kept: [0] } });
  if (row.error <= SAME[factorType(one)]) return;
  throw new CheckError(`${one.op.name}: the unfused products are off by ${row.error}, not timed`);
}
