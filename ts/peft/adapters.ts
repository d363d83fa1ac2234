// The tensors of an adapter's file as one adapter per module, checked against the configuration and the base model.
import { rangeError } from '../errors';
import type { FloatTensor } from '../types';
import type { LoraConfig } from './config';
import type { StoredTensor } from './dtypes';
import { splitExperts } from './experts';
import { quote } from './json';
import {
  adapterKey,
  isEmbeddingName,
  looksAdapted,
  type Part,
  PREFIX,
  parseAdapterKey,
  splitSaved,
  unwrap,
} from './keys';
import type { PeftAdapter, PeftModule, SavedTensors } from './types';

/** Longer than any name of a module. */
const MAX_KEY = 2000;

type Parts = Map<Part, StoredTensor>;

/** A module of the base model, its sizes checked. @internal */
export type Modules = ReadonlyMap<string, PeftModule>;

/** @internal */
export class AdapterReader {
  readonly #owners = new Map<string, Parts>();
  readonly #saved = new Map<string, Map<string, StoredTensor>>();
  readonly #adapters = new Map<string, PeftAdapter>();
  #adapterName: string | undefined;

  constructor(
    private readonly operation: string,
    private readonly file: string,
    private readonly config: LoraConfig,
    private readonly modules: Modules | undefined,
  ) {}

  read(tensors: ReadonlyMap<string, StoredTensor>): Map<string, PeftAdapter> {
    const others = [...tensors].filter(([key, tensor]) => !this.#sortAdapted(key, tensor));
    for (const [key, tensor] of others) this.#sortSaved(key, key.slice(PREFIX.length), tensor);
    const nested = new Map<string, string[]>();
    for (const owner of this.#owners.keys()) {
      const { module } = unwrap(owner);
      if (this.config.targetParameters.length === 0 || this.#adapts(module))
        this.#adapters.set(owner, this.#adapter(owner));
      else nested.set(module, [...(nested.get(module) ?? []), owner]);
    }
    for (const [module, owners] of nested) this.#readParameters(module, owners);
    for (const [module, saved] of this.#saved) this.#addSaved(module, saved);
    this.#checkAll();
    return this.#adapters;
  }

  fail(key: string, what: string): never {
    throw rangeError(this.operation, `${this.file}: ${quote(key)}: ${what}`);
  }

  #adapts(module: string): boolean {
    return this.config.namesTargets
      ? this.config.targets(module)
      : this.config.parametersOf(module).length === 0 && this.config.targets(module);
  }

  /** Puts a tensor to its module, if it is an adapter's. */
  #sortAdapted(key: string, tensor: StoredTensor): boolean {
    if (key.length > MAX_KEY) this.fail(key, `expected at most ${MAX_KEY} characters`);
    if (!key.startsWith(PREFIX)) this.fail(key, `expected a name that begins with ${PREFIX}`);
    const text = key.slice(PREFIX.length);
    const found = parseAdapterKey(text);
    if (!found && looksAdapted(text)) this.fail(key, 'is of no kind of adapter that is supported');
    if (!found) return false;
    const { owner, part, adapter } = found;
    this.#adapterName ??= adapter;
    if (adapter !== undefined && adapter !== this.#adapterName)
      this.fail(key, `expected one adapter in a file, got ${adapter} beside ${this.#adapterName}`);
    const parts = this.#owners.get(owner) ?? new Map();
    if (parts.has(part)) this.fail(key, `expected one ${part} of ${quote(owner)}, got two`);
    this.#owners.set(owner, parts.set(part, tensor));
    return true;
  }

  #sortSaved(key: string, text: string, tensor: StoredTensor): void {
    const { config, modules } = this;
    if (text.includes('.original_module.')) this.fail(key, 'is of the module that was replaced');
    const found =
      splitSaved(text, (module) => config.modulesToSave.some((name) => module.endsWith(name))) ??
      splitSaved(text, (module, name) => this.#replaces(module, name)) ??
      this.fail(key, 'expected a tensor of an adapter, or of a module that is saved with it');
    const { module, tensor: name } = found;
    const saved = this.#saved.get(module) ?? new Map();
    if (saved.has(name)) this.fail(key, `expected one ${name} of ${quote(module)}, got two`);
    this.#saved.set(module, saved.set(name, tensor));
    const size = modules?.get(module);
    if (size) this.#checkSaved(key, module, name, tensor.shape, size);
  }

  /** Tensors of the base model that files hold without modules_to_save: biases, and embeddings with new tokens. */
  #replaces(module: string, tensor: string): boolean {
    if (tensor === 'bias')
      return (
        this.config.bias === 'all' || (this.config.bias === 'lora_only' && this.#adapts(module))
      );
    if (tensor !== 'weight') return false;
    if (isEmbeddingName(module) || this.modules?.get(module)?.kind === 'embedding') return true;
    return this.#owners.get(module)?.has('lora_embedding_A') ?? false;
  }

  #checkSaved(
    key: string,
    module: string,
    name: string,
    shape: readonly number[],
    { inFeatures, outFeatures, kind }: PeftModule,
  ): void {
    if (name === 'bias' && (shape.length !== 1 || shape[0] !== outFeatures))
      this.fail(key, `expected shape [out] = [${outFeatures}], got [${shape}]`);
    if (name !== 'weight') return;
    const resized = kind === 'embedding' || isEmbeddingName(module);
    const fits = (rows: number, columns: number): boolean =>
      shape.length === 2 && shape[1] === columns && (resized || shape[0] === rows);
    const table = kind === 'embedding';
    // With fan_in_fan_out some layers of a model are stored so, and some are not.
    const good =
      ((table || this.config.fanInFanOut) && fits(inFeatures, outFeatures)) ||
      (!table && fits(outFeatures, inFeatures));
    const wanted = table ? outFeatures : inFeatures;
    if (!good)
      this.fail(
        key,
        `expected shape [${resized ? 'tokens' : outFeatures},${wanted}], got [${shape}]`,
      );
  }

  #part(owner: string, part: Part): FloatTensor | undefined {
    const tensor = this.#owners.get(owner)?.get(part);
    if (!tensor) return undefined;
    if (tensor.dtype !== 'f32' && tensor.dtype !== 'bf16' && tensor.dtype !== 'f16')
      this.fail(adapterKey(owner, part), `expected F32, BF16 or F16, got ${tensor.dtype}`);
    return tensor;
  }

