/** The states between segments, out of any chain of transitions. */

import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import * as reference from '../reference/segments.ts';
import { encode } from '../support/half.ts';
import { call, expectNear, normals } from '../support/layers.ts';
import { native } from '../support/native.ts';
import fc from '../support/property.ts';
import { without } from '../support/segments.ts';
import { throwsWith } from './helpers.ts';

const compose = suite('composeStates');

const chains = fc.record({
  R: fc.integer({ min: 0, max: 5 }),
  N: fc.integer({ min: 0, max: 2 }),
  HV: fc.integer({ min: 1, max: 3 }),
  K: fc.constantFrom(1, 5, 16),
  V: fc.constantFrom(1, 7, 32, 70),
  rank: fc.constantFrom(3, 4, 5),
  start: fc.boolean(),
  end: fc.boolean(),
  seed: fc.integer({ min: 1, max: 1 << 30 }),
});

compose('a transition of zeros keeps nothing, whatever it was', async () => {
  const normal = normals(3);
  for (const kept of [[], [2], [2, 2]]) {
    const transitions = { data: new Float32Array(2 * 2 ** kept.length), shape: [2, 1, 1, ...kept] };
    const states = normal(2, 1, 1, 2, 3);
    states.data.set([Number.NaN, Infinity], 0);
    const forward = await call('composeStates', { transitions, states });
    const last = Array.from(states.data.subarray(6));
    assert.equal(Array.from(forward.finalState.data), last, `${kept}`);
    const dFinalState = normal(1, 1, 2, 3);
    dFinalState.data[0] = Number.NaN;
    const inputs = { transitions, dInitialStates: normal(2, 1, 1, 2, 3), dFinalState };
    const { dStates } = await call('composeStatesBackward', inputs);
    assert.ok(dStates.data.subarray(0, 6).every(Number.isFinite), `${kept}`);
  }
});

compose('drawn chains and their gradients', async () => {
  await fc.assert(
    fc.asyncProperty(chains, async ({ R, N, HV, K, V, rank, start, end, seed }) => {
      const normal = normals(seed);
      const transitions = normal(...[R, N, HV, K, K].slice(0, rank));
      transitions.data.forEach((x, i) => {
        transitions.data[i] = rank === 5 ? x / Math.sqrt(K) : x;
      });
      const inputs = {
        transitions,
        states: normal(R, N, HV, K, V),
        ...(start && { initialState: normal(N, HV, K, V) }),
      };
      const forward = await call('composeStates', inputs);
      expectNear('composeStates', forward, reference.composeStates(inputs), 1e-5);
      const given = {
        ...without(inputs, 'states'),
        initialStates: forward.initialStates,
        dInitialStates: normal(R, N, HV, K, V),
        ...(end && { dFinalState: normal(N, HV, K, V) }),
      };
      const gradients = await call('composeStatesBackward', given);
      expectNear('backward', gradients, reference.composeStatesBackward(given) as any, 1e-5);
    }),
    { numRuns: 25, seed: 11 },
  );
});

compose('sums over more rows than one stretch', async () => {
  const normal = normals(6);
  const transitions = normal(2, 1, 1, 130, 130);
  for (const [i, x] of transitions.data.entries()) transitions.data[i] = x / 12;
  const states = normal(2, 1, 1, 130, 3);
  const inputs = { transitions, states, initialState: normal(1, 1, 130, 3) };
  const composed = await call('composeStates', inputs);
  expectNear('composeStates', composed, reference.composeStates(inputs), 1e-5);
});

compose('what is not read may hold anything', () => {
  const normal = normals(3);
  const transitions = normal(3, 1, 1, 4);
  const states = normal(3, 1, 1, 4, 2);
  transitions.data.fill(Number.NaN, 0, 4);
  const { finalState } = native.composeStatesSync({ transitions, states });
  assert.ok(finalState.data.every(Number.isFinite));
  transitions.data.set(normals(4)(4).data);
  transitions.data.fill(Number.NaN, 8);
  const { dStates } = native.composeStatesBackwardSync({ transitions, dInitialStates: states });
  assert.ok(dStates.data.every(Number.isFinite));
});

compose('bad input', () => {
  const normal = normals(5);
  const good = { transitions: normal(2, 1, 3), states: normal(2, 1, 3, 4, 5) };
  const bad = (inputs: object, pattern: RegExp, kind: any = RangeError) =>
    throwsWith(() => native.composeStatesSync({ ...good, ...inputs }), kind, pattern);
  bad({ transitions: normal(2, 1) }, /\[composeStates\] transitions: expected rank 3 /);
  bad(
    { transitions: normal(2, 1, 3, 5) },
    /transitions: expected shape \[R,N,HV,K\] = \[2,1,3,4\]/,
  );
  bad({ states: normal(2, 1, 3, 4) }, /states: expected shape \[R,N,HV,K,V\], got/);
  bad({ states: normal(2, 1, 3, 4, 513) }, /states: expected K and V from 1 to 512/);
  bad({ initialState: normal(1, 3, 4, 4) }, /initialState: expected shape/);
  bad({ states: encode('bf16', good.states) }, /states: expected .*f32/, TypeError);
  bad({ state: good.states }, /unknown/, TypeError);
  const backward = { transitions: good.transitions, dInitialStates: good.states };
  throwsWith(
    () => native.composeStatesBackwardSync({ ...backward, initialStates: normal(1) }),
    RangeError,
    /\[composeStatesBackward\] initialStates: expected/,
  );
});

compose.run();
