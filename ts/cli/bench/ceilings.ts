// What the machine can do at most, on the engine's current number of threads: multiply-adds in registers, and bytes from
// each level of its caches.
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import type { DeviceTensor } from '../../device';
import { engine, internals } from '../engine';
import { finish, placed, placeName } from '../place';
import type { Traffic } from './traffic';

export type PeakKind = 'f32' | 'bf16' | 'int8';

export interface Level {
  /** `L1`, `L2`, `L3`, `memory` */
  level: string;
  /** Bytes that all threads together have of it; null of memory. */
  capacity: number | null;
}

export interface Bandwidth extends Level {
  /** Bytes per thread that it was measured with. */
  workingSet: number;
  /** GB/s. */
  read: number;
  /** GB/s, of reading and writing back in place: both count. */
  update: number;
}

export interface Ceilings {
  isa: string;
  threads: number;
  /** GF/s. bf16 and int8 where the instruction set has their dot products; those of int8 are integers. */
  peaks: { f32: number; bf16?: number; int8?: number };
  bandwidths: Bandwidth[];
}

interface Cache {
  level: string;
  bytes: number;
  /** Processors that share one: two of a core with two threads, all of them at most. */
  sharers: number;
}

// Where the system says nothing: sizes that are most likely inside of the level.
const TYPICAL: readonly Cache[] = [
  { level: 'L1', bytes: 32 << 10, sharers: 1 },
  { level: 'L2', bytes: 512 << 10, sharers: 1 },
  { level: 'L3', bytes: 8 << 20, sharers: Number.POSITIVE_INFINITY },
];

const SMALLEST_MEMORY_SET = 128 << 20;
const LARGEST_MEMORY_SET = 1 << 30;

/** The data caches of the first processor. */
export function caches(folder = '/sys/devices/system/cpu/cpu0/cache'): readonly Cache[] {
  let found: string[] = [];
  try {
    found = fs.readdirSync(folder).filter((name) => /^index\d+$/.test(name));
  } catch {
    return TYPICAL;
  }
  const parsed = found.flatMap((name): Cache[] => {
    const read = (file: string): string =>
      fs.readFileSync(path.join(folder, name, file), 'utf8').trim();
    try {
      const [, digits, unit] = /^(\d+)([KM]?)$/.exec(read('size'))!;
      if (read('type') === 'Instruction') return [];
      const bytes = Number(digits) * { '': 1, K: 1 << 10, M: 1 << 20 }[unit as 'K'];
      return [{ level: `L${read('level')}`, bytes, sharers: listed(read('shared_cpu_list')) }];
    } catch {
      return [];
    }
  });
  return parsed.length > 0 ? parsed.sort((a, b) => a.bytes - b.bytes) : TYPICAL;
}

/** How many processors a list of the kernel's names: `0-3,8`. */
function listed(list: string): number {
  return list.split(',').reduce((count, range) => {
    const [first, last = first] = range.split('-').map(Number);
    return count + last - first + 1;
  }, 0);
}

/** Bytes of a level that so many threads have together: the system spreads them over its caches, as many as there are. */
export function capacityOf(
  { bytes, sharers }: Pick<Cache, 'bytes' | 'sharers'>,
  threads: number,
  processors: number,
): number {
  return bytes * Math.min(threads, Math.max(1, Math.round(processors / sharers)));
}

// Windows as short as a turn of another process: the best of them has none.
const PEAK_WINDOW = 0.001;
const PEAK_WINDOWS = 8;

/** GF/s. */
export function measurePeak(kind: PeakKind): number {
  const { binding } = internals();
  if (placeName() !== 'cpu') return binding.devicePeak(deviceIndex(), kind);
  const windows = Array.from({ length: PEAK_WINDOWS }, () =>
    binding.measurePeak(kind, PEAK_WINDOW),
  );
  return Math.max(...windows);
}

/** The higher of two measurements of one machine: what else runs there can only lower them. */
export function higher(a: Ceilings, b: Ceilings): Ceilings {
  const peaks = { ...a.peaks };
  for (const [kind, peak] of Object.entries(b.peaks) as [PeakKind, number][])
    peaks[kind] = Math.max(peaks[kind] ?? 0, peak);
  return {
    ...a,
    peaks,
    bandwidths: a.bandwidths.map((one, i) => ({
      ...one,
      read: Math.max(one.read, b.bandwidths[i].read),
      update: Math.max(one.update, b.bandwidths[i].update),
    })),
  };
}

