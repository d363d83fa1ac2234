// From the options of the command line to a list of cases.

import { nearest } from '../../errors';
import type { Case } from '../benchCase';
import type { Dtype } from '../dtype';
import { UsageError } from '../errors';
import type { Mode, Operation, Pass, Shape } from '../operation';
import { allPasses } from '../operation';
import { findOperations, operations } from '../ops';
import { besideBase, loraCases, SUITE } from './lora/suite';
import type { Model } from './models';
import { models } from './models';

export interface CaseOptions {
  op?: string[];
  model?: string[];
  shape?: number[];
  tokens?: number[];
  dtype?: Dtype[];
  mode?: Mode;
  pass?: Pass[];
}

/** The cases of a suite, or those that the options ask for. @throws UsageError for what does not go together */
export function casesFor(suite: string | undefined, options: CaseOptions): Case[] {
  if (suite === undefined) return casesOf(options);
  if (suite !== SUITE) throw new UsageError(`bench ${suite}: expected ${SUITE}`);
  const { model, mode } = options;
  if (model !== undefined || (mode !== undefined && mode !== 'auto'))
    throw new UsageError(`${SUITE} has no --model and no --mode`);
  return loraCases(options);
}

const DEFAULT_OPS = [
  'linearAttention',
  'gla',
  'mamba2',
  'deltaNet',
  'gatedDeltaNet',
  'kda',
  'matmul',
];
const TOKENS_OF_A_MODEL = 512;

/** One operation on one shape. */
interface Subject {
  op: Operation;
  shape: Shape;
  model?: string;
}

/** The cases that the options ask for. @throws UsageError for what does not go together */
export function casesOf(options: CaseOptions): Case[] {
  const { tokens, dtype = ['f32'], mode = 'auto', pass } = options;
  const subjects = options.model ? modelSubjects(options) : opSubjects(options);
  const among = new Set(subjects.flatMap(({ op }) => op.passes));
  // Asked for by name, a pass must be there; among several operations it may be missing in some.
  const missing = pass?.find((one) => !among.has(one));
  if (missing !== undefined) {
    const names = [...new Set(subjects.map(({ op }) => op.name))];
    const have = allPasses.filter((one) => among.has(one)).join(', ');
    throw new UsageError(`--pass ${missing}: ${names.join(', ')} has ${have} only`);
  }
  const cases = subjects.flatMap(({ op, shape, model }) => {
    const wanted = op.passes.filter((own) => !pass || pass.includes(own));
    return dtype
      .filter((own) => own === 'f32' || op.halves)
      .flatMap((own) =>
        wanted.flatMap((one) => {
          // A token of decode does not know how many came before it.
          const counts = one === 'decode' ? [1] : (tokens ?? [shape[op.tokens]]);
          return counts.map((count): Case => {
            const sized = { ...shape, [op.tokens]: count };
            return { op, pass: one, shape: sized, dtype: own, mode, ...(model && { model }) };
          });
        }),
      );
  });
  // Once each, however often the options name it.
  const once = new Map(cases.map((one) => [JSON.stringify(specOf(one)), one]));
  const all = [...once.values()];
  if (all.length > 0)
    return [...all.filter(({ op }) => !op.lora), ...besideBase(all.filter(({ op }) => op.lora))];
  const names = subjects.map(({ op }) => op.name).join(', ');
  throw new UsageError(`--dtype ${dtype}: ${names} is float32 only`);
}

function modelSubjects({ model, op, shape, tokens }: CaseOptions): Subject[] {
  if (op || shape) {
    throw new UsageError(
      '--model has its own operation and shape: not together with --op and --shape',
    );
  }
  return model!.flatMap(findModels).map(({ name, op: opName, shape: sizes }) => {
    const [found] = findOperations([opName]);
    const T = tokens?.[0] ?? TOKENS_OF_A_MODEL;
    return { op: found, shape: { B: 1, T, ...sizes }, model: name };
  });
}

function findModels(name: string): readonly Model[] {
  if (name === 'all') return models;
  const found = models.find((one) => one.name === name);
  if (found) return [found];
  const legal = models.map((one) => one.name);
  const hint = nearest(name, legal);
  throw new UsageError(
    `--model ${name}: expected one of ${legal.join(', ')}` + (hint ? `; nearest: ${hint}` : ''),
  );
}

function opSubjects({ op, shape }: CaseOptions): Subject[] {
  const chosen = op
    ? findOperations(op)
    : findOperations(DEFAULT_OPS).filter(({ axes }) => !shape || axes.length === shape.length);
  if (chosen.length === 0) {
    const legal = [...new Set(findOperations(DEFAULT_OPS).map(({ axes }) => axes.join()))];
    throw new UsageError(
      `--shape ${shape}: expected ${legal.join(' or ')}, got ${shape!.length} numbers`,
    );
  }
  return chosen.map((one) => ({ op: one, shape: shapeOf(one, shape) }));
}

/** The numbers of `--shape` under the operation's letters. */
export function shapeOf(op: Operation, numbers?: readonly number[]): Shape {
  if (!numbers) return op.usual;
  if (numbers.length !== op.axes.length) {
    throw new UsageError(
      `--shape ${numbers}: ${op.name} takes ${op.axes} (${op.axes.length} numbers), got ${numbers.length}`,
    );
  }
  const shape = Object.fromEntries(op.axes.map((axis, i) => [axis, numbers[i]]));
  const objection = op.objection?.(shape);
  if (objection) throw new UsageError(`--shape ${numbers}: ${objection}`);
  return shape;
}

/** A case between processes: its operation by name. */
export type CaseSpec = Omit<Case, 'op'> & { op: string };

export function specOf({ op, ...rest }: Case): CaseSpec {
  return { ...rest, op: op.name };
}

export function caseOf({ op, ...rest }: CaseSpec): Case {
  return { ...rest, op: operations.find(({ name }) => name === op)! };
}
