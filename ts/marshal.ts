// JavaScript values <-> the numbers and arrays that the addon reads. Everything here is driven by the engine's own
// description of its functions; no operation is known by name. The engine checks all of it again.
import { binding, description, type EntryDescription, type RawResults } from './binding';
import { rangeError, show, typeError, unknownKey } from './errors';
import { readShape, TENSOR, writeTensor } from './header';
import { SavedForward } from './saved';
import { RecurrentState } from './state';
import type { AbortSignalLike } from './types';

interface OptionSlot {
  name: string;
  kind: EntryDescription['options'][number]['kind'];
  at: number;
  choices: string[];
}

// One header serves all calls of this thread. A getter of the caller's that makes a call of its own while the header is
// in use gets another one.
let spare: Float64Array | undefined = new Float64Array(description.headerSize);

function takeHeader(): Float64Array {
  const header = spare ?? new Float64Array(description.headerSize);
  spare = undefined;
  return header;
}

/** A public function of the engine. @internal */
export class Operation {
  readonly #index: number;
  readonly #name: string;
  readonly #entry: EntryDescription;
  readonly #inputs = new Map<string, { name: string; slot: number; at: number }>();
  readonly #options = new Map<string, OptionSlot>();
  readonly #outputs: { name: string; slot: number; at: number }[] = [];
  readonly #optionsEnd: number;

