/**
 * The functions around the fused LoRA product: packed weights, adapter banks, loraLinear and its backward, merging. A legal
 * call is drawn from a seed, changed, and made; without changes its results are the reference's.
 */
import fc from 'fast-check';
import { description, type EntryDescription } from '../../ts/binding';
import * as rankone from '../../ts/index';
import type { LoraCase } from '../support/lora';
import { makeAdapter, makeCase, makeCodes, routingKinds, weightFormats } from '../support/lora';
import { checkCase } from '../support/loraChecks';
import { Random } from '../support/random';
import { sizeOf } from '../support/tensor';
import { type Node, type ObjectNode, objectNode, raw, tensorNode, World } from './build';
import { hostileNames } from './hostile';
import { judgeError, runBank, runMade } from './loraBanks';
import { type Mutation, mutate, mutation } from './mutations';

const TARGETS = [
  'loraLinear',
  'loraLinearBackward',
  'packWeight',
  'packQuantised',
  'load',
  'replace',
  'mergeAdapter',
  'unmergeAdapter',
  'createAdapterBank',
  'legal',
  'bank',
  'made',
] as const;

export interface LoraRecipe {
  target: (typeof TARGETS)[number];
  asynchronous: boolean;
  seed: number;
  mutations: Mutation[];
  values: string[];
}

const value = fc.constantFrom(...hostileNames);

export const loraRecipe: fc.Arbitrary<LoraRecipe> = fc.record({
  target: fc.constantFrom(...TARGETS.slice(0, 2), ...TARGETS),
  asynchronous: fc.boolean(),
  seed: fc.nat(),
  mutations: fc.array(mutation, { minLength: 1, maxLength: 3 }),
  values: fc.array(value, { minLength: 3, maxLength: 3 }),
});

const functions = rankone as unknown as Record<string, (...args: any[]) => any>;

type Outcome = string | undefined;

function drawCase(random: Random): LoraCase {
  const topK = random.integer(3) === 0;
  const sketch = () => ({
    rank: 1 + random.integer(5),
    ...(random.integer(3) === 0 && { mid: 'matrix' as const, width: 1 + random.integer(4) }),
    ...(random.integer(3) === 0 && { act: { topK: 1 } }),
    ...(random.integer(4) === 0 && { rankBias: true, outBias: true }),
    ...(random.integer(4) === 0 && { aList: true }),
    ...(random.integer(4) === 0 && { bList: true }),
    ...(random.integer(4) === 0 && !topK && { baseScale: true }),
  });
  const formats = [...weightFormats, null];
  return {
    rows: random.integer(6),
    in: 1 + random.integer(9),
    out: 1 + random.integer(9),
    dtype: (['f32', 'bf16', 'f16'] as const)[random.integer(3)],
    base: formats[random.integer(formats.length)],
    adapters: [sketch(), sketch()].slice(0, 1 + random.integer(2)),
    routing: topK ? 'topK' : routingKinds[random.integer(3)],
    bias: random.integer(2) === 0,
    seed: random.integer(1000),
  };
}

/** What a legal argument is in the tree that mutations change. */
function nodeOf(x: any): Node {
  if (x instanceof Int32Array || x instanceof Uint8Array || x instanceof Int8Array)
    return { kind: 'array', value: x as never, form: 'plain' };
  if (x instanceof Float32Array) return { kind: 'array', value: x, form: 'plain' };
  if (Array.isArray(x)) return { kind: 'shape', value: [...x], form: 'plain' };
  if (typeof x !== 'object' || x === null) return raw(x);
  if (x instanceof rankone.AdapterBank || x instanceof rankone.PackedWeight) return raw(x);
  if ('data' in x) return tensorNode(x);
  return objectNode(
    Object.fromEntries(Object.entries(x).map(([key, member]) => [key, nodeOf(member)])),
  );
}

interface Call {
  /** What errors begin with, in brackets. */
  name: string;
  entry: EntryDescription;
  /** As they stand in the call. */
  args: Record<string, unknown>;
  make(args: any[]): any;
  /** What is wrong with what a changed call gave. */
  look(result: any): Outcome;
  dispose(): void;
}

const entryOf = (name: string): EntryDescription =>
  description.entries.find((entry) => entry.name === name) ??
  description.entries.find((entry) => entry.name === 'loraLinear')!;

