// JavaScript values <-> the numbers and arrays that the addon reads. Everything here is driven by the engine's own
// description of its functions; no operation is known by name. The engine checks all of it again.
import {
  binding,
  description,
  type EntryDescription,
  type Handle,
  type RawResults,
} from './binding';
import { DeviceTensor } from './device';
import { show, typeError, unknownKey } from './errors';
import { deviceTensors, handleOf } from './handles';
import { arrayKind, readDType, readShape, TENSOR, writeIndices, writeTensor } from './header';
import { PackedWeight } from './lora/packedWeight';
import {
  type GroupSlot,
  KINDS,
  layoutOf,
  numbered,
  type Place,
  type TensorSlot,
  writeNumber,
} from './places';
import { SavedForward } from './saved';
import { abortReason, checkSignal, started, unwatch, type Watched, watch } from './signal';
import { RecurrentState } from './state';
import type { AbortSignalLike } from './types';

type CallArguments = Parameters<typeof binding.call>;
const VALUES = 2; // where they begin in CallArguments
const ALL = 2; // results as an array of all, in a header
const IDENTITY = 2; // for a base, in a header
// Not the one that stands in Reflect when a call is made.
const { apply } = Reflect;

/** A call as the caller gave it: arrays and handles for the addon, and what is needed again when it ends. */
interface Request {
  /** Arguments of the addon's call: entry number, header, then the values by slot. */
  args: CallArguments;
  out: unknown[] | undefined;
  signal: AbortSignalLike | undefined;
  /** An input came as a Float16Array, here or on its device: results of that type shall be ones too. */
  float16: boolean;
}

// One header serves all calls of this thread. A getter of the caller's that makes a call of its own while the header is
// in use gets another one.
let spare: Float64Array | undefined = new Float64Array(description.headerSize);

function takeHeader(): Float64Array {
  const header = spare ?? new Float64Array(description.headerSize);
  spare = undefined;
  return header;
}

const F16 = 2; // in a header

function asFloat16({ buffer, byteOffset, length }: Uint16Array): unknown {
  return new (globalThis as any).Float16Array(buffer, byteOffset, length);
}

/** A public function of the engine. @internal */
export class Operation {
  readonly #index: number;
  readonly #name: string;
  readonly #entry: EntryDescription;
  readonly #inputs: Place[];
  readonly #options: Place[];
  readonly #outputs: TensorSlot[];
  /** Those that `out` may name. */
  readonly #offered: TensorSlot[];
  readonly #optionsEnd: number;
  // Names that a caller may give -> where #values puts what came: tensors, then handles such as state; options, then
  // out and signal.
  readonly #inputNames: Map<string, number>;
  readonly #syncOptionNames: Map<string, number>;
  readonly #asyncOptionNames: Map<string, number>;
  readonly #outputNames: Map<string, number>;