  constructor(name: string) {
    this.#name = name;
    this.#index = description.entries.findIndex((e) => e.name === name);
    if (this.#index < 0) throw new Error(`rankone: the native binary has no operation ${name}`);
    const entry = description.entries[this.#index];
    this.#entry = entry;
    for (const { name, slot } of entry.inputs)
      this.#inputs.set(name, { name, slot, at: slot * TENSOR });
    for (const { name, slot, kind, choices } of entry.options) {
      const at = description.optionsAt + 2 * slot;
      this.#options.set(name, { name, kind, at, choices: choices?.split('|') ?? [] });
    }
    // Options that this function does not take have slots too, and they must read as absent.
    this.#optionsEnd = description.optionsAt + 2 * entry.optionCount;
    for (const { name, slot } of entry.outputs)
      this.#outputs.push({ name, slot, at: description.outputsAt + slot * TENSOR });
  }

  sync(inputs: any, options: any): any {
    const header = takeHeader();
    try {
      const data = this.#write(header, inputs, options, false);
      const out = options === undefined ? undefined : options.out;
      return this.#read(header, binding.call(this.#index, header, data), out);
    } finally {
      spare = header;
    }
  }

  async async(inputs: any, options: any): Promise<any> {
    const signal: AbortSignalLike | undefined = options?.signal;
    const header = takeHeader();
    let pending: Promise<RawResults>;
    let shapes: Float64Array;
    let out: any;
    try {
      const data = this.#write(header, inputs, options, true);
      if (signal?.aborted) throw signal.reason;
      out = options?.out;
      pending = binding.callAsync(this.#index, header, data);
      shapes = header.slice();
    } finally {
      spare = header;
    }
    if (signal === undefined) return this.#read(shapes, await pending, out);
    const abort = () => binding.cancel(shapes[description.jobAt]);
    signal.addEventListener('abort', abort);
    try {
      return this.#read(shapes, await pending, out);
    } catch (error) {
      throw signal.aborted && (error as Error).name === 'AbortError' ? signal.reason : error;
    } finally {
      signal.removeEventListener('abort', abort);
    }
  }

  #write(header: Float64Array, inputs: any, options: any, asynchronous: boolean): unknown[] {
    const { inputCount, outputCount } = this.#entry;
    const data = new Array(inputCount + outputCount + 2);
    for (let i = 0; i < inputCount; i++) header[i * TENSOR] = -1;
    for (let at = description.optionsAt; at < this.#optionsEnd; at += 2) header[at] = 0;
    for (let i = 0; i < outputCount; i++) header[description.outputsAt + i * TENSOR] = -1;
    header[description.stateAt] = 0;
    header[description.savedAt] = 0;
    if (typeof inputs !== 'object' || inputs === null)
      throw typeError(this.#name, `inputs: expected an object of tensors, got ${show(inputs)}`);
    for (const key in inputs) {
      const value = inputs[key];
      const slot = this.#inputs.get(key);
      if (slot !== undefined) {
        if (value !== undefined)
          data[slot.slot] = writeTensor(this.#name, key, value, header, slot.at);
      } else {
        this.#writeHandle(header, data, key, value);
      }
    }
    if (options !== undefined) this.#writeOptions(header, data, options, asynchronous);
    return data;
  }

  #writeHandle(header: Float64Array, data: unknown[], key: string, value: unknown): void {
    const { takesState, takesSaved, inputCount, outputCount } = this.#entry;
    if (key === 'state' && takesState) {
      if (value === undefined) return;
      const handle = RecurrentState.handleOf(value);
      if (!handle)
        throw typeError(
          this.#name,
          `state: expected what createState() returned, got ${show(value)}`,
        );
      header[description.stateAt] = 1;
      data[inputCount + outputCount] = handle;
    } else if (key === 'saved' && takesSaved) {
      if (value === undefined) return;
      const handle = SavedForward.handleOf(value);
      if (!handle)
        throw typeError(
          this.#name,
          `saved: expected what a forward with saveForBackward returned, got ${show(value)}`,
        );
      header[description.savedAt] = 1;
      data[inputCount + outputCount + 1] = handle;
    } else {
      const legal = [...this.#inputs.keys()];
      if (takesState) legal.push('state');
      if (takesSaved) legal.push('saved');
      throw unknownKey(this.#name, 'an input', key, legal);
    }
  }

  #writeOptions(header: Float64Array, data: unknown[], options: any, asynchronous: boolean): void {
    if (typeof options !== 'object' || options === null)
      throw typeError(this.#name, `options: expected an object, got ${show(options)}`);
    for (const key in options) {
      const value = options[key];
      const option = this.#options.get(key);
      if (option !== undefined) {
        if (value === undefined) continue;
        if (option.kind === 'pair') {
          this.#writePair(header, option, value);
        } else {
          header[option.at + 1] = this.#optionValue(option, value);
          header[option.at] = 1;
        }
      } else if (key === 'out' && this.#outputs.length > 0) {
        if (value !== undefined) this.#writeOut(header, data, value);
      } else if (key === 'signal' && asynchronous) {
        if (value !== undefined && typeof value?.addEventListener !== 'function')
          throw typeError(this.#name, `signal: expected an AbortSignal, got ${show(value)}`);
      } else {
        const legal = [...this.#options.keys()];
        if (this.#outputs.length > 0) legal.push('out');
        if (asynchronous) legal.push('signal');
        throw unknownKey(this.#name, 'an option', key, legal);
      }
    }
  }

  #optionValue({ name, kind, choices }: OptionSlot, value: unknown): number {
    if (kind === 'flag') {
      if (typeof value !== 'boolean')
        throw typeError(this.#name, `${name}: expected true or false, got ${show(value)}`);
      return value ? 1 : 0;
    }
    if (kind === 'choice') {
      const index = choices.indexOf(value as string);
      if (index >= 0) return index;
      const text = `${name}: expected one of '${choices.join("', '")}', got ${show(value)}`;
      throw typeof value === 'string' ? rangeError(this.#name, text) : typeError(this.#name, text);
    }
    if (typeof value !== 'number')
      throw typeError(
        this.#name,
        `${name}: expected ${kind === 'integer' ? 'an integer' : 'a number'}, got ${show(value)}`,
      );
    return value;
  }

  /** Two numbers, in two option slots. */
  #writePair(header: Float64Array, { name, at }: OptionSlot, value: any): void {
    const good =
      Array.isArray(value) && value.length === 2 && value.every((x) => typeof x === 'number');
    if (!good)
      throw typeError(this.#name, `${name}: expected two numbers [min, max], got ${show(value)}`);
    header.set([1, value[0], 1, value[1]], at);
  }

  #writeOut(header: Float64Array, data: unknown[], out: any): void {
    if (typeof out !== 'object' || out === null)
      throw typeError(this.#name, `out: expected an object of tensors, got ${show(out)}`);
    for (const key in out) {
      const output = this.#outputs.find((o) => o.name === key);
      if (!output)
        throw unknownKey(
          this.#name,
          'an output',
          key,
          this.#outputs.map((o) => o.name),
        );
      const tensor = out[key];
      if (tensor === undefined) continue;
      data[this.#entry.inputCount + output.slot] = writeTensor(
        this.#name,
        `out.${key}`,
        tensor,
        header,
        output.at,
      );
    }
  }

  #read(header: Float64Array, arrays: RawResults, out: any): any {
    const result: any = {};
    for (const { name, slot, at } of this.#outputs) {
      const data = arrays[slot];
      if (data === null) continue;
      result[name] = out?.[name] ?? { data, shape: readShape(header, at), dtype: 'f32' };
    }
    const saved = arrays[this.#entry.outputCount];
    if (saved) result.saved = SavedForward.of(saved as any);
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

function named<F extends (inputs: any, options?: any) => any>(name: string, f: F): F {
  return Object.defineProperty(f, 'name', { value: name });
}