/** A tensor whose data fits its shape. */
function lookAt(name: string, x: any): Outcome {
  if (!ArrayBuffer.isView(x?.data) || sizeOf([...x.shape]) !== (x.data as any).length)
    return `${name}: ${x?.data} for shape [${x?.shape}]`;
  return undefined;
}

function drawCall({ target, asynchronous }: LoraRecipe, random: Random): Call {
  const suffix = asynchronous ? '' : 'Sync';
  const made = makeCase(drawCase(random));
  const { bank } = made.inputs;
  const weight = { data: random.normals(12), shape: [3, 4] };
  const freed: { dispose(): void }[] = [];
  const base = {
    name: target,
    entry: entryOf(target),
    look: (_result: any): Outcome => undefined,
    dispose(): void {
      for (const each of freed) each.dispose();
      made.dispose();
    },
  };
  const packed = (result: any): Outcome => {
    freed.push(result);
    if (!(result instanceof rankone.PackedWeight)) return 'no packed weight';
    return lookAt('toTensor', result.toTensor());
  };
  switch (target) {
    case 'loraLinear': {
      const options = {
        saveRank: random.integer(2) === 0,
        ...(random.integer(2) && { dropout: { p: 0.5, seed: 3 }, skip: { p: 0.5, seed: 4 } }),
      };
      const look = ({ y, t }: any): Outcome => lookAt('y', y) ?? (t && lookAt('t', t));
      const make = (args: any[]) => functions[`loraLinear${suffix}`](...args);
      return { ...base, args: { inputs: made.inputs, options }, make, look };
    }
    case 'loraLinearBackward': {
      const inputs: any = { ...made.inputs, dY: made.dY };
      if (random.integer(2)) inputs.t = functions.loraLinearSync(made.inputs, { saveRank: true }).t;
      const options = {
        need: { dx: random.integer(2) === 0 },
        ...(random.integer(2) && { gradDtype: 'input' }),
      };
      const look = ({ dx, adapters }: any): Outcome => {
        for (const gradients of adapters?.values() ?? [])
          for (const [name, x] of Object.entries(gradients)) {
            const wrong = typeof x === 'number' ? undefined : lookAt(name, x);
            if (wrong) return wrong;
          }
        return dx && lookAt('dx', dx);
      };
      const make = (args: any[]) => functions[`loraLinearBackward${suffix}`](...args);
      return { ...base, args: { inputs, options }, make, look };
    }
    case 'packWeight': {
      const options = { format: weightFormats[random.integer(weightFormats.length)] };
      const make = ([one, two]: any[]) => functions[`packWeight${suffix}`](one, two);
      return { ...base, args: { inputs: weight, options }, make, look: packed };
    }
    case 'packQuantised': {
      const formats = ['int8', 'q8', 'q4', 'nf4'] as const;
      const codes = makeCodes(formats[random.integer(4)], [3, 40], random).weight as any;
      if (codes.absmax && random.integer(2)) {
        const blocks = codes.absmax.length;
        codes.absmax = {
          codes: new Uint8Array(blocks).fill(200),
          absmax: Float32Array.of(1),
          offset: 0.5,
        };
      }
      const make = ([one, two]: any[]) => functions[`packQuantised${suffix}`](one, two);
      return { ...base, args: { inputs: codes }, make, look: packed };
    }
    case 'load':
    case 'replace': {
      const { in: width, out, adapters } = drawCase(random);
      const own = rankone.createAdapterBank({ inFeatures: width, outFeatures: out });
      freed.push(own);
      const [first] = makeAdapter({ rank: 2 }, width, out, random);
      const id = own.load(first as never);
      const [spec] = makeAdapter(adapters![0], width, out, random);
      const name = `AdapterBank.${target}`;
      const before = own.memory().usedBytes;
      const make = ([given]: any[]) => {
        try {
          return target === 'load' ? own.load(given) : own.replace(id, given);
        } catch (error) {
          if (!own.disposed && own.memory().usedBytes !== before)
            throw new Error('a load that failed took memory');
          throw error;
        }
      };
      const look = (result: unknown): Outcome => {
        if (target === 'load' && result !== id + 1) return `id ${String(result)}`;
        return own.disposed || own.has(target === 'load' ? (result as number) : id)
          ? undefined
          : 'not loaded';
      };
      return { ...base, name, entry: entryOf(name), args: { inputs: spec }, make, look };
    }
    case 'mergeAdapter':
    case 'unmergeAdapter': {
      const shape = [bank.outFeatures, bank.inFeatures];
      const data = random.normals(sizeOf(shape));
      const own = rankone.packWeightSync({ data, shape }, { format: 'q8' });
      freed.push(own);
      const options = random.integer(2) ? { format: 'f32' } : {};
      const make = (args: any[]) => functions[`${target}${suffix}`](...args);
      const [id] = made.ids;
      return { ...base, args: { base: own, bank, id, options }, make, look: packed };
    }
    default: {
      const inputs = { inFeatures: 1 + random.integer(9), outFeatures: 3 };
      const make = ([given]: any[]) => rankone.createAdapterBank(given);
      const look = (result: any): Outcome => {
        freed.push(result);
        return result.size === 0 ? undefined : 'not empty';
      };
      return { ...base, name: 'createAdapterBank', args: { inputs }, make, look };
    }
  }
}

