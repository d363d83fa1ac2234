// Adapters as the tensors of a file, and the check that the file will say the same.
import { types } from 'node:util';
import { rangeError, show, typeError } from '../errors';
import type { FloatTensor } from '../types';
import { AdapterReader, type Modules } from './adapters';
import type { LoraConfig } from './config';
import type { StoredTensor } from './dtypes';
import { joinExperts } from './experts';
import { quote } from './json';
import { adapterKey, PREFIX, wrap } from './keys';
import { plannedTensor, type WritableTensor } from './safetensors';
import type { ExpertsAdapter, PeftAdapter, PeftModule } from './types';

const FIELDS = ['kind', 'a', 'b', 'scale', 'magnitude', 'outBias', 'saved'];

/** The tensors of a file that holds these adapters. @internal */
export function adapterTensors(
  operation: string,
  adapters: ReadonlyMap<string, PeftAdapter>,
  config: LoraConfig,
): Map<string, WritableTensor> {
  const tensors = new Map<string, WritableTensor>();
  const put = (key: string, tensor: unknown): void => {
    if (tensors.has(key))
      throw rangeError(operation, `${quote(key)}: expected one tensor, got two`);
    tensors.set(key, tensor as WritableTensor);
  };
  if (!types.isMap(adapters))
    throw typeError(operation, `adapters: expected a Map of adapters, got ${show(adapters)}`);
  const experts = new Map<string, ExpertsAdapter[]>();
  const modules = new Map<string, PeftModule>();
  for (const [path, adapter] of adapters) {
    checkAdapter(operation, path, adapter);
    if (adapter.kind === 'experts') {
      const module = path.slice(0, Math.max(0, path.lastIndexOf('.')));
      experts.set(module, [...(experts.get(module) ?? []), adapter]);
      modules.set(path, expertsSize(operation, path, adapter));
      continue;
    }
    const wrapped = adapter.kind === 'saved' ? '' : '.base_layer';
    for (const [name, tensor] of adapter.saved ?? [])
      put(`${PREFIX}${path}${wrapped}.${name}`, tensor);
    if (adapter.kind === 'saved') continue;
    const embedding = adapter.kind === 'embedding';
    put(adapterKey(path, embedding ? 'lora_embedding_A' : 'lora_A.weight'), adapter.a);
    put(adapterKey(path, embedding ? 'lora_embedding_B' : 'lora_B.weight'), adapter.b);
    if (adapter.magnitude) put(adapterKey(path, 'lora_magnitude_vector'), adapter.magnitude);
    if (adapter.kind === 'linear' && adapter.outBias)
      put(adapterKey(path, 'lora_B.bias'), adapter.outBias);
  }
  for (const [module, list] of experts)
    for (const [i, adapter] of list.entries()) {
      const { a, b } = joinExperts(adapter.a, adapter.b);
      const owner = wrap(module, list.length - 1 - i);
      put(adapterKey(owner, 'lora_A.weight'), a);
      put(adapterKey(owner, 'lora_B.weight'), b);
    }
  checkRead(operation, adapters, tensors, config, modules);
  return tensors;
}

function checkAdapter(operation: string, path: unknown, adapter: any): void {
  if (typeof path !== 'string' || path === '')
    throw typeError(operation, `adapters: expected paths of modules, got ${show(path)}`);
  const where = `adapters: ${quote(path)}`;
  if (typeof adapter !== 'object' || adapter === null)
    throw typeError(operation, `${where}: expected an adapter, got ${show(adapter)}`);
  const { kind, saved, scale } = adapter;
  if (!['linear', 'embedding', 'experts', 'saved'].includes(kind))
    throw typeError(operation, `${where}: kind: expected that of an adapter, got ${show(kind)}`);
  for (const key in adapter)
    if (!FIELDS.includes(key) && adapter[key] !== undefined)
      throw typeError(operation, `${where}: ${quote(key)}: files have no place for it`);
  if (saved !== undefined ? !types.isMap(saved) : kind === 'saved')
    throw typeError(operation, `${where}: saved: expected a Map of tensors, got ${show(saved)}`);
  if (kind === 'saved') return;
  if (typeof scale !== 'number')
    throw typeError(operation, `${where}: scale: expected a number, got ${show(scale)}`);
}

/** The sizes that a parameter's factors say, which are three-dimensional. */
function expertsSize(operation: string, path: string, { a, b }: ExpertsAdapter): PeftModule {
  const shapes = [a, b].map((tensor: FloatTensor, i) => {
    const { shape } = plannedTensor(operation, `${path}: ${'ab'[i]}`, tensor);
    return shape;
  });
  const [[experts, r, inFeatures], [experts2, outFeatures, r2]] = shapes;
  if (shapes.some(({ length }) => length !== 3) || experts !== experts2 || r !== r2)
    throw rangeError(
      operation,
      `adapters: ${quote(path)}: expected a [E,r,in] and b [E,out,r], got [${shapes[0]}] and [${shapes[1]}]`,
    );
  return { inFeatures, outFeatures, experts };
}

/** What the file will be read as must be what it is written from. */
function checkRead(
  operation: string,
  adapters: ReadonlyMap<string, PeftAdapter>,
  tensors: ReadonlyMap<string, WritableTensor>,
  config: LoraConfig,
  parameters: Modules,
): void {
  const stored = new Map<string, StoredTensor>();
  for (const [key, value] of tensors) {
    const { kind, shape } = plannedTensor(operation, key, value);
    stored.set(key, { data: value.data, shape, dtype: kind.dtype } as unknown as StoredTensor);
  }
  const modules = parameters.size > 0 ? withOthers(adapters, parameters) : undefined;
  const read = new AdapterReader(operation, 'adapters', config, modules).read(stored);
  for (const [path, adapter] of adapters) {
    const twin = read.get(path);
    const where = `adapters: ${quote(path)}`;
    if (twin?.kind !== adapter.kind)
      throw rangeError(
        operation,
        `${where}: a file with this config holds it as ${twin?.kind ?? 'none'}`,
      );
    if (adapter.kind === 'saved' || twin.kind === 'saved') continue;
    if (!(Math.abs(twin.scale - adapter.scale) <= 1e-6 * Math.abs(twin.scale)))
      throw rangeError(
        operation,
        `${where}: scale: expected ${twin.scale} by the config's lora_alpha, r and patterns, got ${adapter.scale}`,
      );
  }
}

/** Parameters need their modules to be read; the other modules are then said too. */
function withOthers(adapters: ReadonlyMap<string, PeftAdapter>, parameters: Modules): Modules {
  const modules = new Map(parameters);
  for (const [path, adapter] of adapters)
    if (adapter.kind === 'linear' || adapter.kind === 'embedding')
      modules.set(path, {
        inFeatures: adapter.a.shape[1],
        outFeatures: adapter.b.shape[0],
        kind: adapter.kind,
      });
  return modules;
}