  #required(owner: string, part: Part, why: string): FloatTensor {
    return this.#part(owner, part) ?? this.fail(adapterKey(owner, part), `is missing: ${why}`);
  }

  #adapter(owner: string): PeftAdapter {
    const parts = this.#owners.get(owner)!;
    const [first] = parts.keys();
    const key = adapterKey(owner, first);
    if (!this.config.targets(owner))
      this.fail(key, `expected a module that the configuration targets, got ${quote(owner)}`);
    const size = this.#sizeOf(owner, key);
    const embedding = parts.has('lora_embedding_A') || parts.has('lora_embedding_B');
    const [aPart, bPart]: [Part, Part] = embedding
      ? ['lora_embedding_A', 'lora_embedding_B']
      : ['lora_A.weight', 'lora_B.weight'];
    if (embedding && (parts.has('lora_A.weight') || parts.has('lora_B.weight')))
      this.fail(key, 'expected factors of a linear layer or of an embedding, got both');
    if (size?.kind && size.kind !== (embedding ? 'embedding' : 'linear'))
      this.fail(
        key,
        `expected factors of ${size.kind === 'embedding' ? 'an' : 'a'} ${size.kind} module`,
      );
    const a = this.#required(owner, aPart, `there is a ${bPart}`);
    const b = this.#required(owner, bPart, `there is a ${aPart}`);
    const r = this.config.rank(owner);
    this.#checkFactors(owner, aPart, bPart, a.shape, b.shape, r, size);
    const out = b.shape[0];
    const scale = this.config.scale(owner);
    const magnitude = this.#vector(
      owner,
      'lora_magnitude_vector',
      out,
      this.config.dora,
      'use_dora',
    );
    if (embedding) {
      if (parts.has('lora_B.bias'))
        this.fail(adapterKey(owner, 'lora_B.bias'), 'is of no embedding');
      return { kind: 'embedding', a, b, scale, ...(magnitude && { magnitude }) };
    }
    const outBias = this.#vector(owner, 'lora_B.bias', out, this.config.loraBias, 'lora_bias');
    return {
      kind: 'linear',
      a,
      b,
      scale,
      ...(magnitude && { magnitude }),
      ...(outBias && { outBias }),
    };
  }

  #sizeOf(module: string, key: string): PeftModule | undefined {
    if (!this.modules) return undefined;
    return (
      this.modules.get(module) ??
      this.fail(key, `expected a module of the base model, got ${quote(module)}`)
    );
  }

  #checkFactors(
    owner: string,
    aPart: Part,
    bPart: Part,
    a: readonly number[],
    b: readonly number[],
    r: number,
    size: PeftModule | undefined,
  ): void {
    const [aKey, bKey] = [adapterKey(owner, aPart), adapterKey(owner, bPart)];
    for (const [key, shape] of [
      [aKey, a],
      [bKey, b],
    ] as const)
      if (shape.length !== 2)
        this.fail(key, `expected two dimensions, got [${shape}]: convolutions are not supported`);
    const aWanted = `[r,in] = [${r},${size?.inFeatures ?? 'in'}]`;
    const bWanted = `[out,r] = [${size?.outFeatures ?? 'out'},${r}]`;
    if (a[0] !== r)
      this.fail(
        aKey,
        `expected shape ${aWanted}, got [${a}]${a[1] === r ? ': it is transposed' : ''}`,
      );
    if (b[1] !== r)
      this.fail(
        bKey,
        `expected shape ${bWanted}, got [${b}]${b[0] === r ? ': it is transposed' : ''}`,
      );
    if (!size) return;
    const swapped = a[1] === size.outFeatures && b[0] === size.inFeatures;
    const hint = swapped
      ? ': in and out are swapped (fan_in_fan_out is about the base model alone; factors are [r,in] and [out,r])'
      : '';
    if (a[1] !== size.inFeatures) this.fail(aKey, `expected shape ${aWanted}, got [${a}]${hint}`);
    if (b[0] !== size.outFeatures) this.fail(bKey, `expected shape ${bWanted}, got [${b}]${hint}`);
  }

  /** A vector that a file holds if and only if the configuration says so. */
  #vector(
    owner: string,
    part: Part,
    length: number,
    wanted: boolean,
    key: string,
  ): FloatTensor | undefined {
    const tensor = this.#part(owner, part);
    const name = adapterKey(owner, part);
    if (!tensor && wanted) this.fail(name, `is missing: the configuration has ${key}`);
    if (tensor && !wanted) this.fail(name, `expected none: the configuration has no ${key}`);
    if (tensor && (tensor.shape.length !== 1 || tensor.shape[0] !== length))
      this.fail(name, `expected shape [out] = [${length}], got [${tensor.shape}]`);
    return tensor;
  }

  /** Factors of a module's parameters: the innermost wrapper holds those of the one that the module defines first. */
  #readParameters(module: string, wrappers: string[]): void {
    const owners = wrappers.sort((x, y) => y.length - x.length);
    const [first] = this.#owners.get(owners[0])!.keys();
    const key = adapterKey(owners[0], first);
    const { dora, loraBias } = this.config;
    if (dora || loraBias)
      this.fail(key, `expected no ${dora ? 'use_dora' : 'lora_bias'}: parameters have neither`);
    const possible = this.config.parametersOf(module);
    if (possible.length === 0)
      this.fail(key, `expected a module that the configuration targets, got ${quote(module)}`);
    const names = this.modules ? this.#definedIn(module, possible) : possible;
    if (names.length === 0)
      this.fail(
        key,
        `expected the base model's modules to have ${possible.map((name) => `${module}.${name}`).join(' or ')}`,
      );
    if (!this.modules && (names.length > 1 || owners.length > 1))
      this.fail(
        key,
        `expected to be told the base model's modules: files do not say which of ${names.join(', ')} it is of`,
      );
    if (names.length !== owners.length || unwrap(owners[0]).depth !== owners.length - 1)
      this.fail(key, `expected factors of ${names.join(', ')}, got ${owners.length}`);
    for (const [i, owner] of owners.entries()) {
      const path = `${module}.${names[i]}`;
      for (const part of this.#owners.get(owner)!.keys())
        if (part !== 'lora_A.weight' && part !== 'lora_B.weight')
          this.fail(adapterKey(owner, part), 'expected factors alone for a parameter');
      const a = this.#required(owner, 'lora_A.weight', 'there is a lora_B.weight');
      const b = this.#required(owner, 'lora_B.weight', 'there is a lora_A.weight');
      const r = this.config.rank(path);
      const size = this.modules?.get(path);
      const experts = size?.experts ?? (size ? 1 : a.shape[0] / r);
      if (!Number.isInteger(experts) || experts < 1)
        this.fail(
          adapterKey(owner, 'lora_A.weight'),
          `expected a multiple of r = ${r} rows, got [${a.shape}]`,
        );
      this.#checkFactors(
        owner,
        'lora_A.weight',
        'lora_B.weight',
        a.shape,
        b.shape,
        r * experts,
        size,
      );
      const factors = splitExperts(a, b, experts, r);
      this.#adapters.set(path, { kind: 'experts', ...factors, scale: this.config.scale(path) });
    }
  }

  /** Those of the base model, in its order. */
  #definedIn(module: string, possible: string[]): string[] {
    return [...this.modules!.keys()]
      .filter((path) => path.startsWith(`${module}.`))
      .map((path) => path.slice(module.length + 1))
      .filter((name) => possible.includes(name));
  }

  #addSaved(module: string, tensors: Map<string, StoredTensor>): void {
    const saved: SavedTensors = tensors;
    const adapter = this.#adapters.get(module);
    if (adapter?.kind === 'experts')
      this.fail(`${PREFIX}${module}`, 'expected factors alone for a parameter');
    this.#adapters.set(module, adapter ? { ...adapter, saved } : { kind: 'saved', saved });
  }

  /** Modules that the configuration names and the file is silent about would be adapted by nothing. */
  #checkAll(): void {
    for (const [path, { kind }] of this.modules ?? []) {
      const adapter = this.#adapters.get(path);
      if (adapter && adapter.kind !== 'saved') continue;
      const dot = path.lastIndexOf('.');
      const owner = path.slice(0, Math.max(dot, 0));
      if (dot > 0 && this.config.parametersOf(owner).includes(path.slice(dot + 1)))
        this.fail(adapterKey(owner, 'lora_A.weight'), `is missing: ${quote(path)} is targeted`);
      const part = kind === 'embedding' ? 'lora_embedding_A' : 'lora_A.weight';
      if (this.config.namesTargets && this.config.targets(path))
        this.fail(adapterKey(path, part), 'is missing: the configuration targets the module');
    }
  }
}
