/** One call of a described function, hostile or not, and whether it ended as it should. */
import fc from 'fast-check';
import { description, type EntryDescription } from '../../ts/binding';
import * as rankone from '../../ts/index';
import { Random } from '../support/random';
import { sizeOf } from '../support/tensor';
import { type Node, objectNode, raw, tensorNode, World } from './build';
import { planted, wasPlanted } from './hostile';
import { type Mutation, mutate, mutation } from './mutations';
import { difference, expected } from './oracle';
import { baseCall, forwardName } from './problems';

export interface Recipe {
  entry: string;
  asynchronous: boolean;
  seed: number;
  mutations: Mutation[];
}

export const recipe: fc.Arbitrary<Recipe> = fc.record({
  entry: fc.constantFrom(...description.entries.map(({ name }) => name)),
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
  if (world.robbed)
    return 'gave a result though memory was taken away while the arguments were read';
  return call.judgeMemory(true) ?? call.judgeResult(result);
}

function prepare(entry: EntryDescription, r: Recipe) {
  const random = new Random(r.seed ^ 0x5bd1e995);
  const base = baseCall(entry, r.seed);
  const inputs: Record<string, Node> = {};
  for (const [name, value] of Object.entries(base.inputs)) inputs[name] = tensorNode(value);
  const options: Record<string, Node> = {};
  for (const [name, value] of Object.entries(base.options)) options[name] = raw(value);

  let state: rankone.RecurrentState | undefined;
  let startState: rankone.Tensor | undefined;
  if (base.stateShape && base.stateShape[0] > 0 && random.integer(6) === 0) {
    const [batch, valueHeads, keyDim, valueDim] = base.stateShape;
    state = rankone.createState({ batch, valueHeads, keyDim, valueDim });
    startState = { data: random.normals(sizeOf(base.stateShape)), shape: base.stateShape };
    state.copyFrom(startState);
    inputs.state = raw(state);
    for (const name of ['initialState']) delete inputs[name];
    for (const name of ['outputFinalState', 'saveForBackward']) delete options[name];
  }
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
  if (entry.outputs.length && !state && random.integer(4) === 0) {
    const shapes = functions[`${entry.name}Sync`](base.inputs, base.options);
    const out: Record<string, Node> = {};
    for (const { name } of entry.outputs)
      if (shapes[name] && random.integer(2))
        out[name] = tensorNode({
          data: new (shapes[name].data.constructor as any)(shapes[name].data.length),
          shape: shapes[name].shape,
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
      if (key !== 'out' && key !== 'signal') effective.options[key] = world.build(node);
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
        (made as any).fill(made instanceof BigInt64Array ? 7n : 7);
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
        const { data, shape, dtype } = result[key];
        const given = property(outNode, key);
        if (given) {
          // What reading the caller's own object once more gives is not the engine's affair.
          const { data, shape } = effectiveTensor(given);
          tensors[key] = { shape, values: data };
          continue;
        }
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
      if (startState && stateNode?.kind === 'raw' && stateNode.value === state) {
        effective.inputs.initialState = startState;
        if (!state!.disposed) {
          const { data, shape } = state!.toTensor();
          tensors.finalState = { shape: [...shape], values: decode(data, 'f32') };
          state!.dispose();
        }
      }
      saved?.dispose();
      // A saved of other values answers for those.
      if (saved && r.mutations.length) return undefined;
      let reference: ReturnType<typeof expected>;
      try {
        reference = expected(entry, effective.inputs, effective.options);
      } catch (error) {
        return `accepted what the reference refuses: ${(error as Error).message}`;
      }
      if (!reference) return undefined;
      tally[r.entry].compared++;
      const half = Object.values({ ...effective.inputs, ...tensors }).some(
        (t: any) => t.dtype === 'bf16' || t.dtype === 'f16',
      );
      return difference(tensors, reference, half ? 2e-2 : 1e-3);
    },
  };

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
  if (data.length && data instanceof Uint16Array && (dtype === 'bf16' || dtype === 'f16'))
    return Float64Array.from(data, dtype === 'bf16' ? fromBf16 : fromF16);
  return data.length ? Float64Array.from(data, Number) : [];
}

const word = new DataView(new ArrayBuffer(4));

function fromBf16(bits: number): number {
  word.setUint16(0, bits);
  word.setUint16(2, 0);
  return word.getFloat32(0);
}

function fromF16(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 31) return fraction ? Number.NaN : sign * Infinity;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  return sign * (1024 + fraction) * 2 ** (exponent - 25);
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
