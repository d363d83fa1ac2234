// The keys of adapter_config.json: what they must hold, and which change the result in ways that are not supported.
import { quote } from './json';

/** `adapter_config.json` of a LoRA adapter. Keys that only matter for training may stand beside these. */
export interface PeftConfig {
  peft_type?: string;
  r?: number;
  lora_alpha?: number;
  use_rslora?: boolean;
  use_dora?: boolean;
  /** Names, a regular expression in Python's syntax, or `'all-linear'`. */
  target_modules?: string | string[] | null;
  exclude_modules?: string | string[] | null;
  /** Ranks of modules that do not have rank `r`, by name or regular expression. */
  rank_pattern?: Record<string, number> | null;
  /** The same for `lora_alpha`. */
  alpha_pattern?: Record<string, number> | null;
  /** How the base model stores its weights; the factors are `[r,in]` and `[out,r]` either way. */
  fan_in_fan_out?: boolean;
  lora_bias?: boolean;
  bias?: 'none' | 'all' | 'lora_only';
  modules_to_save?: string[] | null;
  layers_to_transform?: number | number[] | null;
  layers_pattern?: string | string[] | null;
  target_parameters?: string[] | null;
  init_lora_weights?: boolean | string;
  [key: string]: unknown;
}

/** Says what is wrong with a key of the configuration. @internal */
export type FailKey = (key: string, what: string) => never;

/** Read elsewhere, or without a part in what an adapter computes once it is trained. */
const KNOWN = new Set([
  'peft_type',
  'r',
  'lora_alpha',
  'use_rslora',
  'use_dora',
  'target_modules',
  'exclude_modules',
  'rank_pattern',
  'alpha_pattern',
  'fan_in_fan_out',
  'lora_bias',
  'bias',
  'modules_to_save',
  'layers_to_transform',
  'layers_pattern',
  'target_parameters',
  'init_lora_weights',
  'task_type',
  'auto_mapping',
  'peft_version',
  'base_model_name_or_path',
  'revision',
  'inference_mode',
  'lora_dropout',
  'loftq_config',
  'eva_config',
  'corda_config',
  'lora_ga_config',
  'velora_config',
  'qalora_group_size', // only with use_qalora
  'megatron_core', // only with megatron_config
  'runtime_config',
  'ensure_weight_tying', // files hold the tied tensors too
  'unsloth_fixed',
]);

/** Why a key is refused where it is on. */
const UNSUPPORTED: Record<string, string> = {
  use_qalora: 'quantisation-aware LoRA pools its inputs',
  use_bdlora: 'block-diagonal factors',
  alora_invocation_tokens: 'activated LoRA depends on the tokens before',
  arrow_config: 'Arrow routes between adapters by itself',
  kasa_config: 'KaSA changes the weights of the base model',
  monteclora_config: 'MonteCLoRA samples its weights',
  layer_replication: 'it builds another base model',
  megatron_config: 'tensor-parallel layers',
  trainable_token_indices: 'single rows of an embedding',
};

/** These subtract what the adapter begins with from the base model, whenever one is made from the configuration. */
const CHANGES_BASE = /^(pissa.*|corda|olora|loftq|lora_ga)$/;

function isOff(value: unknown): boolean {
  if (value === null || value === undefined || value === false || value === '') return true;
  return typeof value === 'object' && Object.keys(value).length === 0;
}

/** Refuses what would change the result silently; keys in `ignore` are the caller's to answer for. @internal */
export function checkSupported(config: PeftConfig, ignore: readonly string[], fail: FailKey): void {
  const { peft_type: type, init_lora_weights: init } = config;
  if (type !== 'LORA') fail('peft_type', `expected 'LORA', got ${JSON.stringify(type) ?? 'none'}`);
  for (const [key, value] of Object.entries(config)) {
    if (KNOWN.has(key) || isOff(value) || ignore.includes(key)) continue;
    if (Object.hasOwn(UNSUPPORTED, key)) fail(key, `is not supported: ${UNSUPPORTED[key]}`);
    fail(
      key,
      'is not known here and may change the result; ignoring it is up to you (the option ignore)',
    );
  }
  if (typeof init === 'string' && CHANGES_BASE.test(init) && !ignore.includes('init_lora_weights'))
    fail(
      'init_lora_weights',
      `${quote(init)} is not supported: it changes the weights of the base model. Save the adapter as plain LoRA ` +
        '(path_initial_model_for_weight_conversion), or ignore the key where the base model is the changed one',
    );
}

/** Values by key, of the types that they must have; null counts as absent. @internal */
export class ConfigReader {
  constructor(
    private readonly config: PeftConfig,
    private readonly fail: FailKey,
  ) {}

  #get(key: string): unknown {
    return Object.hasOwn(this.config, key) ? (this.config[key] ?? undefined) : undefined;
  }

  boolean(key: string): boolean {
    const value = this.#get(key) ?? false;
    if (typeof value !== 'boolean') this.#wrong(key, 'true or false', value);
    return value;
  }

  number(key: string, fallback: number): number {
    return this.#number(key, this.#get(key) ?? fallback);
  }

  rank(key: string, fallback: number): number {
    return this.#rank(key, this.#get(key) ?? fallback);
  }

  #number(key: string, value: unknown): number {
    if (typeof value !== 'number' || !Number.isFinite(value)) this.#wrong(key, 'a number', value);
    return value;
  }

  #rank(key: string, value: unknown): number {
    if (!Number.isSafeInteger(value) || (value as number) <= 0)
      this.#wrong(key, 'a positive integer', value);
    return value as number;
  }

  strings(key: string): string[] | undefined {
    const value = this.#get(key);
    if (value === undefined) return undefined;
    if (!Array.isArray(value) || !value.every((x) => typeof x === 'string'))
      this.#wrong(key, 'a list of names', value);
    return value;
  }

  stringOrStrings(key: string): string | string[] | undefined {
    const value = this.#get(key);
    return typeof value === 'string' ? value : this.strings(key);
  }

  /** A number, or a list of them. */
  integers(key: string): number[] | undefined {
    const value = this.#get(key);
    if (value === undefined) return undefined;
    const list = Array.isArray(value) ? value : [value];
    for (const x of list) if (!Number.isSafeInteger(x)) this.#wrong(key, 'integers', x);
    return list;
  }

  numbers(key: string, kind: 'rank' | 'number'): [string, number][] {
    const value = this.#get(key) ?? {};
    if (typeof value !== 'object' || value === null || Array.isArray(value))
      this.#wrong(key, 'numbers by name', value);
    const entries = Object.entries(value);
    // The first that fits counts, and objects hold such names before all others.
    const number = entries.length > 1 && entries.find(([name]) => /^(0|[1-9]\d*)$/.test(name));
    if (number) this.fail(key, `expected names, got ${quote(number[0])}, whose place is not known`);
    return entries.map(([name, x]) => {
      const at = `${key}[${quote(name)}]`;
      return [name, kind === 'rank' ? this.#rank(at, x) : this.#number(at, x)];
    });
  }

  bias(): 'none' | 'all' | 'lora_only' {
    const value = this.#get('bias') ?? 'none';
    if (value !== 'none' && value !== 'all' && value !== 'lora_only')
      this.#wrong('bias', "'none', 'all' or 'lora_only'", value);
    return value;
  }

  #wrong(key: string, expected: string, got: unknown): never {
    this.fail(key, `expected ${expected}, got ${JSON.stringify(got)?.slice(0, 80)}`);
  }
}
