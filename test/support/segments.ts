/** What tests of segments share. */
import type { RecurrenceOptions } from '../reference/recurrence.ts';
import type { ProblemSpec } from './cases.ts';
import type { Cell } from './native.ts';
import { Random } from './random.ts';
import { sizeOf } from './tensor.ts';

export type Options = RecurrenceOptions & { cuSeqlens?: Int32Array };

/** All that stands before a cell: norm of the keys, activations. */
export function activations(
  { gate, update }: Cell,
  { HV = 1, K }: ProblemSpec,
  seed: number,
): Options {
  const random = new Random(seed);
  const draw = (...shape: number[]) => ({ data: random.normals(sizeOf(shape)), shape });
  const fused = gate === 'token' || gate === 'channel';
  const aLog = draw(HV);
  return {
    qkL2norm: true,
    ...(update === 'delta' && { betaActivation: 'sigmoid2' as const }),
    ...(fused && {
      gate: {
        aLog: { ...aLog, data: aLog.data.map((x) => x - 3) },
        dtBias: gate === 'token' ? draw(HV) : draw(HV, K),
      },
    }),
  };
}

/** The reference takes no option that it does not know, the engine none that the op has not. */
export function without<T extends object>(object: T, ...names: string[]): any {
  return Object.fromEntries(Object.entries(object).filter(([name]) => !names.includes(name)));
}
