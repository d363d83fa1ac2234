/** One call of a described function, hostile or not, and whether it ended as it should. */
import fc from 'fast-check';
import { description, type EntryDescription } from '../../ts/binding';
import * as rankone from '../../ts/index';
import { fromBits } from '../support/half';
import { Random } from '../support/random';
import { sizeOf } from '../support/tensor';
import { type Node, objectNode, raw, tensorNode, World } from './build';
import { planted, wasPlanted } from './hostile';
import { type Mutation, mutate, mutation } from './mutations';
import { difference, expected } from './oracle';
import { type BaseCall, baseCall, plainEntries } from './problems';
import { forwardName } from './shapes';

export interface Recipe {
  entry: string;
  asynchronous: boolean;
  seed: number;
  mutations: Mutation[];
}

export const recipe: fc.Arbitrary<Recipe> = fc.record({
  entry: fc.constantFrom(...plainEntries.map(({ name }) => name)),
  asynchronous: fc.boolean(),
  seed: fc.nat(),
  mutations: fc.oneof(
    { weight: 1, arbitrary: fc.constant<Mutation[]>([]) },
    { weight: 6, arbitrary: fc.array(mutation, { minLength: 1, maxLength: 3 }) },
  ),
});

const functions = rankone as unknown as Record<string, (...args: any[]) => any>;

/** How many calls ended how, by function: a fuzzer whose calls all fail at the first check finds nothing. */
export const tally: Record<string, { errors: number; results: number; compared: number }> = {};

/** Makes the call; what is wrong with its end, or undefined. */
export async function runCall(r: Recipe): Promise<string | undefined> {
  const entry = description.entries.find(({ name }) => name === r.entry)!;
  tally[r.entry] ??= { errors: 0, results: 0, compared: 0 };
  const call = prepare(entry, r);
  const name = r.asynchronous ? r.entry : `${r.entry}Sync`;
  const { world, args } = call;
  let result: any;
  try {
    const given = functions[name](...args);
    if (r.asynchronous) {
      if (!(given instanceof Promise)) return 'returned no promise';
      call.started();
    }
    result = await given;
    if (r.asynchronous !== given instanceof Promise)
      return 'the synchronous form returned a promise';
  } catch (error) {
    if (r.asynchronous && !call.wasStarted()) return `threw instead of rejecting: ${error}`;
    tally[r.entry].errors++;
    await call.settle();
    return call.judgeError(error) ?? call.judgeMemory(false);
  }
  tally[r.entry].results++;
  await call.settle();
  // Unless another shape was given, one that is just right for what is left.
  const reshaped = r.mutations.some((m) => m.do === 'dim' || m.do === 'rank' || m.do === 'set');
  if (world.robbed && !reshaped)
    return 'gave a result though memory was taken away while the arguments were read';
  if (world.taken) return undefined;
  return call.judgeMemory(true) ?? call.judgeResult(result);
}

