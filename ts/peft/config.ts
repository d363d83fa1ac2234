// What adapter_config.json says of a module: whether it is adapted, its rank and its scale, as PEFT matches names.
import { rangeError } from '../errors';
import { ConfigReader, checkSupported, type FailKey, type PeftConfig } from './configKeys';
import { quote } from './json';
import { Subject } from './match';
import { captures, type Pattern, parsePattern } from './pattern';

/** Names that need no pattern: a full stop stands for any character. */
const PLAIN = /^[A-Za-z0-9_.]+$/;
const ALL_LINEAR = 'all-linear';

/** A regular expression, or names. */
type Names = string | ReadonlySet<string>;

function namesOf(value: string | string[] | undefined): Names | undefined {
  return Array.isArray(value) ? new Set(value) : value;
}

/** Whether one of the names is the end of the module's behind a full stop. */
function endsIn(names: ReadonlySet<string>, module: string): boolean {
  for (let dot = module.indexOf('.'); dot >= 0; dot = module.indexOf('.', dot + 1))
    if (names.has(module.slice(dot + 1))) return true;
  return false;
}

/** A configuration that has been checked. @internal */
export class LoraConfig {
  readonly dora: boolean;
  readonly loraBias: boolean;
  readonly bias: 'none' | 'all' | 'lora_only';
  readonly fanInFanOut: boolean;
  readonly modulesToSave: readonly string[];
  readonly targetParameters: readonly string[];
  readonly #rank: number;
  readonly #alpha: number;
  readonly #rslora: boolean;
  readonly #ranks: [string, number][];
  readonly #alphas: [string, number][];
  readonly #targets: Names | undefined;
  readonly #excluded: Names | undefined;
  readonly #layers: number[] | undefined;
  readonly #layersPatterns: Pattern[] | undefined;
  readonly #patterns = new Map<string, Pattern>();
  /** Ranks that have been looked up. */
  readonly #known = new Map<string, number>();
  readonly #fail: FailKey;

