/**
 * The recurrence grid, T = 512 and eight heads: forward, backward with what the forward saved, and decode in place.
 * Minimum flops per token and head: additive 4KV, delta n(4KV) + 2KV; backward 10KV, and 16KV for n = 1, 28KV for n = 2.
 */
import { backward, forward } from '../../test/reference/recurrence.ts';
import { gates, makeProblem } from '../../test/support/cases.ts';
import { expectWithin, rowFor } from '../../test/support/compare.ts';
import { createState, recurrenceBackwardSync, recurrenceSync } from '../../ts/index';
import type { Case } from '../case.ts';

const H = 8;
const T = 512;
const UPDATES = [
  { update: 'additive', n: 1, forward: 4, backward: 10 },
  { update: 'delta', n: 1, forward: 6, backward: 16 },
  { update: 'delta', n: 2, forward: 10, backward: 28 },
] as const;

export function recurrenceCases(): Case[] {
  const cases: Case[] = [];
  for (const K of [64, 128])
    for (const gate of gates) for (const rule of UPDATES) cases.push(...casesOf(K, gate, rule));
  return cases;
}

function casesOf(K: number, gate: (typeof gates)[number], rule: (typeof UPDATES)[number]): Case[] {
  const { update, n } = rule;
  const spec = { B: 1, H, K, V: K, n, gate, update };
  const options = { update, numHouseholder: n };
  const name = (pass: string) =>
    `${pass.padEnd(8)} ${gate}/${update}${n > 1 ? ` n=${n}` : ''} K=V=${K}`;
  const { dO, dFinalState: _, ...inputs } = makeProblem({ ...spec, T });
  const { saved } = recurrenceSync(inputs, { ...options, saveForBackward: true });
  const out = { o: { data: new Float32Array(dO.data.length), shape: dO.shape } };

  const small = makeProblem({ ...spec, T: 48, H: 1, withInitialState: true });
  const { dO: smallGradient, dFinalState: __, ...smallInputs } = small;
  const checkForward = () => {
    const { o } = recurrenceSync(smallInputs, options);
    expectWithin(
      name('forward'),
      o.data,
      forward(smallInputs, options).o.data,
      o.shape,
      rowFor('o', 48),
    );
  };
  const checkBackward = () => {
    const gradients = { ...smallInputs, dO: smallGradient };
    const { dk } = recurrenceBackwardSync(gradients, options);
    const reference = backward(gradients, options).dk;
    expectWithin(name('backward'), dk.data, reference.data, dk.shape, rowFor('dk', 48));
  };

  const { q, k, v, g, beta } = makeProblem({ ...spec, T: 1 });
  const state = createState({ batch: 1, valueHeads: H, keyDim: K, valueDim: K });
  return [
    {
      name: name('forward'),
      flops: rule.forward * K * K * T * H,
      units: T * H,
      check: checkForward,
      run: () => recurrenceSync(inputs, { ...options, out }),
    },
    {
      name: name('backward'),
      flops: rule.backward * K * K * T * H,
      units: T * H,
      check: checkBackward,
      run: () => recurrenceBackwardSync({ ...inputs, dO, saved }, options),
    },
    {
      name: name('decode'),
      flops: rule.forward * K * K * H,
      units: H,
      check: checkForward,
      run: () => recurrenceSync({ q, k, v, g, beta, state }, options),
    },
  ];
}
