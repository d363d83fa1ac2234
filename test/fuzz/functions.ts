/** The functions that are no operation: tensor(), createState() and what it returns, threads, info. */
import fc from 'fast-check';
import { description } from '../../ts/binding';
import * as rankone from '../../ts/index';
import { Random } from '../support/random';
import { sizeOf } from '../support/tensor';
import { type Node, type ObjectNode, objectNode, raw, tensorNode, World } from './build';
import { hostile, hostileNames, wasPlanted } from './hostile';
import { type Mutation, mutate, mutation } from './mutations';

export interface FunctionRecipe {
  function: (typeof FUNCTIONS)[number];
  seed: number;
  mutations: Mutation[];
  values: string[];
}

const FUNCTIONS = [
  'tensor',
  'createState',
  'copyFrom',
  'deserialize',
  'methods',
  'threads',
  'made',
] as const;

export const functionRecipe: fc.Arbitrary<FunctionRecipe> = fc.record({
  function: fc.constantFrom(...FUNCTIONS),
  seed: fc.nat(),
  mutations: fc.array(mutation, { maxLength: 2 }),
  values: fc.array(fc.constantFrom(...hostileNames), { minLength: 3, maxLength: 3 }),
});

type Outcome = string | undefined;

/** An error of the engine, one that planted code threw, or one of V8 about the caller's own objects. */
function judgeError(error: any, name: string, r: FunctionRecipe): Outcome {
  const text = `ended with ${error?.name}: ${String(error?.message).slice(0, 300)}`;
  if (wasPlanted(error)) return undefined;
  if (![TypeError, RangeError, Error].includes(error?.constructor)) return text;
  const { message } = error;
  if (
    /proxy|private m|properties of (undefined|null)|must be an instance/.test(message) &&
    message[0] !== '['
  )
    return error instanceof TypeError ? undefined : text;
  const named = message.startsWith(`[${name}`) && /^\[[\w.]+\] /.test(message);
  if (!named || message.includes('internal error')) return text;
  if (message.length > 1000) return `a message of ${message.length} characters`;
  return r.mutations.length === 0 && ['tensor', 'createState', 'copyFrom'].includes(r.function)
    ? `a legal call ${text}`
    : undefined;
}

const noActions = { call() {}, start() {}, dispose() {}, threads() {} };
const anyEntry = description.entries[0];

export function runFunction(r: FunctionRecipe): Outcome {
  const random = new Random(r.seed);
  const integer = (): number => 1 + random.integer(4);
  const world = new World(noActions);
  const prepared = (node: Node): Node => {
    const root: ObjectNode = objectNode({ only: node });
    for (const m of r.mutations) mutate(root, anyEntry, m);
    return root.props.get('only')?.node ?? raw(undefined);
  };
  const attempt = (name: string, call: () => Outcome): Outcome => {
    try {
      return call();
    } catch (error) {
      return judgeError(error, name, r);
    }
  };
  switch (r.function) {
    case 'tensor': {
      const shape = Array.from({ length: random.integer(4) }, integer);
      const Kind = [Float32Array, Int32Array, Uint16Array][random.integer(3)];
      const dtype = Kind === Uint16Array ? 'bf16' : Kind === Int32Array ? 'i32' : undefined;
      const data = new Kind(sizeOf(shape)).fill(3);
      const node = prepared(tensorNode({ data, shape, dtype }));
      const args =
        node.kind === 'object'
          ? [...node.props.values()].map((p) => world.build(p.node))
          : [world.build(node)];
      return attempt('tensor', () => {
        const t = (rankone.tensor as any)(...args);
        if (sizeOf(t.shape) !== t.data.length) return `${t.data.length} for [${t.shape}]`;
        if (!t.shape.every(Number.isSafeInteger)) return `shape [${t.shape}]`;
        return undefined;
      });
    }
    case 'createState': {
      const fields = { batch: 1, valueHeads: 2, keyDim: integer(), valueDim: integer() };
      const entries = Object.entries(fields).map(([key, value]) => [key, raw(value)]);
      const argument = world.build(prepared(objectNode(Object.fromEntries(entries))));
      return attempt('createState', () => {
        const state = rankone.createState(argument);
        const { shape } = state;
        if (!shape.every((d) => Number.isInteger(d) && d > 0)) return `shape [${shape}]`;
        if (sizeOf(shape) < 1e5 && state.toTensor().data.length !== sizeOf(shape)) return 'size';
        state.dispose();
        return undefined;
      });
    }
    case 'copyFrom': {
      const state = rankone.createState({ batch: 1, valueHeads: 2, keyDim: 3, valueDim: 4 });
      const data = random.normals(24);
      const argument = world.build(prepared(tensorNode({ data, shape: [1, 2, 3, 4] })));
      return attempt('RecurrentState.copyFrom', () => {
        state.copyFrom(argument);
        if (world.robbed) return 'copied from memory that had been taken away';
        const copy = state.toTensor().data;
        const plain = r.mutations.every((m) => m.do !== 'set' && m.do !== 'array');
        if (plain && !copy.every((x, i) => x === data[i])) return 'other values';
        state.dispose();
        return undefined;
      });
    }
    case 'deserialize': {
      const dims = { batch: 1, valueHeads: 2, keyDim: integer(), valueDim: integer() };
      const state = rankone.createState({ ...dims, ...(random.integer(2) && { keyHeads: 1 }) });
      const bytes = state.serialize();
      const changed = random.integer(3);
      if (changed) bytes[random.integer(bytes.length)] ^= 1 << random.integer(8);
      const part = random.integer(4) ? bytes : bytes.subarray(0, random.integer(bytes.length));
      const argument = random.integer(8) ? part : hostile(r.values[0]);
      return attempt('deserializeState', () => {
        const twin = rankone.deserializeState(argument as Uint8Array);
        if (changed || argument !== bytes) return 'changed bytes were taken';
        return twin.serialize().join() === bytes.join() ? undefined : 'other bytes';
      });
    }
    case 'methods': {
      // On what is none of the class, and with arguments that nobody reads.
      const state = rankone.createState({ batch: 1, valueHeads: 1, keyDim: 2, valueDim: 2 });
      const [self, ...args] = r.values.map(hostile);
      const members = Object.entries(
        Object.getOwnPropertyDescriptors(rankone.RecurrentState.prototype),
      );
      for (const [name, { get, value }] of members)
        for (const receiver of [self, state]) {
          const wrong = attempt('RecurrentState', () => {
            if (name !== 'constructor') (get ?? value).apply(receiver, args);
            return undefined;
          });
          if (wrong) return wrong;
        }
      return attempt('SavedForward.dispose', () => {
        rankone.SavedForward.prototype.dispose.call(self as any);
        return undefined;
      });
    }
    case 'threads': {
      const before = rankone.getNumThreads();
      const value: any = hostile(r.values[0]);
      const wrong = attempt('setNumThreads', () => {
        rankone.setNumThreads(value);
        return rankone.getNumThreads() === value ? undefined : `set to ${String(value)}`;
      });
      rankone.setNumThreads(before);
      if ((rankone.getNumThreads as any)(value) !== before) return 'another number of threads';
      const { threads, version } = (rankone.info as any)(value);
      return wrong ?? (threads === before && version === rankone.version ? undefined : 'info');
    }
    case 'made': {
      for (const Class of [rankone.RecurrentState, rankone.SavedForward]) {
        const { name } = Class;
        try {
          new (Class as any)(...r.values.map(hostile));
          return `new ${name}() made one`;
        } catch (error) {
          if (!(error as Error).message.startsWith(`[${name}] `)) return String(error);
        }
      }
      return undefined;
    }
  }
}
