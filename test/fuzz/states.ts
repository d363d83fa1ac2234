/** Sequences of what can be done to decode states, synchronously and not, held against a model in float64. */
import fc from 'fast-check';
import * as rankone from '../../ts/index';
import { forward } from '../reference/recurrence';
import { Random } from '../support/random';
import { planted } from './hostile';

export type Step =
  | { do: 'advance'; state: number; tokens: number; asynchronous: boolean; abort: boolean }
  | { do: 'read' | 'clone' | 'copy' | 'dispose' | 'refused'; state: number }
  | { do: 'turn' | 'wait' };

const state = fc.nat(2);
export const steps: fc.Arbitrary<Step[]> = fc.array(
  fc.oneof(
    {
      weight: 4,
      arbitrary: fc.record({
        do: fc.constant('advance' as const),
        state,
        tokens: fc.integer({ min: 0, max: 40 }),
        asynchronous: fc.boolean(),
        abort: fc.boolean(),
      }),
    },
    {
      weight: 4,
      arbitrary: fc.record({
        do: fc.constantFrom('read' as const, 'clone' as const, 'copy' as const, 'refused' as const),
        state,
      }),
    },
    { weight: 1, arbitrary: fc.record({ do: fc.constant('dispose' as const), state }) },
    { weight: 2, arbitrary: fc.record({ do: fc.constantFrom('turn' as const, 'wait' as const) }) },
  ),
  { minLength: 3, maxLength: 25 },
);

const [B, HV, K, V] = [1, 2, 8, 6];

class Model {
  busy = false;
  half = false;
  disposed = false;
  constructor(
    readonly real: rankone.RecurrentState,
    public content: Float64Array,
  ) {}

  /** What a use of the state must end with; undefined where nothing is wrong with it. */
  refusal(evenIfHalf = false): RegExp | undefined {
    if (this.disposed) return /disposed/;
    if (this.busy) return /busy/;
    return this.half && !evenIfHalf ? /half advanced/ : undefined;
  }
}

const far = (a: ArrayLike<number>, b: ArrayLike<number>): boolean => {
  let worst = a.length === b.length ? 0 : Infinity;
  for (let i = 0; i < a.length; i++) worst = Math.max(worst, Math.abs(a[i] - b[i]));
  return !(worst < 1e-3);
};

export async function runSteps(list: readonly Step[], seed: number): Promise<string | undefined> {
  const random = new Random(seed);
  const create = () => rankone.createState({ batch: B, valueHeads: HV, keyDim: K, valueDim: V });
  const models = [0, 1, 2].map(() => new Model(create(), new Float64Array(B * HV * K * V)));
  const running: Promise<string | undefined>[] = [];
  const problem = (T: number) => ({
    q: { data: random.normals(B * T * HV * K), shape: [B, T, HV, K] },
    k: { data: random.normals(B * T * HV * K, 0.3), shape: [B, T, HV, K] },
    v: { data: random.normals(B * T * HV * V), shape: [B, T, HV, V] },
    beta: { data: random.uniforms(B * T * HV), shape: [B, T, HV] },
  });
  const attempt = (refusal: RegExp | undefined, call: () => string | undefined) => {
    try {
      const wrong = call();
      return refusal ? `no error where ${refusal} was due` : wrong;
    } catch (error) {
      const { message } = error as Error;
      return refusal?.test(message) && /^\[/.test(message) ? undefined : message;
    }
  };
  for (const [index, step] of list.entries()) {
    const model = 'state' in step ? models[step.state % models.length] : models[0];
    const shape = [B, HV, K, V];
    let wrong: string | undefined;
    switch (step.do) {
      case 'advance': {
        const inputs = problem(step.tokens);
        const initialState = { data: model.content, shape };
        const expected = forward({ ...inputs, initialState });
        const refusal = model.refusal();
        if (!step.asynchronous) {
          wrong = attempt(refusal, () => {
            const { o } = rankone.deltaNetSync({ ...inputs, state: model.real });
            model.content = expected.finalState.data;
            return far(o.data, expected.o.data) ? 'other values' : undefined;
          });
          break;
        }
        const aborter = new AbortController();
        const call = rankone.deltaNet({ ...inputs, state: model.real }, { signal: aborter.signal });
        if (!refusal) model.busy = true;
        running.push(
          call.then(
            ({ o }) => {
              if (refusal) return `no error where ${refusal} was due`;
              model.busy = false;
              model.content = expected.finalState.data;
              return far(o.data, expected.o.data) ? 'other values' : undefined;
            },
            (error) => {
              if (refusal) return refusal.test(error?.message) ? undefined : String(error);
              model.busy = false;
              model.half = true;
              return step.abort && error === planted.object ? undefined : String(error);
            },
          ),
        );
        if (step.abort && !refusal) aborter.abort(planted.object);
        break;
      }
      case 'refused':
        wrong = attempt(model.refusal() ?? /beta: expected shape/, () => {
          rankone.deltaNetSync({ ...problem(2), beta: problem(1).beta, state: model.real });
          return undefined;
        });
        break;
      case 'read':
        wrong = attempt(model.refusal(), () =>
          far(model.real.toTensor().data, model.content) ? 'another content' : undefined,
        );
        break;
      case 'clone':
        wrong = attempt(model.refusal(), () => {
          models.push(new Model(model.real.clone(), model.content));
          models.reverse(); // the oldest are not the only ones that are used
          return undefined;
        });
        break;
      case 'copy':
        wrong = attempt(model.refusal(true), () => {
          const data = random.normals(B * HV * K * V);
          model.real.copyFrom({ data, shape });
          model.half = false;
          model.content = Float64Array.from(data);
          return undefined;
        });
        break;
      case 'dispose':
        wrong = attempt(model.busy ? /busy/ : undefined, () => {
          model.real.dispose();
          model.disposed = true;
          return undefined;
        });
        break;
      case 'turn':
        await new Promise((resolve) => setImmediate(resolve));
        break;
      case 'wait':
        await Promise.all(running);
        break;
    }
    if (wrong) return `step ${index}, ${step.do}: ${wrong}`;
  }
  const ends = await Promise.all(running);
  for (const { real } of models) real.dispose();
  return ends.find((end) => end !== undefined);
}