function prepare(entry: EntryDescription, r: Recipe) {
  const random = new Random(r.seed ^ 0x5bd1e995);
  const base = baseCall(entry, r.seed);
  const inputs: Record<string, Node> = {};
  for (const [name, value] of Object.entries(base.inputs)) inputs[name] = tensorNode(value);
  const options: Record<string, Node> = {};
  for (const [name, value] of Object.entries(base.options)) options[name] = optionNode(value);

  const held = base.state && base.state.shape[0] > 0 && random.integer(6) === 0;
  const start = held ? startOf(base.state!, random) : undefined;
  if (start) {
    inputs.state = raw(start.state);
    if (start.rows) options.stateIndices = optionNode(start.rows);
    for (const name of ['initialState', 'initialZ']) delete inputs[name];
    for (const name of ['outputFinalState', 'saveForBackward']) delete options[name];
  }
  const state = start?.state;
  let saved: rankone.SavedForward | undefined;
  if (entry.takesSaved && random.integer(4) === 0) {
    const forward = description.entries.find(({ name }) => name === forwardName(entry))!;
    const names = forward.inputs.map(({ name }) => name);
    const given = Object.entries(base.inputs).filter(([name]) => names.includes(name));
    saved = functions[`${forward.name}Sync`](Object.fromEntries(given), {
      ...base.options,
      saveForBackward: true,
    }).saved;
    inputs.saved = raw(saved);
  }
  if (entry.outputs.length && !start && random.integer(4) === 0) {
    const shapes = functions[`${entry.name}Sync`](base.inputs, base.options);
    const out: Record<string, Node> = {};
    for (const { name } of entry.outputs)
      if (shapes[name] && random.integer(2))
        out[name] = tensorNode({
          data: new (shapes[name].data.constructor as any)(shapes[name].data.length),
          shape: shapes[name].shape,
          dtype: shapes[name].dtype,
        });
    options.out = objectNode(out);
  }
  const aborter = new AbortController();
  const abort = r.asynchronous
    ? ['none', 'none', 'none', 'before', 'at once', 'later'][random.integer(6)]
    : 'none';
  if (abort !== 'none') options.signal = raw(aborter.signal);

  const root = objectNode({ inputs: objectNode(inputs), options: objectNode(options) });
  for (const m of r.mutations) mutate(root, entry, m);

  const nested: Promise<string | undefined>[] = [];
  const world = new World({
    call: () => nested.push(Promise.resolve(nestedCall())),
    start: () => nested.push(nestedStart()),
    dispose: () => {
      try {
        state?.dispose();
        saved?.dispose();
      } catch {
        // It is busy in the call; that is an answer too.
      }
    },
    threads: () => rankone.setNumThreads(1 + random.integer(3)),
  });
  const args = [...root.props.values()].map(({ node }) => world.build(node));
  const update = entry.inputs.filter((i) => i.update).map((i) => i.name);
  const before = new Map(world.arrays.map((node) => [node, snapshot(node.made)]));
  const written = new Set<unknown>();
  for (const name of update) written.add(arrayAt(root, 'inputs', name));
  const outNode = property(property(root, 'options'), 'out');
  if (outNode?.kind === 'object')
    for (const key of outNode.props.keys()) written.add(arrayAt(outNode, key));
  written.delete(undefined);
  const effective = { inputs: {} as Record<string, any>, options: {} as Record<string, unknown> };
  const readInputs = property(root, 'inputs');
  const readOptions = property(root, 'options');
  if (readInputs?.kind === 'object')
    for (const key of readInputs.props.keys()) {
      const tensor = effectiveTensor(property(readInputs, key));
      if (tensor) effective.inputs[key] = tensor;
    }
  if (readOptions?.kind === 'object')
    for (const [key, { node }] of readOptions.props)
      if (!['out', 'signal', 'stateIndices'].includes(key))
        effective.options[key] = effectiveOption(node);
  const rowsNode = property(readOptions, 'stateIndices');
  const rows = rowsNode && effectiveOption(rowsNode);
  if (abort === 'before') aborter.abort(planted.object);
  let begun = false;
  let disturbed = false;

  return {
    world,
    args,
    wasStarted: () => begun,
    started(): void {
      begun = true;
      if (abort === 'at once') aborter.abort(planted.object);
      if (abort === 'later') setImmediate(() => aborter.abort(planted.object));
      // The call has copies; what becomes of the caller's arrays is no longer its business.
      if (update.length || random.integer(3) > 0) return;
      disturbed = true;
      for (const node of world.arrays) {
        const { made } = node;
        if (written.has(made) || written.has(node.alias?.made)) continue;
        if (!ArrayBuffer.isView(made) || !made.byteLength || made instanceof DataView) continue;
        (made as any).fill(typeof (made as any)[0] === 'bigint' ? 7n : 7);
      }
    },
    async settle(): Promise<void> {
      const ends = await Promise.all(nested);
      const wrong = ends.find((end) => end !== undefined);
      if (wrong) throw new Error(wrong);
    },
    judgeError(error: any): string | undefined {
      const text = `ended with ${error?.name}: ${String(error?.message).slice(0, 300)}`;
      const aborted = abort !== 'none' || values(r).includes('an aborted signal');
      if (error === planted.object) return aborted ? undefined : text;
      if (values(r).includes('a signal that aborts at once') && error?.name === 'AbortError')
        return;
      const mayThrow =
        world.foreign.throws || values(r).some((v) => /that throws|whose state/.test(v));
      if (wasPlanted(error))
        return mayThrow || aborted ? undefined : `a value was made to run code: ${text}`;
      if (![TypeError, RangeError, Error].includes(error?.constructor)) return text;
      const { message } = error;
      // What the caller's own proxies and impostors throw when they are read.
      if (/proxy|private member/.test(message) && error instanceof TypeError && message[0] !== '[')
        return world.foreign.proxies || values(r).some((v) => /proxy|own making/.test(v))
          ? undefined
          : text;
      if (!message.startsWith(`[${r.entry}] `) || message.includes('internal error')) return text;
      if (message.length > 1000) return `a message of ${message.length} characters`;
      return r.mutations.length === 0 ? `a legal call ${text}` : undefined;
    },
    judgeMemory(succeeded: boolean): string | undefined {
      if (!world.guardsHold()) return 'memory beside a view was written';
      if (disturbed || world.robbed) return undefined;
      for (const [node, bytes] of before) {
        const { made } = node;
        if (succeeded && written.has(made)) continue;
        const now = snapshot(made);
        if (bytes && now && !bytes.equals(now))
          return `an array was written${succeeded ? '' : ' by a call that failed'}`;
      }
      return undefined;
    },
    judgeResult(result: any): string | undefined {
      if (Object.getPrototypeOf(result) !== Object.prototype)
        return 'the result is no plain object';
      const tensors: Record<string, any> = {};
      for (const key of Object.keys(result)) {
        if (key === 'saved' && entry.makesSaved) {
          result.saved.dispose();
          continue;
        }
        if (!entry.outputs.some(({ name }) => name === key)) return `an unknown result ${key}`;
        // What reading the caller's own object once more gives is not the engine's affair.
        const given = effectiveTensor(property(outNode, key));
        if (given) {
          tensors[key] = { shape: given.shape, values: given.data };
          continue;
        }
        const { data, shape, dtype } = result[key];
        if (!ArrayBuffer.isView(data) || sizeOf([...shape]) !== (data as any).length)
          return `${key}: ${data} for shape [${shape}]`;
        tensors[key] = { shape: [...shape], values: decode(data, dtype) };
      }
      for (const name of update) {
        const made = arrayAt(root, 'inputs', name);
        const input = effective.inputs[name];
        if (made && input)
          tensors[name] = { shape: input.shape, values: decode(made, input.dtype) };
      }
      const stateNode = property(readInputs, 'state');
      if (start && stateNode?.kind === 'raw' && stateNode.value === state) {
        const wrong = start.account(rows, effective.inputs, tensors);
        if (wrong) return wrong;
      }
      saved?.dispose();
      // A saved of other values answers for those.
      if (saved && r.mutations.length) return undefined;
      let reference: ReturnType<typeof expected>;
      try {
        reference = expected(entry, effective.inputs, effective.options);
      } catch (error) {
        // It makes arrays as long as an absurd size of tensors that have no element.
        if (/^Invalid (typed )?array length/.test((error as Error).message)) return undefined;
        return `accepted what the reference refuses: ${(error as Error).message}`;
      }
      if (!reference) return undefined;
      tally[r.entry].compared++;
      // What is updated in place has the name of an input.
      const half = [...Object.values(effective.inputs), ...Object.values(tensors)].some(
        (t: any) => t.dtype === 'bf16' || t.dtype === 'f16',
      );
      const coarse = half || effective.options.compute === 'bf16';
      return difference(tensors, reference, coarse ? [2e-2, 3e4] : [1e-3, 1e15]);
    },
  };

  function effectiveOption(node: Node): unknown {
    if (node.kind === 'array') {
      try {
        return decode((node.alias ?? node).made, undefined);
      } catch {
        return undefined; // no typed array, which the engine will say
      }
    }
    if (node.kind !== 'object') return world.build(node);
    const members = [...node.props].map(([key, { node: member }]) => {
      return [key, effectiveTensor(member) ?? world.build(member)];
    });
    return Object.fromEntries(members);
  }

  function effectiveTensor(node: Node | undefined): any {
    if (node?.kind === 'raw') {
      try {
        const { data, shape, dtype } = node.value as any;
        return { data: decode(data, dtype), shape: [...shape], dtype };
      } catch {
        return undefined; // no tensor, which the engine will have said
      }
    }
    const data = property(node, 'data');
    const shape = property(node, 'shape');
    const dtype = property(node, 'dtype');
    const made = data?.kind === 'array' ? (data.alias ?? data).made : (data as any)?.value;
    if (!ArrayBuffer.isView(made) || made instanceof DataView) return undefined;
    const kind = dtype?.kind === 'raw' ? dtype.value : undefined;
    return { data: decode(made, kind), shape: (shape as any)?.value, dtype: kind };
  }
}