/** How many changed calls ended how, by target. */
export const loraTally: Record<string, { errors: number; results: number }> = {};

/** Makes the call; what is wrong with its end, or undefined. */
export async function runLora(r: LoraRecipe): Promise<Outcome> {
  const random = new Random(r.seed);
  if (r.target === 'legal') return runLegal(random);
  if (r.target === 'bank') return runBank(r.values, random);
  if (r.target === 'made') return runMade(r.values);
  loraTally[r.target] ??= { errors: 0, results: 0 };
  const tally = loraTally[r.target];
  const call = drawCall(r, random);
  const root: ObjectNode = objectNode(
    Object.fromEntries(Object.entries(call.args).map(([key, x]) => [key, nodeOf(x)])),
  );
  for (const m of r.mutations) mutate(root, call.entry, m);
  const world = new World({
    call: () => void rankone.matmulSync({ a: ONE, b: ONE }),
    start: () => void rankone.matmul({ a: ONE, b: ONE }),
    dispose: () => call.dispose(),
    threads: () => rankone.setNumThreads(1 + random.integer(3)),
  });
  const args = [...root.props.values()].map(({ node }) => world.build(node));
  const before = new Map(world.arrays.map((node) => [node.made, bytesOf(node.made)]));
  const out = new Set<unknown>();
  collectOut(root, out);
  let wrong: Outcome;
  try {
    const pending = call.make(args);
    if (r.asynchronous && pending instanceof Promise) await null;
    wrong = call.look(await pending);
    tally.results++;
  } catch (error) {
    wrong = judgeError(error, call.name);
    tally.errors++;
  }
  try {
    call.dispose();
  } catch (error) {
    wrong ??= `dispose: ${error}`;
  }
  if (wrong) return wrong;
  if (!world.guardsHold()) return 'memory beside a view was written';
  if (world.robbed || world.taken) return undefined;
  for (const [made, bytes] of before) {
    const now = bytesOf(made);
    if (!out.has(made) && bytes && now && !bytes.equals(now)) return 'an argument was written';
  }
  return undefined;
}

const ONE = { data: Float32Array.of(1), shape: [1, 1] };

function bytesOf(array: unknown): Buffer | undefined {
  if (!ArrayBuffer.isView(array)) return undefined;
  try {
    return Buffer.from(
      new Uint8Array(array.buffer as ArrayBuffer, array.byteOffset, array.byteLength).slice(),
    );
  } catch {
    return undefined; // out of bounds
  }
}

/** The arrays that the call may write. */
function collectOut(node: Node, into: Set<unknown>, inside = false): void {
  if (node.kind === 'array' && inside) into.add(node.made).add(node.alias?.made);
  if (node.kind !== 'object') return;
  for (const [key, { node: member }] of node.props)
    collectOut(member, into, inside || key === 'out');
}

/** An unchanged call has the reference's results. */
function runLegal(random: Random): Outcome {
  const spec: LoraCase = { ...drawCase(random), dtype: 'f32' };
  const chance = () => ({ p: random.integer(4) / 4, seed: random.integer(100) });
  try {
    checkCase(spec, random.integer(2) ? { dropout: chance(), skip: chance() } : {}, {
      cancels: true,
    });
  } catch (error) {
    return `${JSON.stringify(spec)}: ${error}`;
  }
  return undefined;
}
