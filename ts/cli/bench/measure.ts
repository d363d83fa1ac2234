// One case: the check, its times beside those of the peers, and what they say.
import type { Case } from '../benchCase';
import { checkSmall, prepare } from '../benchCase';
import type { Tensors } from '../operation';
import type { Peer, PeerCase } from '../peers/peer';
import { finish, placeName } from '../place';
import type { Ceilings, PeakKind } from './ceilings';
import { ceilingOf, levelOf, measurePeak } from './ceilings';
import { checkPeer, inputsForPeer } from './peerCheck';
import type { Contender } from './rounds';
import { noiseOf, ratioOf, timeInTurns } from './rounds';
import type { CaseKey, CaseResult, PeerResult, Skip } from './schema';
import { summarize } from './statistics';
import type { Traffic } from './traffic';

/** A result but for what the level of its data could give, which is known when a run has ended. */
export type Timed = Omit<CaseResult, keyof ReturnType<typeof movement>>;

export interface Measured {
  timed: Timed;
  traffic: Traffic;
  skipped: Skip[];
}

export interface Setting {
  seconds: number;
  peers: readonly Peer[];
  isa: string;
  threads: number;
}

/** A peer with a problem set up. */
export interface Opened {
  peer: Peer;
  /** Relative error of its answer to the small problem. */
  error: number;
  own: PeerCase;
}

/** Nothing is timed before its answer has been checked. @throws CheckError where the engine's own is wrong */
export async function measure(
  one: Case,
  { seconds, peers, isa, threads }: Setting,
): Promise<Measured> {
  const worstError = checkSmall(one);
  const skipped: Skip[] = [];
  const skip = (peer: Peer, reason: string): void => {
    skipped.push({ peer: peer.name, reason, cases: 1 });
  };
  const opened = await openPeers(one, peers, threads, skip);
  try {
    const { run, traffic } = prepare(one);
    const contenders = [
      await engineContender(run),
      ...opened.map(({ peer, own }) => ({
        name: peer.name,
        time: (runs: number) => own.time(runs),
      })),
    ];
    const kind = peakKindOf(one);
    const rounds = await timeInTurns(contenders, seconds, () => measurePeak(kind));
    const ours = rounds.samples[0];
    const peerResults = peerResultsOf(opened, ours, (peer, i) => {
      const failure = rounds.failures[i + 1];
      if (failure !== undefined) skip(peer, failure);
      return failure === undefined ? rounds.samples[i + 1] : undefined;
    });
    const summary = summarize(ours.flat());
    const timed: Timed = {
      ...keyOf(one, isa, threads),
      ...(one.model !== undefined && { model: one.model }),
      ...summary,
      noise: noiseOf(ours, rounds.peaks),
      ...rates(one, summary.medianNs, Math.max(...rounds.peaks)),
      worstError,
      peers: peerResults,
    };
    return { timed, traffic, skipped };
  } finally {
    for (const { own } of opened) await own.close();
  }
}

/** Which of the machine's peaks a case is held against. A device multiplies in bf16 what is not float32. */
export function peakKindOf({ op, dtype }: Case): PeakKind {
  if (placeName() !== 'cpu') return dtype === 'f32' ? 'f32' : 'bf16';
  return op.arithmetic ?? 'f32';
}

/** What the peers took; `samplesOf` gives nothing for one that dropped out. */
export function peerResultsOf(
  opened: readonly Opened[],
  ours: number[][],
  samplesOf: (peer: Peer, i: number) => number[][] | undefined,
): PeerResult[] {
  return opened.flatMap(({ peer, error }, i): PeerResult[] => {
    const theirs = samplesOf(peer, i);
    if (!theirs) return [];
    return [{ name: peer.name, error, ...summarize(theirs.flat()), ...ratioOf(ours, theirs) }];
  });
}