function values(r: Recipe): string[] {
  return r.mutations.flatMap((m) => ('value' in m ? [String(m.value)] : []));
}

function property(node: Node | undefined, key: string): Node | undefined {
  return node?.kind === 'object' ? node.props.get(key)?.node : undefined;
}

/** The array of a tensor below a node, as the call got it. */
function arrayAt(root: Node, ...path: string[]): unknown {
  let node: Node | undefined = root;
  for (const key of [...path, 'data']) node = property(node, key);
  return node?.kind === 'array' ? (node.alias ?? node).made : undefined;
}

function snapshot(array: unknown): Buffer | undefined {
  if (!ArrayBuffer.isView(array)) return undefined;
  try {
    return Buffer.from(
      Uint8Array.prototype.slice.call(
        new Uint8Array(array.buffer as ArrayBuffer, array.byteOffset, array.byteLength),
      ),
    );
  } catch {
    return undefined; // out of bounds
  }
}

/** The numbers that an array stands for. */
function decode(data: any, dtype: unknown): ArrayLike<number> {
  if (!data.length) return [];
  if (data.BYTES_PER_ELEMENT === 2 && (dtype === 'bf16' || dtype === 'f16'))
    return Float64Array.from(data as Uint16Array, (bits) => fromBits(dtype, bits));
  return Float64Array.from(data, Number);
}

