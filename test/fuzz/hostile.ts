/** Values that no function expects, by a name that can be written down and played back. */
import vm from 'node:vm';
import * as rankone from '../../ts/index';

/** What planted code throws: errors, and things that are none. A call may end with exactly these. */
export const planted = {
  error: new Error('planted'),
  text: 'planted text',
  object: Object.freeze({ planted: true }),
};

export const wasPlanted = (value: unknown): boolean =>
  Object.values(planted).includes(value as any);

export const boom = (): never => {
  throw planted.error;
};

const tricky = (): object => ({
  toString: boom,
  valueOf: boom,
  [Symbol.toPrimitive]: boom,
});

const revoked = (target: object): object => {
  const { proxy, revoke } = Proxy.revocable(target, {});
  revoke();
  return proxy;
};

const shape = { batch: 1, valueHeads: 1, keyDim: 4, valueDim: 4 };
const constructors: Record<string, () => unknown> = {
  undefined: () => undefined,
  null: () => null,
  true: () => true,
  false: () => false,
  0: () => 0,
  '-0': () => -0,
  1: () => 1,
  2: () => 2,
  3: () => 3,
  16: () => 16,
  '-1': () => -1,
  0.5: () => 0.5,
  NaN: () => Number.NaN,
  Infinity: () => Infinity,
  '-Infinity': () => -Infinity,
  '2**31': () => 2 ** 31,
  '2**32': () => 2 ** 32,
  '2**32 + 1': () => 2 ** 32 + 1,
  '2**40': () => 2 ** 40,
  '2**53 - 1': () => 2 ** 53 - 1,
  '2**53': () => 2 ** 53,
  '2**63': () => 2 ** 63,
  1e300: () => 1e300,
  '-1e300': () => -1e300,
  '1e-300': () => 1e-300,
  '5e-324': () => 5e-324,
  "'8'": () => '8',
  "''": () => '',
  "'auto'": () => 'auto',
  "'none'": () => 'none',
  'a long string': () => 'x'.repeat(1 << 20),
  '8n': () => 8n,
  'a long bigint': () => 2n ** 20000n,
  'a symbol': () => Symbol('s'),
  'a function': () => () => 1,
  'a class': () => class Q {},
  '{}': () => ({}),
  '[]': () => [],
  '[1, 2]': () => [1, 2],
  '[0, Infinity]': () => [0, Infinity],
  "['0', 1]": () => ['0', 1],
  'a sparse array': () => new Array(2 ** 31),
  'no prototype': () => Object.create(null),
  'a tricky object': tricky,
  'a thrower of a constructor': () => ({
    get constructor() {
      return boom();
    },
  }),
  'a constructor named by a symbol': () => ({ constructor: { name: Symbol('n') } }),
  'a constructor named by an object': () => ({ constructor: { name: tricky() } }),
  'a constructor of a long name': () => ({ constructor: { name: 'n'.repeat(1 << 20) } }),
  'a revoked proxy': () => revoked({}),
  'a revoked proxy of an array': () => revoked([]),
  'a proxy of everything': () =>
    new Proxy({}, { get: (_, key) => (key === 'then' ? undefined : 1) }),
  'a proxy that throws': () => new Proxy({}, { get: boom, has: boom, ownKeys: boom }),
  'a Float32Array': () => new Float32Array(4),
  'a detached Float32Array': () => detached(new Float32Array(4)),
  'a Float64Array': () => new Float64Array(4),
  'a BigInt64Array': () => new BigInt64Array(4),
  'a Buffer': () => Buffer.alloc(16),
  'an ArrayBuffer': () => new ArrayBuffer(16),
  'a DataView': () => new DataView(new ArrayBuffer(16)),
  'a Date': () => new Date(0),
  'a RegExp': () => /x/,
  'a Map': () => new Map([['data', 1]]),
  'a Promise': () => Promise.resolve(1),
  'a WeakRef': () => new WeakRef({}),
  'a Number object': () => new Number(8),
  'a String object': () => new String('auto'),
  'a Boolean object': () => new Boolean(true),
  arguments() {
    // biome-ignore lint/complexity/noArguments: the object itself is what is wanted
    return arguments;
  },
  globalThis: () => globalThis,
  'an object of another realm': () =>
    vm.runInNewContext('({ data: new Float32Array(1), shape: [1] })'),
  'a tensor': () => ({ data: new Float32Array(4), shape: [4] }),
  'an empty tensor': () => ({ data: new Float32Array(0), shape: [2 ** 40, 0, 2 ** 53 - 1] }),
  'a scalar': () => ({ data: new Float32Array(1), shape: [] }),
  'a half tensor': () => ({ data: new Uint16Array(4), shape: [4], dtype: 'bf16' }),
  'an index tensor': () => ({ data: new Int32Array(4), shape: [4] }),
  'an Int32Array': () => Int32Array.of(0, 2, 1),
  'a growing Int32Array': () => Int32Array.of(-1, 2 ** 31 - 1),
  'a state': () => rankone.createState(shape),
  'a disposed state': () => {
    const state = rankone.createState(shape);
    state.dispose();
    return state;
  },
  'a proxy of a state': () => new Proxy(rankone.createState(shape), {}),
  'a state of its own making': () => Object.create(rankone.RecurrentState.prototype),
  'a saved': () => someSaved(),
  'a disposed saved': () => {
    const saved = someSaved();
    saved.dispose();
    return saved;
  },
  'an aborted signal': () => AbortSignal.abort(planted.error),
  'half a signal': () => ({ aborted: false, addEventListener() {} }),
  'a signal that throws': () => ({
    aborted: false,
    addEventListener: boom,
    removeEventListener: boom,
  }),
  'a signal that throws later': () => ({
    aborted: false,
    addEventListener() {},
    removeEventListener: boom,
  }),
  'a signal whose state throws': () => ({
    get aborted() {
      return boom();
    },
    addEventListener() {},
    removeEventListener() {},
  }),
  'a signal that aborts at once': () => ({
    aborted: false,
    addEventListener(_: string, listener: () => void) {
      listener();
    },
    removeEventListener() {},
  }),
};

export const hostileNames = Object.keys(constructors);

export function hostile(name: string): unknown {
  const make = constructors[name];
  if (!make) throw new Error(`no hostile value ${name}`);
  return make();
}

/** Keys that name nothing, or nothing good. */
export const strangeKeys = [
  'Q',
  'scael',
  '__proto__',
  'constructor',
  'toString',
  'hasOwnProperty',
  '',
  '0',
  'then',
  'x'.repeat(100_000),
  '\u0000',
];

export function detached<T extends ArrayBufferView>(array: T): T {
  structuredClone(array.buffer, { transfer: [array.buffer as ArrayBuffer] });
  return array;
}

function someSaved(): rankone.SavedForward {
  const x = { data: Float32Array.of(1, 2), shape: [1, 2, 1, 1] };
  return rankone.linearAttentionSync({ q: x, k: x, v: x }, { saveForBackward: true }).saved!;
}
