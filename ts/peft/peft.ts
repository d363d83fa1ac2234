import fs from 'node:fs';
import path from 'node:path';
import { types } from 'node:util';
import { rangeError, show, typeError, unknownKey } from '../errors';
import { AdapterReader, type Modules } from './adapters';
import { adapterTensors } from './collect';
import { LoraConfig } from './config';
import type { PeftConfig } from './configKeys';
import { allocate, pathOf, type Reading, read, readSync, write, writeSync } from './files';
import { decodeUtf8, parseJson, quote } from './json';
import { readingSafetensors, safetensorsParts } from './safetensors';
import type { FileUrl, PeftAdapter, PeftModule, PeftModules, PeftOptions } from './types';

const READ = 'readPeft';
const READ_CONFIG = 'readPeftConfig';
const WRITE = 'writePeft';
const CONFIG = 'adapter_config.json';
const TENSORS = 'adapter_model.safetensors';
const PICKLE = 'adapter_model.bin';
/** Some hundred times the longest that is known. */
const MAX_CONFIG = 2 ** 24;
const METADATA = { format: 'pt' };

function* readingConfig(operation: string, file: string, size: number): Reading<PeftConfig> {
  const fail = (what: string): never => {
    throw rangeError(operation, `${file}: ${what}`);
  };
  if (size > MAX_CONFIG) fail(`expected at most ${MAX_CONFIG} bytes, got ${size}`);
  const bytes = allocate(operation, file, size);
  yield { into: bytes, at: 0 };
  const text = decodeUtf8(bytes);
  if (text === undefined) return fail('expected text in UTF-8, got other bytes');
  return configOf(operation, file, parseJson(text, fail));
}

function configOf(operation: string, where: string, value: unknown): PeftConfig {
  if (typeof value === 'object' && value !== null && !Array.isArray(value))
    return value as PeftConfig;
  throw typeError(operation, `${where}: expected an object, got ${show(value)}`);
}

/** A pickle is a program: it is not run. */
function missingTensors(folder: string, error: any): Error {
  const pickle = path.join(folder, PICKLE);
  if (error?.code !== 'ENOENT' || !fs.existsSync(pickle)) return error;
  return rangeError(
    READ,
    `${pickle}: is a pickle, which is not read: save the adapter as ${TENSORS} (safe_serialization)`,
  );
}

function ignoredBy(operation: string, options: PeftOptions | undefined): readonly string[] {
  if (options === undefined) return [];
  if (typeof options !== 'object' || options === null)
    throw typeError(operation, `options: expected an object, got ${show(options)}`);
  for (const key in options)
    if (key !== 'ignore') throw unknownKey(operation, 'an option', key, ['ignore']);
  const { ignore = [] } = options;
  if (!Array.isArray(ignore) || !ignore.every((key) => typeof key === 'string'))
    throw typeError(operation, `ignore: expected names of keys, got ${show(ignore)}`);
  return [...ignore];
}

function modulesOf(modules: PeftModules | undefined): Modules | undefined {
  if (modules === undefined) return undefined;
  if (typeof modules !== 'object' || modules === null)
    throw typeError(READ, `modules: expected sizes by path, got ${show(modules)}`);
  const entries: [unknown, unknown][] = types.isMap(modules)
    ? [...modules]
    : Object.entries(modules);
  return new Map(
    entries.map(([name, value]) => {
      if (typeof name !== 'string')
        throw typeError(READ, `modules: expected paths that are strings, got ${show(name)}`);
      return [name, moduleOf(name, value)];
    }),
  );
}

function moduleOf(name: string, value: any): PeftModule {
  const where = `modules: ${quote(name)}`;
  if (typeof value !== 'object' || value === null)
    throw typeError(READ, `${where}: expected {inFeatures, outFeatures}, got ${show(value)}`);
  const { inFeatures, outFeatures, kind, experts } = value;
  for (const [key, size] of Object.entries({ inFeatures, outFeatures, experts }))
    if (!(key === 'experts' && size === undefined) && (!Number.isSafeInteger(size) || size <= 0))
      throw rangeError(READ, `${where}: ${key}: expected a positive integer, got ${show(size)}`);
  if (kind !== undefined && kind !== 'linear' && kind !== 'embedding')
    throw rangeError(READ, `${where}: kind: expected 'linear' or 'embedding', got ${show(kind)}`);
  return { inFeatures, outFeatures, kind, experts };
}

/**
 * Reads the adapter that PEFT saved in a folder, `adapter_config.json` and `adapter_model.safetensors`: for every module
 * its factors, their scale, and what else the file holds for it. Nothing that the file or the configuration says is passed
 * over: a tensor of a module that the configuration does not target, a factor without its partner, a shape that is not
 * that of the module's rank, and a key of the configuration that changes the result and is not supported are errors.
 *
 * @param folder a path or a file: URL
 * @param modules the base model's modules: names and shapes must then be theirs, and every one that the configuration
 * names must be in the file
 * @throws (rejects) TypeError for a wrong argument; RangeError that names the file and its key; the system's errors
 *
 * @example
 * const adapters = await readPeft('my-adapter', { 'model.layers.0.self_attn.q_proj': { inFeatures: 2048, outFeatures: 2048 } });
 * for (const [module, adapter] of adapters) if (adapter.kind === 'linear') console.log(module, adapter.a.shape, adapter.scale);
 */