/** An option as a node: index arrays and groups can be changed within. */
function optionNode(value: unknown): Node {
  if (value instanceof Int32Array || value instanceof BigInt64Array)
    return { kind: 'array', value, form: 'plain' };
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return raw(value);
  const members = Object.entries(value).map(([key, member]) => {
    return [key, typeof member === 'object' ? tensorNode(member) : raw(member)];
  });
  return objectNode(Object.fromEntries(members));
}

/** A state with random contents, at times a pool of more rows than the call's sequences. */
function startOf({ shape, keyHeads }: NonNullable<BaseCall['state']>, random: Random) {
  const [N, valueHeads, keyDim, valueDim] = shape;
  const pooled = random.integer(2) === 0;
  const batch = pooled ? N + random.integer(3) : N;
  const order = Array.from({ length: batch }, (_, i) => i);
  for (let i = batch - 1; i > 0; i--) {
    const j = random.integer(i + 1);
    [order[i], order[j]] = [order[j], order[i]];
  }
  const state = rankone.createState({
    batch,
    valueHeads,
    keyDim,
    valueDim,
    ...(keyHeads > 0 && { keyHeads }),
  });
  const draw = (of: readonly number[], positive: boolean) => {
    const size = sizeOf(of);
    return { data: positive ? random.uniforms(size, 0.1) : random.normals(size), shape: [...of] };
  };
  const before = draw(state.shape, false);
  const beforeZ = state.zShape && draw(state.zShape, true);
  state.copyFrom(before, beforeZ);
  return {
    state,
    rows: pooled ? Int32Array.from(order.slice(0, N)) : undefined,
    /** The state among the inputs and results as the reference knows them; what is wrong with the rest of a pool. */
    account(
      rows: any,
      inputs: Record<string, any>,
      tensors: Record<string, any>,
    ): string | undefined {
      if (state.disposed) return undefined;
      const taken: number[] = rows ? [...rows] : [];
      const parts = [
        ['initialState', 'finalState', before, state.toTensor()],
        ['initialZ', 'finalZ', beforeZ, state.zToTensor()],
      ] as const;
      state.dispose();
      for (const [initial, final, from, to] of parts) {
        if (!from || !to) continue;
        const own = rows ? taken : Array.from({ length: from.shape[0] }, (_, i) => i);
        const size = from.data.length / from.shape[0];
        const gather = (data: Float32Array) =>
          Float32Array.from({ length: own.length * size }, (_, i) => {
            return data[own[Math.floor(i / size)] * size + (i % size)];
          });
        const gathered = [own.length, ...from.shape.slice(1)];
        inputs[initial] = { data: gather(from.data), shape: gathered };
        tensors[final] = { values: gather(to.data), shape: gathered };
        for (let i = 0; i < from.data.length; i++)
          if (!own.includes(Math.floor(i / size)) && from.data[i] !== to.data[i])
            return "a row of the pool was written that was not the call's";
      }
      return undefined;
    },
  };
}

const I2 = { data: Float32Array.of(1, 0, 0, 1), shape: [2, 2] };
const M2 = { data: Float32Array.of(1, 2, 3, 4), shape: [2, 2] };

function nestedCall(): string | undefined {
  const { y } = rankone.matmulSync({ a: I2, b: M2 });
  return y.data.join() === '1,2,3,4' ? undefined : `a nested call gave ${y.data}`;
}

async function nestedStart(): Promise<string | undefined> {
  const { y } = await rankone.matmul({ a: M2, b: I2 });
  return y.data.join() === '1,2,3,4' ? undefined : `a nested call gave ${y.data}`;
}