function deviceIndex(): number {
  return Number(placeName().replace('cuda:', ''));
}

/** Memory of a device that none of its caches holds. */
const DEVICE_SET = 256 << 20;
/** An emulated one computes it all on the CPU. */
const EMULATED_SET = 1 << 20;

/** By copies on the device, which read as much as they write. */
function measureDevice(): Ceilings {
  const { emulated } = engine().info().cuda.devices[deviceIndex()];
  const bytes = emulated ? EMULATED_SET : DEVICE_SET;
  const floats = placed({ data: new Float32Array(bytes / 4), shape: [bytes / 4] });
  const tensor = floats as unknown as DeviceTensor;
  const copy = (): void => tensor.clone().dispose();
  copy();
  let fastest = 0;
  for (let window = 0; window < 6; window++) {
    const copies = emulated ? 1 : 8;
    finish();
    const started = performance.now();
    for (let i = 0; i < copies; i++) copy();
    finish();
    const ns = 1e6 * (performance.now() - started);
    fastest = Math.max(fastest, (2 * bytes * copies) / ns);
  }
  tensor.dispose();
  const level = { level: 'memory', capacity: null, workingSet: bytes };
  return {
    isa: placeName(),
    threads: 1,
    peaks: { f32: measurePeak('f32'), bf16: measurePeak('bf16') },
    bandwidths: [{ ...level, read: fastest, update: fastest }],
  };
}

/** Takes about half a second. */
export function measureCeilings(): Ceilings {
  if (placeName() !== 'cpu') return measureDevice();
  const { isa } = engine().info();
  const threads = engine().getNumThreads();
  const peaks: Ceilings['peaks'] = { f32: measurePeak('f32') };
  if (isa === 'avx512bf16') {
    peaks.bf16 = measurePeak('bf16');
    peaks.int8 = measurePeak('int8');
  }
  return { isa, threads, peaks, bandwidths: measureBandwidths(threads) };
}

/** Bytes that no cache of this machine holds any substantial part of. */
export function memorySet(): number {
  if (placeName() !== 'cpu') return DEVICE_SET;
  const { length: processors } = os.cpus();
  const capacities = caches().map((cache) =>
    capacityOf(cache, engine().getNumThreads(), processors),
  );
  return Math.min(LARGEST_MEMORY_SET, Math.max(SMALLEST_MEMORY_SET, 4 * Math.max(...capacities)));
}

function measureBandwidths(threads: number): Bandwidth[] {
  const { binding } = internals();
  const processors = os.cpus().length;
  const known = caches().map(({ level, ...cache }) => {
    const capacity = capacityOf(cache, threads, processors);
    return { level, capacity, workingSet: Math.floor(capacity / 2 / threads) };
  });
  const sets = [
    ...known,
    { level: 'memory', capacity: null, workingSet: Math.floor(memorySet() / threads) },
  ];
  return sets.map((set) => {
    // A set of memory takes longer to lay out than to go through.
    const [windows, seconds] = set.capacity === null ? [1, 0.03] : [6, 0.003];
    const speed = (traffic: 'read' | 'update'): number => {
      const measured = Array.from({ length: windows }, () =>
        binding.measureBandwidth(traffic, set.workingSet, seconds),
      );
      return Math.max(...measured);
    };
    return { ...set, read: speed('read'), update: speed('update') };
  });
}

/** The nearest level that holds so many bytes. */
export function levelOf<L extends Level>(levels: readonly L[], bytes: number): L {
  return levels.find(({ capacity }) => capacity === null || bytes <= capacity)!;
}

/**
 * GB/s that a level can give to a mixture: what is written is read before, at the speed of updating, and the rest of the
 * reads come at the speed of reading.
 */
export function ceilingOf({ read, update }: Bandwidth, traffic: Traffic): number {
  const readAlone = Math.max(0, traffic.read - traffic.written);
  const ns = readAlone / read + (2 * traffic.written) / update;
  return (traffic.read + traffic.written) / ns;
}