export async function readPeft(
  folder: string | FileUrl,
  modules?: PeftModules,
  options?: PeftOptions,
): Promise<Map<string, PeftAdapter>> {
  const from = pathOf(READ, 'folder', folder);
  const sizes = modulesOf(modules);
  const ignore = ignoredBy(READ, options);
  const [json, file] = [path.join(from, CONFIG), path.join(from, TENSORS)];
  const raw = await read(READ, json, (size) => readingConfig(READ, json, size));
  const config = new LoraConfig(READ, json, raw, ignore);
  const { tensors } = await read(READ, file, (size) => readingSafetensors(READ, file, size)).catch(
    (error) => {
      throw missingTensors(from, error);
    },
  );
  return new AdapterReader(READ, file, config, sizes).read(tensors);
}

/**
 * {@link readPeft} on the caller's thread.
 * @throws the same errors, synchronously
 */
export function readPeftSync(
  folder: string | FileUrl,
  modules?: PeftModules,
  options?: PeftOptions,
): Map<string, PeftAdapter> {
  const from = pathOf(READ, 'folder', folder);
  const sizes = modulesOf(modules);
  const ignore = ignoredBy(READ, options);
  const [json, file] = [path.join(from, CONFIG), path.join(from, TENSORS)];
  const raw = readSync(READ, json, (size) => readingConfig(READ, json, size));
  const config = new LoraConfig(READ, json, raw, ignore);
  try {
    const { tensors } = readSync(READ, file, (size) => readingSafetensors(READ, file, size));
    return new AdapterReader(READ, file, config, sizes).read(tensors);
  } catch (error) {
    throw missingTensors(from, error);
  }
}

/**
 * The configuration of the adapter in a folder, as its JSON has it: what {@link writePeft} takes. Unknown keys are kept.
 * @throws (rejects) as {@link readPeft}; what the keys say is not checked
 */
export async function readPeftConfig(folder: string | FileUrl): Promise<PeftConfig> {
  const file = path.join(pathOf(READ_CONFIG, 'folder', folder), CONFIG);
  return read(READ_CONFIG, file, (size) => readingConfig(READ_CONFIG, file, size));
}

/**
 * {@link readPeftConfig} on the caller's thread.
 * @throws the same errors, synchronously
 */
export function readPeftConfigSync(folder: string | FileUrl): PeftConfig {
  const file = path.join(pathOf(READ_CONFIG, 'folder', folder), CONFIG);
  return readSync(READ_CONFIG, file, (size) => readingConfig(READ_CONFIG, file, size));
}

interface Files {
  folder: string;
  json: string;
  jsonParts: Uint8Array[];
  file: string;
  parts: Uint8Array[];
}

function filesOf(
  folder: string | FileUrl,
  adapters: ReadonlyMap<string, PeftAdapter>,
  config: PeftConfig,
  options: PeftOptions | undefined,
): Files {
  const to = pathOf(WRITE, 'folder', folder);
  const ignore = ignoredBy(WRITE, options);
  const [json, file] = [path.join(to, CONFIG), path.join(to, TENSORS)];
  const text = `${textOf(config)}\n`;
  const raw = configOf(WRITE, 'config', JSON.parse(text));
  const tensors = adapterTensors(WRITE, adapters, new LoraConfig(WRITE, 'config', raw, ignore));
  return {
    folder: to,
    json,
    jsonParts: [Buffer.from(text)],
    file,
    parts: safetensorsParts(WRITE, file, tensors, METADATA),
  };
}

/** JSON that says what the object does: JSON.stringify leaves out what it cannot say. */
function textOf(config: unknown): string {
  const check = (key: string, value: unknown): unknown => {
    const good =
      value === null ||
      value === undefined ||
      typeof value === 'string' ||
      typeof value === 'boolean' ||
      typeof value === 'object' ||
      (typeof value === 'number' && Number.isFinite(value));
    if (!good) throw typeError(WRITE, `config: ${quote(key)}: expected JSON, got ${show(value)}`);
    return value;
  };
  configOf(WRITE, 'config', config);
  return JSON.stringify(config, check, 2);
}

/**
 * Writes an adapter as PEFT does: `adapter_config.json` with this configuration, and `adapter_model.safetensors` with the
 * tensors' own bytes. {@link readPeft} of the folder gives the same adapters.
 *
 * @param folder made where there is none
 * @param adapters as {@link readPeft} returns them; parameters of one module in the order in which it defines them
 * @param config what PEFT is to be told; scales, ranks and modules must be what it says
 * @throws (rejects) TypeError or RangeError that names the key; the system's errors. Arrays must stay as they are until then.
 */
export async function writePeft(
  folder: string | FileUrl,
  adapters: ReadonlyMap<string, PeftAdapter>,
  config: PeftConfig,
  options?: PeftOptions,
): Promise<void> {
  const files = filesOf(folder, adapters, config, options);
  await fs.promises.mkdir(files.folder, { recursive: true });
  await write(WRITE, files.file, files.parts);
  await write(WRITE, files.json, files.jsonParts);
}

/**
 * {@link writePeft} on the caller's thread.
 * @throws the same errors, synchronously
 */
export function writePeftSync(
  folder: string | FileUrl,
  adapters: ReadonlyMap<string, PeftAdapter>,
  config: PeftConfig,
  options?: PeftOptions,
): void {
  const files = filesOf(folder, adapters, config, options);
  fs.mkdirSync(files.folder, { recursive: true });
  writeSync(files.file, files.parts);
  writeSync(files.json, files.jsonParts);
}
