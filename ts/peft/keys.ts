// Names of tensors in adapter_model.safetensors: base_model.model.<module>.<part>.

/** @internal */
export const PREFIX = 'base_model.model.';
/** What wraps a module's own tensors once it is adapted. */
const WRAPPED = '.base_layer';

/** The parts of an adapter, by the names that files give them. @internal */
export type Part =
  | 'lora_A.weight'
  | 'lora_B.weight'
  | 'lora_B.bias'
  | 'lora_embedding_A'
  | 'lora_embedding_B'
  | 'lora_magnitude_vector';

/** @internal */
export interface AdapterKey {
  /** Its owner, with a `.base_layer` for each further parameter of one module. */
  owner: string;
  part: Part;
  /** The adapter's name, which older files hold. */
  adapter?: string;
}

const FORMS: [RegExp, (found: RegExpExecArray) => [Part, string | undefined]][] = [
  [/^(.+)\.lora_A(?:\.([^.]+))?\.weight$/, ([, , name]) => ['lora_A.weight', name]],
  [/^(.+)\.lora_B(?:\.([^.]+))?\.weight$/, ([, , name]) => ['lora_B.weight', name]],
  [/^(.+)\.lora_B(?:\.([^.]+))?\.bias$/, ([, , name]) => ['lora_B.bias', name]],
  [/^(.+)\.lora_embedding_A(?:\.([^.]+))?$/, ([, , name]) => ['lora_embedding_A', name]],
  [/^(.+)\.lora_embedding_B(?:\.([^.]+))?$/, ([, , name]) => ['lora_embedding_B', name]],
  [
    /^(.+)\.lora_magnitude_vector(?:\.(?!weight$)([^.]+))?(?:\.weight)?$/,
    ([, , name]) => ['lora_magnitude_vector', name],
  ],
];

/** A key behind the prefix, where it is an adapter's. @internal */
export function parseAdapterKey(text: string): AdapterKey | undefined {
  for (const [form, read] of FORMS) {
    const found = form.exec(text);
    if (!found) continue;
    const [part, adapter] = read(found);
    return { owner: found[1], part, adapter };
  }
  return undefined;
}

/** Whether a key that is none of the known ones would be of an adapter all the same. @internal */
export function looksAdapted(text: string): boolean {
  return /(^|\.)lora_[^.]*(\.|$)/.test(text);
}

/** @internal */
export function adapterKey(owner: string, part: Part): string {
  return `${PREFIX}${owner}.${part}`;
}

/** A module's name and how often it is wrapped. @internal */
export function unwrap(owner: string): { module: string; depth: number } {
  let module = owner;
  let depth = 0;
  for (; module.endsWith(WRAPPED); depth++) module = module.slice(0, -WRAPPED.length);
  return { module, depth };
}

/** @internal */
export function wrap(module: string, depth: number): string {
  return module + WRAPPED.repeat(depth);
}

/** Names that embeddings go by, which are saved whole where tokens were added. */
const EMBEDDINGS = /(^|\.)(embed_tokens|lm_head)$/;

/** @internal */
export function isEmbeddingName(module: string): boolean {
  return EMBEDDINGS.test(module);
}

/**
 * Splits a key of a tensor that replaces one of the base model, behind the prefix, into the module that `owns` accepts
 * and the tensor's name in it: the shortest such module. Older files name the wrapper or the adapter in between.
 * @internal
 */
export function splitSaved(
  text: string,
  owns: (module: string, tensor: string) => boolean,
): { module: string; tensor: string } | undefined {
  const plain = text
    .replace(/\.base_layer\.(?=[^.]+$)/, '.')
    .replace(/\.modules_to_save\.default\./, '.')
    .replace(/\.modules_to_save\./, '.');
  for (let dot = plain.indexOf('.'); dot > 0; dot = plain.indexOf('.', dot + 1)) {
    const module = plain.slice(0, dot);
    const tensor = plain.slice(dot + 1);
    if (tensor !== '' && owns(module, tensor)) return { module, tensor };
  }
  return undefined;
}
