import type { Batch } from '../common/model.ts';
import type { Random } from '../common/random.ts';

/** A finite group: elements are numbers from 0, the neutral one. */
export interface Group {
  name: string;
  order: number;
  /** `product[a * order + b]` is a after b: first b, then a. */
  product: Int32Array;
}

/** Addition modulo m. */
export function cyclic(m: number): Group {
  const product = Int32Array.from({ length: m * m }, (_, i) => (Math.floor(i / m) + i) % m);
  return { name: `Z${m}`, order: m, product };
}

export type Permutation = readonly number[];

/** All permutations of n things in lexical order, the neutral one first. */
export function permutations(n: number): Permutation[] {
  if (n === 0) return [[]];
  const shorter = permutations(n - 1);
  return Array.from({ length: n }, (_, first) =>
    shorter.map((rest) => [first, ...rest.map((x) => (x >= first ? x + 1 : x))]),
  ).flat();
}

/** Whether a permutation is a product of an even number of transpositions. */
export function isEven(p: Permutation): boolean {
  let even = true;
  for (let i = 0; i < p.length; i++) for (let j = 0; j < i; j++) if (p[j] > p[i]) even = !even;
  return even;
}

export function permutationGroup(name: string, elements: readonly Permutation[]): Group {
  const order = elements.length;
  const numbers = new Map(elements.map((p, i) => [p.join(), i]));
  const product = new Int32Array(order * order);
  for (const [a, p] of elements.entries())
    for (const [b, q] of elements.entries())
      product[a * order + b] = numbers.get(q.map((x) => p[x]).join())!;
  return { name, order, product };
}

export const symmetric = (n: number) => permutationGroup(`S${n}`, permutations(n));
export const alternating = (n: number) => permutationGroup(`A${n}`, permutations(n).filter(isEven));

/** A word problem: after each letter, which element is the product of all letters so far? */
export interface Task {
  name: string;
  title: string;
  group: Group;
  /** The elements that stand in words; all of the group without it. */
  letters?: readonly number[];
}

/** The letters are the group's elements; one more token stands before the first. */
export const vocabularyOf = (task: Task) => task.group.order + 1;

/** Words of random letters, `[size, length + 1]` with the token that starts them, which is no target. */
export function wordBatch(
  { group, letters }: Task,
  size: number,
  length: number,
  random: Random,
): Batch {
  const shape = [size, length + 1];
  const inputs = new Int32Array(size * (length + 1));
  const targets = new Int32Array(inputs.length);
  for (let row = 0, at = 0; row < size; row++) {
    inputs[at] = group.order;
    targets[at++] = -100;
    for (let t = 0, state = 0; t < length; t++, at++) {
      const letter = letters
        ? letters[random.integer(letters.length)]
        : random.integer(group.order);
      state = group.product[letter * group.order + state];
      inputs[at] = letter;
      targets[at] = state;
    }
  }
  return { inputs: { data: inputs, shape }, targets: { data: targets, shape } };
}
