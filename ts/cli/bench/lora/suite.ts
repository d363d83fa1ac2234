// `rankone bench lora-linear`: what is timed in the same turns, a base product first.
import type { Case } from '../../benchCase';
import { UsageError } from '../../errors';
import type { Pass, Shape } from '../../operation';
import { findOperations } from '../../ops';
import { loras } from '../../ops/lora';
import type { CaseOptions } from '../cases';

export const SUITE = 'lora-linear';

/** The formats that a run goes through unless told. */
const USUAL: readonly string[] = ['f32', 'bf16', 'int8', 'nf4'];
/** Those that a run has for the sake of a peer alone: one adapter. */
const BESIDE: readonly string[] = ['q8', 'q4'];
const RANKS = [8, 16, 64];
const TRAINED_RANKS = [16, 64];
const ROWS = [512, 1, 8, 64];
const SIZES = [4096, 4096];
const BANK = 1000;

/** Ranks and adapters of the cases on a base product with so many rows. */
function adaptersFor(pass: Pass, M: number): { r: number; E: number }[] {
  const ranks = pass === 'forward' ? RANKS : TRAINED_RANKS;
  const single = ranks.map((r) => ({ r, E: 1 }));
  if (pass === 'forward-backward')
    return M >= 64 ? [...single, { r: 16, E: Math.floor(M / 8) }] : single;
  if (M === 1) return single;
  if (M < 64) return [...single, { r: 16, E: M }];
  if (M < 512) return [...single, { r: 16, E: 8 }, { r: 16, E: BANK }];
  return [...single, { r: 16, E: 8 }, { r: 16, E: Math.floor(M / 8) }];
}

const EXPERTS = { r: 16, E: 8 };

/**
 * The cases of the suite. `op` names rows of its table (default: the usual formats, and two more beside ggml), `tokens`
 * numbers of rows, `shape` out and in.
 */
export function loraCases({ op, tokens, shape = SIZES, pass, dtype }: CaseOptions): Case[] {
  if (shape.length !== 2) throw new UsageError(`--shape ${shape}: ${SUITE} takes OUT,IN`);
  const names = op ?? usualNames();
  const plain = loras.filter(({ lora }) => lora!.perRow === 1);
  const chosen = findOperations(names, plain);
  const passes = (pass ?? ['forward', 'forward-backward']).filter((one) => one !== 'backward');
  const wrong = passes.find((one) => one !== 'forward' && one !== 'forward-backward');
  if (wrong !== undefined || passes.length === 0)
    throw new UsageError(`--pass ${wrong ?? pass}: ${SUITE} has forward, forward-backward only`);
  const [N, K] = shape;
  return chosen.flatMap((one) =>
    passes.flatMap((own) => {
      if (!one.passes.includes(own)) return [];
      const few = op === undefined && BESIDE.includes(one.lora!.format);
      if (few && own !== 'forward') return [];
      // A step of training has many rows.
      const rows = tokens ?? (own === 'forward' ? ROWS : ROWS.slice(0, 1));
      return rows.flatMap((M) => {
        const element = dtype?.[0] ?? (one.arithmetic ? 'bf16' : 'f32');
        const make = (name: string, sizes: { r: number; E: number }): Case => ({
          op: findOperations([name])[0],
          pass: own,
          shape: { M, N, K, ...sizes },
          dtype: element,
          mode: 'auto',
        });
        const adapters = few ? [{ r: 16, E: 1 }] : adaptersFor(own, M);
        const experts = !few && M >= 64 ? [make(`${one.name}/top2`, EXPERTS)] : [];
        return besideBase([...adapters.map((sizes) => make(one.name, sizes)), ...experts]);
      });
    }),
  );
}

function usualNames(): string[] {
  const ordered = [...USUAL, ...BESIDE];
  const ofFormats = ['', 'bf16/'].flatMap((arithmetic) =>
    ordered
      .filter((format) => arithmetic !== '' || !BESIDE.includes(format))
      .map((format) => `${arithmetic}lora/${format}`),
  );
  return [...ofFormats, 'int8/lora/int8'];
}

/** Cases on one base product each, with that before them: all of a base are timed in the same turns. */
export function besideBase(cases: readonly Case[]): Case[] {
  const groups = new Map<string, Case[]>();
  for (const one of cases) {
    const turns = turnsOf(one);
    groups.set(turns, [...(groups.get(turns) ?? [baseOf(one, turns)]), { ...one, turns }]);
  }
  return [...groups.values()].flat();
}

function turnsOf({ op, pass, dtype, shape: { M, N, K } }: Case): string {
  return [op.arithmetic ?? 'f32', op.lora!.format, pass, dtype, M, N, K].join(' ');
}

function baseOf(one: Case, turns: string): Case {
  const { format } = one.op.lora!;
  const op = loras.find(
    ({ lora, arithmetic }) =>
      lora!.format === format && lora!.perRow === 1 && arithmetic === one.op.arithmetic,
  )!;
  const { M, N, K } = one.shape;
  const shape: Shape = { M, N, K, r: 0, E: 0 };
  const { model: _, ...rest } = one;
  return { ...rest, op, shape, turns };
}