/** What tells a case from others. */
export function keyOf(
  { op, pass, mode, dtype, shape }: Case,
  isa: string,
  threads: number,
): CaseKey {
  return {
    op: op.name,
    pass,
    ...(op.recurrent && { mode }),
    dtype,
    shape: pass === 'decode' ? { ...shape, T: 1 } : shape,
    isa,
    threads,
  };
}

/** Only we tell a forward that saves from another, or do without what it saved. */
function withoutCounterpart({ pass }: Case): string | undefined {
  const ours = pass === 'forward-saving' || pass === 'backward-recomputing';
  return ours ? `${pass} has no counterpart` : undefined;
}

export async function openPeers(
  one: Case,
  peers: readonly Peer[],
  threads: number,
  skip: (peer: Peer, reason: string) => void,
): Promise<Opened[]> {
  const opened: Opened[] = [];
  let inputs: Tensors | undefined;
  for (const peer of peers) {
    const objection = withoutCounterpart(one) ?? peer.objection(one);
    if (objection !== undefined) {
      skip(peer, objection);
      continue;
    }
    try {
      const error = await checkPeer(peer, one, threads);
      inputs ??= inputsForPeer(one);
      opened.push({ peer, error, own: await peer.open(one, inputs, threads) });
    } catch (error) {
      skip(peer, (error as Error).message);
    }
  }
  return opened;
}

/** Calls that a device has under way at a time. */
const ENQUEUED = 16;

/** Calls from JavaScript to the end of the last one's work, a sample for every so many. */
async function timeOnDevice(run: () => unknown, runs: number): Promise<number[]> {
  const samples: number[] = [];
  for (let left = runs; left > 0; left -= ENQUEUED) {
    const count = Math.min(left, ENQUEUED);
    finish();
    const started = performance.now();
    for (let i = 0; i < count; i++) run();
    finish();
    samples.push((1e6 * (performance.now() - started)) / count);
  }
  return samples;
}

/** Single calls from JavaScript, as tinybench times them; on a device see above. */
export async function engineContender(run: () => unknown): Promise<Contender> {
  if (placeName() !== 'cpu') return { name: 'rankone', time: (runs) => timeOnDevice(run, runs) };
  // An ES module only; `import()` stays what it is in CommonJS.
  const { Bench } = await import('tinybench');
  const time = async (runs: number): Promise<number[]> => {
    const bench = new Bench({
      time: 0,
      iterations: runs,
      warmup: false,
      retainSamples: true,
      throws: true,
    });
    // Told, it need not call once more to see whether a promise comes back.
    bench.add('run', run, { async: false });
    await bench.run();
    const { result } = bench.tasks[0];
    if (!('latency' in result)) throw new Error(`timing ended as ${result.state}`);
    return result.latency.samples!.map((milliseconds) => 1e6 * milliseconds);
  };
  return { name: 'rankone', time };
}

/** Of the minimum arithmetic. */
export function rates(one: Case, medianNs: number, peakGflops: number) {
  const { op, pass, shape } = one;
  const heads = op.tokenHeads?.(pass, shape);
  const flops = op.flops(pass, shape);
  const gflops = flops / medianNs;
  const peak = peakKindOf(one);
  return {
    ...(heads !== undefined && { nsPerTokenHead: medianNs / heads }),
    ...(flops > 0 && { flops, gflops, shareOfPeak: gflops / peakGflops }),
    peak,
    peakGflops,
  };
}

/** Of the minimum traffic. */
export function movement(
  traffic: Traffic,
  medianNs: number,
  { bandwidths }: Pick<Ceilings, 'bandwidths'>,
) {
  const bytes = traffic.read + traffic.written;
  const gbPerSecond = bytes / medianNs;
  const level = levelOf(bandwidths, traffic.footprint);
  const levelGbPerSecond = ceilingOf(level, traffic);
  return {
    bytes,
    gbPerSecond,
    level: level.level,
    levelGbPerSecond,
    shareOfBandwidth: gbPerSecond / levelGbPerSecond,
  };
}