  constructor(name: string) {
    this.#name = name;
    this.#index = description.entries.findIndex((e) => e.name === name);
    if (this.#index < 0) throw new Error(`rankone: the native binary has no operation ${name}`);
    const entry = description.entries[this.#index];
    this.#entry = entry;
    const layout = layoutOf(entry);
    this.#inputs = layout.inputs;
    this.#options = layout.options;
    this.#outputs = layout.outputs;
    this.#offered = this.#outputs.filter((_, i) => entry.outputs[i].offered);
    // Options that this function does not take have slots too, and they must read as absent.
    this.#optionsEnd = description.optionsAt + 2 * entry.optionCount;
    const inputs = this.#inputs.map((i) => i.name);
    if (entry.takesState) inputs.push('state');
    if (entry.takesSaved) inputs.push('saved');
    if (entry.takesBase) inputs.push('base');
    if (entry.takesBank) inputs.push('bank');
    if (entry.takesCache) inputs.push('cache');
    const options = this.#options.map((o) => o.name);
    if (this.#offered.length > 0) options.push('out');
    this.#inputNames = numbered(inputs);
    this.#syncOptionNames = numbered(options);
    this.#asyncOptionNames = numbered([...options, 'signal']);
    this.#outputNames = numbered(this.#offered.map((o) => o.name));
  }

  sync(inputs: any, options: any): any {
    const header = takeHeader();
    try {
      const request = this.#write(header, inputs, options, false);
      return this.#read(header, apply(binding.call, undefined, request.args), request);
    } finally {
      spare = header;
    }
  }

  async async(inputs: any, options: any): Promise<any> {
    const header = takeHeader();
    let request: Request;
    let pending: Promise<RawResults>;
    let shapes: Float64Array;
    let watched: Watched | undefined;
    try {
      request = this.#write(header, inputs, options, true);
      const { signal } = request;
      if (signal?.aborted) throw abortReason(signal);
      watched = signal && watch(signal);
      try {
        pending = apply(binding.callAsync, undefined, request.args);
      } catch (error) {
        if (watched) unwatch(signal!, watched);
        throw error;
      }
      shapes = header.slice();
    } finally {
      spare = header;
    }
    const { signal } = request;
    if (signal === undefined || watched === undefined)
      return this.#read(shapes, await pending, request);
    started(watched, shapes[description.jobAt]);
    try {
      return this.#read(shapes, await pending, request);
    } catch (error) {
      throw signal.aborted && (error as Error).name === 'AbortError' ? abortReason(signal) : error;
    } finally {
      unwatch(signal, watched);
    }
  }

  #write(header: Float64Array, inputs: any, options: any, asynchronous: boolean): Request {
    const { inputCount, outputCount, takesState, takesSaved, takesBase, takesBank, takesCache } =
      this.#entry;
    const handles = VALUES + inputCount + outputCount;
    const count = takesCache ? 5 : takesBase || takesBank ? 4 : 2;
    const args = new Array(handles + count) as CallArguments;
    args[0] = this.#index;
    args[1] = header;
    for (let i = 0; i < inputCount; i++) header[i * TENSOR] = -1;
    for (let at = description.optionsAt; at < this.#optionsEnd; at += 2) header[at] = 0;
    for (let i = 0; i < outputCount; i++) header[description.outputsAt + i * TENSOR] = -1;
    header[description.stateAt] = 0;
    header[description.savedAt] = 0;
    header[description.baseAt] = 0;
    header[description.bankAt] = 0;
    header[description.cacheAt] = 0;
    const request: Request = { args, out: undefined, signal: undefined, float16: false };
    if (typeof inputs !== 'object' || inputs === null)
      throw typeError(this.#name, `inputs: expected an object of tensors, got ${show(inputs)}`);
    const values = this.#values('an input', inputs, this.#inputNames);
    let next = this.#inputs.length;
    for (let i = 0; i < next; i++) {
      if (values[i] === undefined) continue;
      const place = this.#inputs[i];
      this.#writePlace(header, args, place, values[i]);
      if (!('slot' in place)) continue;
      const half = header[place.at + 1] === F16;
      if (!half) continue;
      const kind = arrayKind(args[VALUES + place.slot]);
      if (kind === 'Float16Array' || (!kind && deviceTensors.get(values[i] as object)?.float16))
        request.float16 = true;
    }
    if (takesState) this.#writeState(header, args, values[next++]);
    if (takesSaved) this.#writeSaved(header, args, values[next++]);
    if (takesBase) this.#writeBase(header, args, values[next++]);
    if (takesBank) this.#writeBank(header, args, values[next++]);
    if (takesCache) this.#writeCache(header, args, values[next]);
    if (options !== undefined) this.#writeOptions(header, request, options, asynchronous);
    return request;
  }

  /**
   * What the caller's object has under each of the names, which are read once each; a key that is none of them is an
   * error.
   */
  #values(
    what: 'an input' | 'an option' | 'an output',
    object: any,
    names: Map<string, number>,
  ): unknown[] {
    const values = new Array(names.size);
    const take = (key: string): number => {
      const index = names.get(key);
      if (index !== undefined) return index;
      if (names === this.#syncOptionNames && key === 'signal')
        throw typeError(this.#name, 'signal: expected none, a synchronous call is not aborted');
      throw unknownKey(this.#name, what, key, [...names.keys()]);
    };
    const keys = Object.keys(object);
    const prototype = Object.getPrototypeOf(object);
    const plain = prototype === Object.prototype || prototype === null;
    if (plain && Object.getOwnPropertyNames(object).length === keys.length) {
      for (const key of keys) values[take(key)] = object[key];
    } else {
      // By name: neither the accessors of a class nor what is not enumerable are among the keys.
      for (const key in object) take(key);
      for (const [name, index] of names) values[index] = object[name];
    }
    return values;
  }

  /** The error for what this copy of the package has not made. */
  #refused(name: string, maker: string, value: unknown, own: string, others = ''): TypeError {
    const from = show(value) === `a ${own}` ? ' of another copy of rankone' : '';
    const text = `expected what ${maker} returned${others}, got ${show(value)}${from}`;
    return typeError(this.#name, `${name}: ${text}`);
  }

  #writeState(header: Float64Array, args: CallArguments, value: unknown): void {
    if (value === undefined) return;
    const handle = RecurrentState.handleOf(value);
    if (!handle) throw this.#refused('state', 'createState()', value, 'RecurrentState');
    header[description.stateAt] = 1;
    args[VALUES + this.#entry.inputCount + this.#entry.outputCount] = handle;
  }

  #writeSaved(header: Float64Array, args: CallArguments, value: unknown): void {
    if (value === undefined) return;
    const handle = SavedForward.handleOf(value);
    if (!handle)
      throw this.#refused('saved', 'a forward with saveForBackward', value, 'SavedForward');
    header[description.savedAt] = 1;
    args[VALUES + this.#entry.inputCount + this.#entry.outputCount + 1] = handle;
  }

  /** A weight; or what stands for one: nothing, or each row of x itself. */
  #writeBase(header: Float64Array, args: CallArguments, value: unknown): void {
    if (value === undefined || value === null) return;
    const handle = handleOf('base', value);
    const multiplies = this.#inputNames.has('x');
    if (!handle && !(value === 'identity' && multiplies)) {
      const others = multiplies ? ", 'identity' or null" : '';
      throw this.#refused('base', 'packWeight()', value, 'PackedWeight', others);
    }
    header[description.baseAt] = handle ? 1 : IDENTITY;
    args[VALUES + this.#entry.inputCount + this.#entry.outputCount + 2] = handle;
  }

  #writeBank(header: Float64Array, args: CallArguments, value: unknown): void {
    if (value === undefined) return;
    const handle = handleOf('bank', value);
    if (!handle) throw this.#refused('bank', 'createAdapterBank()', value, 'AdapterBank');
    header[description.bankAt] = 1;
    args[VALUES + this.#entry.inputCount + this.#entry.outputCount + 3] = handle;
  }

  #writeCache(header: Float64Array, args: CallArguments, value: unknown): void {
    if (value === undefined) return;
    const handle = handleOf('cache', value);
    if (!handle) throw this.#refused('cache', 'createKvCache()', value, 'KvCache');
    header[description.cacheAt] = 1;
    args[VALUES + this.#entry.inputCount + this.#entry.outputCount + 4] = handle;
  }

  #writePlace(header: Float64Array, args: CallArguments, place: Place, value: unknown): void {
    if ('members' in place) {
      this.#writeGroup(header, args, place, value);
    } else if ('kind' in place) {
      writeNumber(this.#name, header, place, value);
    } else {
      const { name, slot, at, dtypes, bare } = place;
      args[VALUES + slot] = bare
        ? writeIndices(this.#name, name, value, dtypes, header, at)
        : writeTensor(this.#name, name, value, header, at);
    }
  }

  #writeOptions(header: Float64Array, request: Request, options: any, asynchronous: boolean): void {
    if (typeof options !== 'object' || options === null)
      throw typeError(this.#name, `options: expected an object, got ${show(options)}`);
    const names = asynchronous ? this.#asyncOptionNames : this.#syncOptionNames;
    const values = this.#values('an option', options, names);
    let next = this.#options.length;
    for (let i = 0; i < next; i++)
      if (values[i] !== undefined)
        this.#writePlace(header, request.args, this.#options[i], values[i]);
    if (this.#offered.length > 0)
      request.out = this.#writeOut(header, request.args, values[next++]);
    if (asynchronous) request.signal = checkSignal(this.#name, values[next]);
  }

  /** An option that is an object of tensors and numbers. */
  #writeGroup(header: Float64Array, args: CallArguments, group: GroupSlot, object: unknown): void {
    if (typeof object !== 'object' || object === null)
      throw typeError(
        this.#name,
        `${group.name}: expected an object {${[...group.names.keys()].join(', ')}}, got ${show(object)}`,
      );
    const values = this.#values('an option', object, group.names);
    if (values.every((value) => value === undefined)) {
      const [first] = group.members;
      const what = 'kind' in first ? KINDS[first.kind] : 'a tensor {data, shape}';
      throw typeError(this.#name, `${first.name}: expected ${what}, got undefined`);
    }
    group.members.forEach((member, i) => {
      if (values[i] !== undefined) this.#writePlace(header, args, member, values[i]);
    });
  }

  /** Returns the caller's tensors, by the outputs' slots. */
  #writeOut(header: Float64Array, args: CallArguments, out: any): unknown[] | undefined {
    if (out === undefined) return undefined;
    if (typeof out !== 'object' || out === null)
      throw typeError(this.#name, `out: expected an object of tensors, got ${show(out)}`);
    const tensors = this.#values('an output', out, this.#outputNames);
    const given = new Array(this.#entry.outputCount);
    for (let i = 0; i < tensors.length; i++) {
      if (tensors[i] === undefined) continue;
      const { name, slot, at } = this.#offered[i];
      const array = writeTensor(this.#name, `out.${name}`, tensors[i], header, at);
      args[VALUES + this.#entry.inputCount + slot] = array;
      given[slot] = tensors[i];
    }
    return given;
  }

  #read(header: Float64Array, results: RawResults, { out, float16 }: Request): any {
    const result: any = {};
    const all = header[description.resultsAt] === ALL ? (results as unknown[]) : undefined;
    const device = header[description.deviceAt];
    for (let i = 0; i < this.#outputs.length; i++) {
      const { name, slot, at } = this.#outputs[i];
      if (header[at] < 0) continue;
      const given = out?.[slot];
      if (given !== undefined) {
        result[name] = given;
        continue;
      }
      const data = all ? all[slot] : results;
      const dtype = header[at + 1];
      if (device >= 0 && dtype <= F16) {
        const entry = { handle: data as Handle, dtype, shape: readShape(header, at) };
        result[name] = DeviceTensor.of({ ...entry, float16: float16 && dtype === F16 }, device);
        continue;
      }
      result[name] = {
        data: float16 && dtype === F16 ? asFloat16(data as Uint16Array) : data,
        shape: readShape(header, at),
        dtype: readDType(header, at),
      };
    }
    const made = all?.[this.#entry.outputCount];
    if (made && this.#entry.makesBase) result.packed = PackedWeight.of(made as any);
    else if (made) result.saved = SavedForward.of(made as any);
    return result;
  }
}

const operations = new Map<string, Operation>();

// Made at the first call, so that loading the package does not pay for what is never used.
function operationOf(name: string): Operation {
  let operation = operations.get(name);
  if (!operation) {
    operation = new Operation(name);
    operations.set(name, operation);
  }
  return operation;
}

/** The synchronous form of a function of the engine. @internal */
export function synchronous(name: string): (inputs: any, options?: any) => any {
  let operation: Operation | undefined;
  return named(`${name}Sync`, (inputs, options) => {
    operation ??= operationOf(name);
    return operation.sync(inputs, options);
  });
}

/** The asynchronous form of a function of the engine. @internal */
export function asynchronous(name: string): (inputs: any, options?: any) => Promise<any> {
  return named(name, async (inputs, options) => operationOf(name).async(inputs, options));
}

/** The function by that name. @internal */
export function named<F extends (...args: any[]) => any>(name: string, f: F): F {
  return Object.defineProperty(f, 'name', { value: name });
}
