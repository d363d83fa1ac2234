import type { MixerName, MixerOptions } from '../common/mixers/index.ts';
import { alternating, cyclic, symmetric, type Task } from './groups.ts';

/** By name; the groups of the last three are made when they are asked for. */
export const TASKS = {
  parity: () => ({ name: 'parity', title: 'parity', group: cyclic(2) }),
  mod5: () => ({ name: 'mod5', title: 'ones counted modulo 5', group: cyclic(5), letters: [0, 1] }),
  S3: () => ({ name: 'S3', title: 'words of S3', group: symmetric(3) }),
  S4: () => ({ name: 'S4', title: 'words of S4', group: symmetric(4) }),
  A5: () => ({ name: 'A5', title: 'words of A5', group: alternating(5) }),
  S5: () => ({ name: 'S5', title: 'words of S5', group: symmetric(5) }),
} satisfies Record<string, () => Task>;

export type TaskName = keyof typeof TASKS;
export const TASK_NAMES = Object.keys(TASKS) as TaskName[];

/** A mixer as it is compared. */
export interface Arm {
  name: string;
  label: string;
  color: string;
  mixer: MixerName;
  options: MixerOptions;
}

const arm = (
  name: string,
  label: string,
  color: string,
  mixer: MixerName,
  options: MixerOptions = {},
): Arm => ({ name, label, color, mixer, options });

const product = (n: number, color: string) =>
  arm(`deltaProduct${n}`, `deltaProduct n = ${n}, [0,2]`, color, 'deltaProduct', {
    negativeEigenvalues: true,
    householders: n,
  });

/** The brackets are the range of beta. */
export const ARMS: readonly Arm[] = [
  arm('mamba2', 'mamba2', '#999999', 'mamba2'),
  arm('gla', 'gla', '#bcbd22', 'gla'),
  arm('gatedDeltaNet', 'gatedDeltaNet [0,1]', '#17becf', 'gatedDeltaNet'),
  arm('deltaNet', 'deltaNet [0,1]', '#1f77b4', 'deltaNet'),
  arm('deltaNet2', 'deltaNet [0,2]', '#ff7f0e', 'deltaNet', { negativeEigenvalues: true }),
  product(2, '#2ca02c'),
  product(3, '#d62728'),
  product(4, '#9467bd'),
];

export const ARM_NAMES = ARMS.map((a) => a.name);