  /** @throws RangeError that names `where` and the key */
  constructor(operation: string, where: string, config: PeftConfig, ignore: readonly string[]) {
    const fail: FailKey = (key, what) => {
      throw rangeError(operation, `${where}: ${key}: ${what}`);
    };
    this.#fail = fail;
    checkSupported(config, ignore, fail);
    const read = new ConfigReader(config, fail);
    this.dora = read.boolean('use_dora');
    this.loraBias = read.boolean('lora_bias');
    this.bias = read.bias();
    this.fanInFanOut = read.boolean('fan_in_fan_out');
    this.modulesToSave = read.strings('modules_to_save') ?? [];
    this.targetParameters = read.strings('target_parameters') ?? [];
    this.#rank = read.rank('r', 8);
    this.#alpha = read.number('lora_alpha', 8);
    this.#rslora = read.boolean('use_rslora');
    this.#ranks = read.numbers('rank_pattern', 'rank');
    this.#alphas = read.numbers('alpha_pattern', 'number');
    this.#targets = namesOf(read.stringOrStrings('target_modules'));
    this.#excluded = namesOf(read.stringOrStrings('exclude_modules'));
    this.#layers = read.integers('layers_to_transform');
    this.#layersPatterns = this.#readLayersPatterns(read.stringOrStrings('layers_pattern'));
    if (typeof this.#targets === 'string' && this.#layers)
      fail('layers_to_transform', 'expected none beside target_modules that are no list');
    for (const parameter of this.targetParameters)
      if (parameter === '') fail('target_parameters', 'expected names, got an empty one');
    this.#parseAll();
  }

  /** So that a pattern that cannot be read is an error whatever the modules are. */
  #parseAll(): void {
    if (typeof this.#targets === 'string' && !this.allLinear)
      this.#pattern('target_modules', this.#targets);
    if (typeof this.#excluded === 'string' && this.#excluded)
      this.#pattern('exclude_modules', this.#excluded);
    for (const [name] of this.#ranks) this.#pattern('rank_pattern', name);
    for (const [name] of this.#alphas) this.#pattern('alpha_pattern', name);
    for (const name of this.modulesToSave) this.#saved(name);
  }

  #pattern(key: string, text: string): Pattern {
    let pattern = this.#patterns.get(text);
    if (!pattern) {
      pattern = parsePattern(text, (what) =>
        this.#fail(key, `${quote(text)}: ${what} (regular expressions are Python's)`),
      );
      this.#patterns.set(text, pattern);
    }
    return pattern;
  }

  #saved(name: string): Pattern {
    return this.#pattern('modules_to_save', `(^|.*\\.)${name}($|\\..*)`);
  }

  #subject(key: string, module: string): Subject {
    return new Subject(module, () =>
      this.#fail(key, `takes too long on ${quote(module)}: a simpler pattern is needed`),
    );
  }

  #readLayersPatterns(value: string | string[] | undefined): Pattern[] | undefined {
    const texts = typeof value === 'string' ? [value] : (value ?? []);
    const key = 'layers_pattern';
    if (value === '' || texts.length === 0) return undefined;
    if (!this.#layers) this.#fail(key, 'expected layers_to_transform beside it');
    return texts.map((text) => {
      const pattern = this.#pattern(key, text);
      // PEFT puts it between other parts, unbracketed, and takes the first group for the layer.
      if (pattern.kind === 'either' || captures(pattern))
        this.#fail(key, `expected a pattern without '|' and groups of its own, got ${quote(text)}`);
      return pattern;
    });
  }

  get allLinear(): boolean {
    return typeof this.#targets === 'string' && this.#targets.toLowerCase() === ALL_LINEAR;
  }

  /** Whether modules are named: those of `all-linear` and of an absent target_modules depend on the base model. */
  get namesTargets(): boolean {
    return this.#targets !== undefined && !this.allLinear;
  }

  /** Whether a module is adapted; what nothing here can tell counts as adapted. */
  targets(module: string): boolean {
    if (this.#excludes(module)) return false;
    const targets = this.#targets;
    if (targets === undefined) return this.targetParameters.length === 0;
    if (this.allLinear) return true;
    if (typeof targets === 'string')
      return this.#subject('target_modules', module).fits(this.#pattern('target_modules', targets));
    return targets.has(module) || (endsIn(targets, module) && this.#inLayers(module));
  }

  #excludes(module: string): boolean {
    const excluded = this.#excluded;
    if (typeof excluded === 'string') {
      const subject = this.#subject('exclude_modules', module);
      if (excluded && subject.fits(this.#pattern('exclude_modules', excluded))) return true;
    } else if (excluded && (excluded.has(module) || endsIn(excluded, module))) {
      return true;
    }
    const subject = this.#subject('modules_to_save', module);
    return this.modulesToSave.some((name) => subject.begins(this.#saved(name)));
  }

  #inLayers(module: string): boolean {
    if (!this.#layers || this.#layers.length === 0) return true;
    const layer = this.#layersPatterns
      ? this.#layerByPattern(module, this.#layersPatterns)
      : /^.*?\.[^.]*\.(\d+)\./.exec(module)?.[1];
    return layer !== undefined && this.#layers.includes(Number(layer));
  }

  /** The number behind the first place that fits, as `.*?\.PATTERN\.(\d+)\.` finds it. */
  #layerByPattern(module: string, patterns: readonly Pattern[]): string | undefined {
    const subject = this.#subject('layers_pattern', module);
    const chars = [...module];
    for (const pattern of patterns)
      for (let start = 0; start < chars.length; start++) {
        if (chars[start] !== '.') continue;
        const found = new Set<string>();
        for (const end of subject.endsFrom(pattern, start + 1)) {
          const layer = /^\.(\d+)\./.exec(chars.slice(end).join(''))?.[1];
          if (layer !== undefined) found.add(layer);
        }
        if (found.size > 1)
          this.#fail('layers_pattern', `finds more than one layer in ${quote(module)}`);
        for (const layer of found) return layer;
      }
    return undefined;
  }

  /** The targeted parameters of a module that these names could mean, the last part of each. */
  parametersOf(module: string): string[] {
    const names = this.targetParameters.flatMap((target) => {
      const dot = target.lastIndexOf('.');
      const owner = target.slice(0, Math.max(dot, 0));
      const fits = owner === '' || module === owner || module.endsWith(`.${owner}`);
      return fits ? [target.slice(dot + 1)] : [];
    });
    return [...new Set(names)];
  }

  /** r of a module. */
  rank(module: string): number {
    let rank = this.#known.get(module);
    if (rank === undefined) {
      rank = this.#lookUp('rank_pattern', this.#ranks, module) ?? this.#rank;
      this.#known.set(module, rank);
    }
    return rank;
  }

  /** What a module's `B A` is multiplied by: alpha / r, or alpha / sqrt(r) with use_rslora. */
  scale(module: string): number {
    const alpha = this.#lookUp('alpha_pattern', this.#alphas, module) ?? this.#alpha;
    const rank = this.rank(module);
    return alpha / (this.#rslora ? Math.sqrt(rank) : rank);
  }

  /** The value of the first pattern that fits the module's name or its end behind a full stop. */
  #lookUp(key: string, values: [string, number][], module: string): number | undefined {
    let subject: Subject | undefined;
    for (const [name, value] of values) {
      if (PLAIN.test(name) && PLAIN.test(module)) {
        if (endsLike(module, name)) return value;
      } else {
        subject ??= this.#subject(key, module);
        if (subject.endsWith(this.#pattern(key, name))) return value;
      }
    }
    return undefined;
  }
}

function endsLike(module: string, name: string): boolean {
  const start = module.length - name.length;
  if (start < 0 || (start > 0 && module[start - 1] !== '.')) return false;
  for (let i = 0; i < name.length; i++)
    if (name[i] !== '.' && name[i] !== module[start + i]) return false;
  return true;
}
